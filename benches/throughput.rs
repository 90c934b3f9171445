//! What distillation, search and hybrids of published shapes do on a device, with random weights: speed does not depend on what weights say.
//!
//!     cargo xtask bench --bench throughput
//!     cargo xtask bench --bench throughput --no-default-features --features cuda,autotune -- --device cuda --dtype bf16 --shapes qwen2.5-1.5b,llama-3.2-3b
//!
//! Printed and written as JSON: tokens a second through the parent and the students of all its layers; questions a second as a search puts them;
//! prefill and decode of the parent, of a hybrid with a quarter of its layers full, and of one without any, over context length; and the
//! gated delta rule alone, of which `benches/pytorch/throughput.py` measures the peers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use burn::prelude::*;
use burn::tensor::{Distribution, FloatDType};
use clap::Parser;
use dtr_attention::recurrence::{Inputs, empty_state, scan};
use dtr_attention::{TrainBackend, norm};
use dtr_distill::initialise::Initialise;
use dtr_distill::schedule::Schedule;
use dtr_distill::trainer::Rows;
use dtr_distill::{Loss, Optimiser, Row, Settings, Snapshots, train};
use dtr_eval::efficiency::{measure, median, order};
use dtr_eval::task::{Example, Metric, Question};
use dtr_eval::{BATCH_TOKENS, evaluate, random};
use dtr_experiment::backend::{Work, dispatch, memory};
use dtr_experiment::schema::{Compute, Device, Precision};
use dtr_models::layers::cast;
use dtr_models::{Decoder, DecoderConfig, MixerConfig};
use mimalloc::MiMalloc;
use rand::Rng;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const DELTA: MixerConfig = MixerConfig::GatedDelta { convolution: 4, rotary: false };

/// Repetitions of which medians count, interleaved.
const REPETITIONS: usize = 3;

/// Throughput of random models of published shapes.
#[derive(Parser)]
struct Cli {
    /// As experiments name it.
    #[arg(long, default_value = "flex")]
    device: String,
    /// What weights are held in.
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// tiny, qwen2.5-1.5b, llama-3.2-3b.
    #[arg(long, value_delimiter = ',', default_value = "tiny")]
    shapes: Vec<String>,
    /// Tokens of context.
    #[arg(long, value_delimiter = ',', default_value = "512,2048")]
    contexts: Vec<usize>,
    /// Steps of distillation, of 4 rows.
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Tokens of a row and of a question.
    #[arg(long, default_value_t = 512)]
    length: usize,
    /// Tokens that the gated delta rule alone is measured over, with a batch of 4 and 32 heads of width 128; none by default.
    #[arg(long, value_delimiter = ',')]
    recurrence: Vec<usize>,
    /// Where the figures go.
    #[arg(long, default_value = "throughput.json")]
    output: PathBuf,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// `config.json` of a published model as far as speed depends on it.
fn shape(name: &str) -> Option<Value> {
    Some(match name {
        "tiny" => json!({
            "model_type": "llama", "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "tie_word_embeddings": true,
        }),
        "qwen2.5-1.5b" => json!({
            "model_type": "qwen2", "vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
            "num_attention_heads": 12, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": true,
        }),
        "llama-3.2-3b" => json!({
            "model_type": "llama", "vocab_size": 128_256, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
            "num_attention_heads": 24, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 5e5, "tie_word_embeddings": true,
            "rope_scaling": {
                "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            },
        }),
        _ => return None,
    })
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(&cli) {
        Ok(figures) => {
            let text = serde_json::to_string_pretty(&figures).expect("figures are JSON");
            if let Err(error) = std::fs::write(&cli.output, text) {
                eprintln!("error: cannot write {}: {error}", cli.output.display());
                return ExitCode::FAILURE;
            }
            println!("all figures: {}", cli.output.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: &Cli) -> Result<Value, String> {
    let device = cli.device.parse::<Device>().map_err(|grammar| format!("\"{}\" is no device: expected {grammar}", cli.device))?;
    let dtype = cli.dtype.parse::<Precision>()?;
    let shapes = cli.shapes.iter().map(|name| {
        let json = shape(name).ok_or_else(|| format!("no shape \"{name}\": expected tiny, qwen2.5-1.5b or llama-3.2-3b"))?;
        Ok((name.clone(), DecoderConfig::from_json(&json).map_err(|error| error.to_string())?))
    });
    let shapes = shapes.collect::<Result<Vec<_>, String>>()?;
    dispatch(Compute { device, dtype }, Study { cli, shapes, dtype: dtype.into() }).map_err(|error| error.to_string())
}

struct Study<'a> {
    cli: &'a Cli,
    shapes: Vec<(String, DecoderConfig)>,
    dtype: FloatDType,
}

impl Work for Study<'_> {
    type Output = Value;

    fn run<B: TrainBackend>(self, device: B::Device) -> Value {
        let mut figures = json!({ "device": self.cli.device, "dtype": self.cli.dtype });
        for &tokens in &self.cli.recurrence {
            figures["gated delta rule"][tokens.to_string()] =
                said(tokens, "gated delta rule, forward", "ms", || recurrence::<B::InnerBackend>(tokens, self.dtype, &device));
        }
        for (name, config) in &self.shapes {
            println!("{name}");
            figures[name]["distillation, tokens/s"] =
                said(self.cli.length, "distillation", "tokens/s", || self.distil::<B>(config, &device));
            figures[name]["search, questions/s"] =
                said(self.cli.length, "search", "questions/s", || self.questions::<B::InnerBackend>(config, &device));
            figures[name]["hybrids"] = self.hybrids::<B::InnerBackend>(config, &device);
        }
        figures
    }
}

/// A figure, printed; what the driver says where memory does not suffice.
fn said(length: usize, what: &str, unit: &str, work: impl FnOnce() -> f64) -> Value {
    match memory::within(work) {
        Ok(figure) => {
            println!("  {what}, {length} tokens: {figure:.2} {unit}");
            json!(figure)
        }
        Err(reason) => {
            println!("  {what}, {length} tokens: does not fit ({reason})");
            json!(reason)
        }
    }
}

fn tokens(config: &DecoderConfig, length: usize, purpose: &str) -> Vec<u32> {
    let mut random = random::stream(purpose);
    (0..length).map(|_| random.random_range(0..config.vocabulary as u32)).collect()
}

impl Study<'_> {
    fn model<B: dtr_attention::MixerBackend>(&self, config: &DecoderConfig, device: &B::Device) -> Decoder<B> {
        cast(Decoder::new(config, device), self.dtype)
    }

    /// Tokens a second through the parent and one gated-delta student a layer.
    fn distil<B: TrainBackend>(&self, config: &DecoderConfig, device: &B::Device) -> f64 {
        let parent = self.model::<B::InnerBackend>(config, device);
        let batch =
            |n: usize| -> Vec<Row> { (0..4).map(|row| Row::plain(tokens(config, self.cli.length, &format!("{n}/{row}")))).collect() };
        let settings = Settings {
            operators: vec![DELTA],
            loss: Loss::NormalisedMse,
            steps: self.cli.steps,
            accumulate: 1,
            optimiser: Optimiser::AdamW,
            learning_rates: vec![1e-3],
            warmup: 0.0,
            schedule: Schedule::Cosine,
            weight_decay: 0.0,
            patience: None,
        };
        let directory = std::env::temp_dir().join(format!("dtr-throughput-{}", std::process::id()));
        let snapshots = Snapshots::new(directory, String::new(), Duration::MAX);
        let rows = Rows { calibration: vec![batch(0)], held_out: vec![batch(1)], training: &mut |n| Ok(batch(n + 2)) };
        let parts = ((&parent, config), (&settings, &Initialise::COPY), (&snapshots, None));
        train::<B>(parts.0, parts.1, rows, parts.2, std::slice::from_ref(device), &mut |_| ()).expect("students").tokens_per_second
    }

    /// Questions a second that a search puts to a model: here of one answer at the end of a text.
    fn questions<B: dtr_attention::MixerBackend>(&self, config: &DecoderConfig, device: &B::Device) -> f64 {
        let model = self.model::<B>(config, device);
        let question = |n: usize| {
            let labelled = vec![self.cli.length - 1];
            Question::single(n.to_string(), Example { tokens: tokens(config, self.cli.length, &n.to_string()), labelled, class: None })
        };
        let questions: Vec<Question> = (0..32).map(question).collect();
        let pass = || {
            let began = Instant::now();
            drop(evaluate(&model, &questions, &Metric::ExactMatch, BATCH_TOKENS, device));
            questions.len() as f64 / began.elapsed().as_secs_f64()
        };
        pass();
        median((0..REPETITIONS).map(|_| pass()).collect())
    }

    /// Prefill and decode in tokens a second and bytes of keys, values and states, by context and layout.
    fn hybrids<B: dtr_attention::MixerBackend>(&self, config: &DecoderConfig, device: &B::Device) -> Value {
        let mut all = Vec::new();
        for (name, full) in [("full", 1), ("quarter", 4), ("linear", usize::MAX)] {
            let mut hybrid = config.clone();
            for (layer, mixer) in hybrid.mixers.iter_mut().enumerate() {
                if (layer + 1) % full != 0 {
                    *mixer = DELTA;
                }
            }
            all.push((name, self.model::<B>(&hybrid, device)));
        }
        let mut figures = json!({});
        let mut lost: BTreeMap<&str, String> = BTreeMap::new();
        for &context in &self.cli.contexts {
            let mut samples: BTreeMap<&str, Vec<[f64; 3]>> = BTreeMap::new();
            for repetition in 0..=REPETITIONS {
                for at in order(all.len(), repetition) {
                    let (name, model) = &all[at];
                    if lost.contains_key(name) {
                        continue;
                    }
                    match memory::within(|| measure(model, context, 64, config.vocabulary, device)) {
                        // The first time compiles and tunes.
                        Ok(_) if repetition == 0 => {}
                        Ok(sample) => samples.entry(name).or_default().push([
                            context as f64 / sample.prefill_seconds,
                            64.0 / sample.decode_seconds.expect("a decoder"),
                            sample.cache_bytes as f64,
                        ]),
                        Err(reason) => {
                            println!("  {name}, {context} tokens: does not fit ({reason})");
                            lost.insert(name, reason);
                        }
                    }
                }
            }
            for (name, samples) in samples {
                let of = |which: usize| median(samples.iter().map(|sample| sample[which]).collect());
                let (prefill, decode, bytes) = (of(0), of(1), of(2));
                println!(
                    "  {name}, {context} tokens: prefill {prefill:.0}, decode {decode:.1} tokens/s, states {:.1} MiB",
                    bytes / f64::from(1 << 20)
                );
                figures[name][context.to_string()] = json!({ "prefill": prefill, "decode": decode, "bytes": bytes });
            }
        }
        figures
    }
}

/// Milliseconds of the gated delta rule over `[4, 32, tokens, 128]`.
fn recurrence<B: dtr_attention::MixerBackend>(tokens: usize, dtype: FloatDType, device: &B::Device) -> f64 {
    let random = |width: usize| Tensor::<B, 4>::random([4, 32, tokens, width], Distribution::Normal(0.0, 1.0), device);
    let inputs = Inputs::new(random(128).cast(dtype), norm::unit(random(128), 1.0, 1e-6).cast(dtype), random(128).cast(dtype))
        .fading(random(1).abs().mul_scalar(-0.1))
        .correcting(Tensor::random([4, 32, tokens], Distribution::Uniform(0.0, 1.0), device));
    let pass = || {
        let began = Instant::now();
        let output = scan(inputs.clone(), empty_state([4, 32, 128, 128], device)).0;
        let _ = output.slice([0..1, 0..1, tokens - 1..tokens, 0..1]).into_data();
        1000.0 * began.elapsed().as_secs_f64()
    };
    pass();
    median((0..10).map(|_| pass()).collect())
}
