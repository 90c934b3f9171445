//! What an evaluation costs beyond the forward passes it needs, and what it saves by reading the prompt of several choices once:
//! `cargo xtask bench --bench evaluation`.

use std::path::Path;
use std::time::Instant;

use burn::prelude::*;
use dtr_eval::batch::batches;
use dtr_eval::efficiency::median;
use dtr_eval::task::{JsonLines, JsonLinesConfig};
use dtr_eval::{BATCH_TOKENS, Question, Reader, Split, Task, evaluate, parts};
use dtr_models::{Decoder, checkpoint};
use rayon::prelude::*;
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Cpu = burn_flex::Flex;

/// Examples in front of a question: short prompts and long ones.
const SHOTS: [usize; 2] = [0, 4];

/// Questions of four choices.
const QUESTIONS: usize = 64;

/// Measurements of which the medians count.
const REPETITIONS: usize = 3;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let directory = root.join("assets/models/tiny-qwen3");
    let (config, model) = checkpoint::load::<Cpu>(&directory, &Default::default()).expect("the bundled parent");
    let reader = Reader::load(&directory, &config).expect("its tokenizer");
    for shots in SHOTS {
        measure(&root, shots, &model, &reader);
    }
}

fn measure(root: &Path, shots: usize, model: &Decoder<Cpu>, reader: &Reader) {
    let file = |name: &str| [root.join("tests/golden/lm_eval").join(name)];
    let task: JsonLinesConfig = serde_json::from_value(json!({
        "files": { "split": { "training": file("shots.jsonl"), "test": file("choices.jsonl") } },
        "id": "id",
        "prompt": "{context}",
        "delimiter": "",
        "answer": { "choices": { "texts": ["{options}"], "right": "{answer}", "normalise": "characters" } },
        "few-shot": (shots > 0).then(|| json!({ "examples": shots, "separator": "\n\n" })),
        "too-long": "refuse",
    }))
    .expect("a task");
    let open = || JsonLines::open("choices", &task, &[], reader).expect("a task");
    let (questions, metric) = (open().questions("choices", Split::Test, QUESTIONS), open().metric());
    let parts = parts(&questions, &metric);
    let (mut apart, mut bare, mut scored, mut read) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        read.push(seconds(|| drop(open())));
        // In turns, part by part: what else the machine does meets all.
        let (mut apart_seconds, mut bare_seconds, mut scored_seconds) = (0.0, 0.0, 0.0);
        for part in &parts {
            let part = &questions[part.clone()];
            apart_seconds += seconds(|| forward(model, part, false));
            bare_seconds += seconds(|| forward(model, part, true));
            scored_seconds += seconds(|| drop(evaluate(model, part, &metric, BATCH_TOKENS, &Default::default())));
        }
        apart.push(apart_seconds);
        bare.push(bare_seconds);
        scored.push(scored_seconds);
    }
    let [apart, bare, scored, read] = [apart, bare, scored, read].map(median);
    let tokens: usize = questions.iter().map(Question::tokens).sum();
    println!("{} questions behind {shots} examples, {tokens} tokens; medians of {REPETITIONS}", questions.len());
    println!("forward passes, every choice from its beginning   {apart:.3} s");
    println!("forward passes, prompts read once                 {bare:.3} s, {:.2} times as fast", apart / bare);
    println!("evaluation                                        {scored:.3} s, {:+.1} %", 100.0 * (scored / bare - 1.0));
    println!("and reading and tokenising them                   {read:.3} s, {:+.1} % in all", 100.0 * ((scored + read) / bare - 1.0));
}

fn seconds(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64()
}

/// All sequences through all layers and the head where answers are predicted, sorted by length, nothing made of them.
fn forward(model: &Decoder<Cpu>, questions: &[Question], prompts_once: bool) {
    let device = Default::default();
    batches::<Cpu>(questions, |_| prompts_once, BATCH_TOKENS, &device).into_par_iter().for_each(|batch| {
        let mut states = match batch.prompts {
            None => model.empty_state(batch.ids.dims()[0]),
            Some(prompts) => {
                let mut states = model.empty_state(prompts.ids.dims()[0]);
                model.forward(prompts.ids, prompts.positions, &mut states);
                states.iter().map(|state| state.select(&prompts.continued)).collect()
            }
        };
        let hidden = model.forward(batch.ids, batch.positions, &mut states);
        let [rows, time, width] = hidden.dims();
        let predicting: Tensor<Cpu, 3> = hidden.reshape([rows * time, width]).select(0, batch.predicting).unsqueeze();
        let _ = model.head(predicting).into_data();
    });
}
