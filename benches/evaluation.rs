//! What an evaluation costs beyond the forward passes it needs: `cargo xtask bench --bench evaluation`.

use std::path::Path;
use std::time::Instant;

use burn::prelude::*;
use dtr_eval::batch::batches;
use dtr_eval::efficiency::median;
use dtr_eval::task::{JsonLines, JsonLinesConfig};
use dtr_eval::{Question, Reader, Split, Task, evaluate, parts};
use dtr_models::{Decoder, checkpoint};
use rayon::prelude::*;
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Cpu = burn_flex::Flex;

/// Tokens of a batch, as an evaluation makes them.
const BATCH_TOKENS: usize = 4096;

/// Measurements of which the medians count.
const REPETITIONS: usize = 5;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let directory = root.join("assets/models/tiny-qwen3");
    let (config, model) = checkpoint::load::<Cpu>(&directory, &Default::default()).expect("the bundled parent");
    let reader = Reader::load(&directory, &config).expect("its tokenizer");
    let examples = root.join("tests/golden/lm_eval/choices.jsonl");
    let task: JsonLinesConfig = serde_json::from_value(json!({
        "files": { "split": { "test": [examples] } },
        "id": "id",
        "prompt": "{context}",
        "delimiter": "",
        "answer": { "choices": { "texts": ["{options}"], "right": "{answer}", "normalise": "characters" } },
        "too-long": "refuse",
    }))
    .expect("a task");
    let open = || JsonLines::open("choices", &task, &[], &reader).expect("a task");
    let (questions, metric) = (open().questions("choices", Split::Test, usize::MAX), open().metric());
    let parts = parts(&questions, &metric);
    let (mut bare, mut scored, mut read) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        read.push(seconds(|| drop(open())));
        // In turns, part by part: what else the machine does meets both.
        let (mut forward_seconds, mut scored_seconds) = (0.0, 0.0);
        for part in &parts {
            let part = &questions[part.clone()];
            forward_seconds += seconds(|| forward(&model, part));
            scored_seconds += seconds(|| drop(evaluate(&model, part, &metric, &Default::default())));
        }
        bare.push(forward_seconds);
        scored.push(scored_seconds);
    }
    let [bare, scored, read] = [bare, scored, read].map(median);
    let tokens: usize = questions.iter().map(Question::tokens).sum();
    println!("{} questions, {tokens} tokens; medians of {REPETITIONS}", questions.len());
    println!("forward passes alone              {bare:.3} s");
    println!("evaluation                        {scored:.3} s, {:+.1} %", 100.0 * (scored / bare - 1.0));
    println!("and reading and tokenising them   {read:.3} s, {:+.1} % in all", 100.0 * ((scored + read) / bare - 1.0));
}

fn seconds(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64()
}

/// All sequences through all layers and the head where answers are predicted, sorted by length, nothing made of them.
fn forward(model: &Decoder<Cpu>, questions: &[Question]) {
    let device = Default::default();
    let sequences: Vec<_> = questions.iter().flat_map(|question| &question.answers).collect();
    batches::<Cpu>(&sequences, BATCH_TOKENS, &device).into_par_iter().for_each(|batch| {
        let rows = batch.ids.dims()[0];
        let hidden = model.forward(batch.ids, batch.positions, &mut model.empty_state(rows));
        let [rows, time, width] = hidden.dims();
        let predicting: Tensor<Cpu, 3> = hidden.reshape([rows * time, width]).select(0, batch.predicting).unsqueeze();
        let _ = model.head(predicting).into_data();
    });
}
