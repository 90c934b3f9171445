//! What a run will do, need and take, without doing it: from shapes alone. Weights are not read; where there are some, their headers are checked.

use std::hint::black_box;
use std::time::{Duration, Instant};

use burn::prelude::*;
use burn::tensor::Distribution;
use dtr_attention::MixerBackend;
use dtr_eval::{Question, Reader, Split};
use dtr_models::checkpoint::{self, TOKENIZER};
use dtr_models::config::Head;
use dtr_models::{DecoderConfig, MixerConfig};

use super::fits;
use super::objective::{asked, asked_count};
use super::prepare::{letter, operators, require_parent, texts};
use crate::error::Error;
use crate::hub::{self, Wanted};
use crate::schema::{Experiment, Towards};

/// Bytes of a number in memory.
const FLOAT: usize = 4;
/// Time of a whole step as a multiple of that of its matrix products: what they take is half of it or less (docs/LOG.md).
const BESIDE_PRODUCTS: f64 = 2.0;
/// Tensors of the width of all heads that a backward pass of a student holds, about.
const HELD_BY_STUDENT: usize = 30;
/// Tensors of that width that a linear mixer holds of a prompt it reads, about.
const HELD_BY_LINEAR: usize = 20;
/// Tokens of a batch of questions, about.
const SCORED: usize = 4096;
/// Tensors of the width of the residual stream that a pass of a block holds, about, beside three of the MLP's.
const HELD_BY_BLOCK: usize = 6;
/// Rows of a product that is measured, at most: more are no faster.
const MEASURED_ROWS: usize = 512;
/// How long products are measured.
const MEASURED: Duration = Duration::from_millis(200);

/// What a run will do, without doing it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// `model_type` and number of layers of the parent.
    pub parent: String,
    /// Number of weights.
    pub parameters: usize,
    /// Whether weights are there: then their names, shapes and types are those of the configuration.
    pub has_weights: bool,
    /// Whether there is a tokenizer: then tasks and corpora were read.
    pub has_tokenizer: bool,
    /// Students to train.
    pub students: usize,
    /// Weights of all students.
    pub student_parameters: usize,
    /// Tokens of distillation, whole steps.
    pub tokens: usize,
    /// Layouts scored by one task's search, at most.
    pub evaluations: usize,
    /// Tokens that one task's search trains on, at most: where every layer is replaced.
    pub retrained: usize,
    /// Bytes of memory, about.
    pub memory: Memory,
    /// Time, about.
    pub seconds: Seconds,
    /// Multiply-adds a second in products of this parent's shape, as measured now.
    pub products_per_second: f64,
}

/// Bytes of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Weights of the parent.
    pub weights: usize,
    /// Weights of all students.
    pub students: usize,
    /// Moments and gradients while they train.
    pub optimiser: usize,
    /// What passes of parent and students hold while students train.
    pub training: usize,
    /// Hidden states that layouts share in a search, and a pass over a batch.
    pub shared: usize,
    /// Keys and values, and what a pass holds, at the longest context that is measured.
    pub longest: usize,
}

impl Memory {
    /// The most that is held at once: training, searching and measuring come one after the other.
    pub fn most(&self) -> usize {
        self.weights + self.students + (self.optimiser + self.training).max(self.shared).max(self.longest)
    }
}

/// Seconds of each stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seconds {
    /// Distillation.
    pub distill: f64,
    /// Searches of all tasks, at most: where every layer is replaced and every layout scored on every example.
    pub search: f64,
    /// Measurement of speed.
    pub efficiency: f64,
}

/// Checks everything a run checks before its first step, as far as it is there, and says what it would do.
///
/// # Errors
/// As the run would.
pub fn plan<B: MixerBackend>(experiment: &Experiment, device: &B::Device) -> Result<Plan, Error> {
    let directory = hub::directory(experiment.parent(), Wanted::Configuration)?;
    let config = checkpoint::load_config(&directory)?;
    require_parent(&directory, &config)?;
    fits::check(experiment, &config)?;
    let has_weights = checkpoint::has_weights(&directory);
    if has_weights {
        checkpoint::check::<B>(&directory, device)?;
    }
    let has_tokenizer = directory.join(TOKENIZER).exists();
    let questions = if has_tokenizer { questions(experiment, &Reader::load(&directory, &config)?, &config)? } else { assumed(experiment) };
    let layers = config.layers();
    for name in &experiment.search().tasks {
        let settings = super::search::settings(experiment, vec![(letter(&operators(experiment)[0]), 0.0); layers]);
        settings.check(asked_count(experiment, name)).map_err(|error| Error::of_search(name, error))?;
    }
    let shapes = Shapes::of::<B>(experiment, &config, device);
    let products_per_second = rate::<B>(experiment.distill().batch().min(MEASURED_ROWS), &config, device);
    Ok(Plan {
        parent: format!("{}, {layers} layers", config.model_type),
        parameters: shapes.parameters,
        has_weights,
        has_tokenizer,
        students: layers * experiment.operators().len(),
        student_parameters: shapes.students,
        tokens: shapes.tokens,
        evaluations: shapes.evaluations,
        retrained: shapes.refits + shapes.recovery,
        memory: shapes.memory(experiment, &questions),
        seconds: shapes.seconds(experiment, &questions, products_per_second, rate::<B>(1, &config, device)),
        products_per_second,
    })
}

/// Tokens of all questions of one searched task.
struct Asked {
    /// Of those that layouts are chosen and confirmed by.
    validation: usize,
    test: usize,
}

fn questions(experiment: &Experiment, reader: &Reader, config: &DecoderConfig) -> Result<Vec<Asked>, Error> {
    let texts = texts(experiment, reader, config)?;
    let of_task = |name: &String| {
        let task = &experiment.tasks()[name];
        let of = texts.tasks[name].as_ref();
        let tokens = |questions: Vec<Question>| questions.iter().map(Question::tokens).sum();
        Asked { validation: tokens(asked(experiment, name, of)), test: tokens(of.questions(name, Split::Test, task.test)) }
    };
    Ok(experiment.search().tasks.iter().map(of_task).collect())
}

/// Questions as long as the rows that students learn from: without a tokenizer nothing better is known.
fn assumed(experiment: &Experiment) -> Vec<Asked> {
    let length = experiment.distill().length;
    let of_task = |name: &String| {
        let task = &experiment.tasks()[name];
        Asked { validation: asked_count(experiment, name) * length, test: task.test * length }
    };
    experiment.search().tasks.iter().map(of_task).collect()
}

/// Numbers that memory and time follow from.
struct Shapes {
    layers: usize,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    key_values: usize,
    parameters: usize,
    embeddings: usize,
    students: usize,
    tokens: usize,
    evaluations: usize,
    /// Tokens of all refits of one search.
    refits: usize,
    /// Tokens of a recovery.
    recovery: usize,
}

impl Shapes {
    fn of<B: Backend>(experiment: &Experiment, config: &DecoderConfig, device: &B::Device) -> Self {
        let (attention, distill, layers) = (&config.attention, experiment.distill(), config.layers());
        let student = |operator: &MixerConfig| checkpoint::parameters::<B, _>(&operator.init::<B>(attention, device));
        let search = experiment.search();
        let whole = |tokens: usize| super::refit::steps(experiment, tokens) * distill.batch();
        Self {
            layers,
            hidden: attention.hidden,
            intermediate: config.intermediate,
            heads: attention.heads * attention.head_dim,
            key_values: 2 * attention.kv_heads * attention.head_dim,
            parameters: checkpoint::parameters::<B, _>(&dtr_models::Decoder::<B>::new(config, device)),
            embeddings: config.vocabulary * attention.hidden * if config.head == Head::Own { 2 } else { 1 },
            students: operators(experiment).iter().map(|operator| layers * student(operator)).sum(),
            tokens: super::distill::steps(experiment) * distill.accumulate * distill.batch(),
            refits: search.refit.as_ref().map_or(0, |refit| layers / refit.every * whole(refit.tokens)),
            recovery: search.recovery.as_ref().map_or(0, |recovery| whole(recovery.tokens)),
            evaluations: search.strategy.layouts(layers, experiment.operators().len()),
        }
    }

    fn memory(&self, experiment: &Experiment, questions: &[Asked]) -> Memory {
        let (distill, threads) = (experiment.distill(), rayon::current_num_threads().min(self.layers));
        let pass = FLOAT * (HELD_BY_BLOCK * self.hidden + 3 * self.intermediate);
        // Of one token, in a model with linear mixers and in one that keeps keys and values.
        let (linear, full) = (pass + FLOAT * HELD_BY_LINEAR * self.heads, pass + FLOAT * self.layers * self.key_values);
        let batch = distill.batch();
        let longest = experiment.efficiency().contexts.iter().copied().max().unwrap_or(0);
        let most = questions.iter().map(|asked| asked.validation.max(asked.test)).max().unwrap_or(0);
        Memory {
            weights: FLOAT * self.parameters,
            students: FLOAT * self.students,
            // Two moments of every weight, gradients of as many students as there are threads.
            optimiser: FLOAT * (2 * self.students + self.students / self.layers * threads),
            training: batch * (pass + threads * FLOAT * HELD_BY_STUDENT * self.heads),
            shared: SCORED * linear + (FLOAT * most * self.hidden * self.layers * self.evaluations).min(super::objective::CACHE_BYTES),
            longest: longest * linear.max(full),
        }
    }

    /// Multiply-adds of a pass over one token behind `context` others, the head apart.
    fn pass(&self, context: f64) -> f64 {
        (self.parameters - self.embeddings) as f64 + self.layers as f64 * 2.0 * self.heads as f64 * context
    }

    fn seconds(&self, experiment: &Experiment, questions: &[Asked], rate: f64, rate_of_one: f64) -> Seconds {
        let length = experiment.distill().length as f64;
        // A backward pass has twice the products of a forward pass.
        let trained = self.tokens as f64 * (self.pass(length / 2.0) + 3.0 * self.students as f64);
        // What stands in front of a swapped layer is not computed again: half of the layers, on average.
        // Tested are the parent, what the search ends with, and the baselines.
        let tested = 5 + experiment.search().random_layouts;
        let scored = |asked: &Asked| (self.evaluations * asked.validation) as f64 / 2.0 + (tested * asked.test) as f64;
        let searched: f64 = questions.iter().map(scored).sum::<f64>() * self.pass(length / 2.0);
        // A pass of the parent, one of the hybrid, and backwards: through each student alone or through the whole hybrid.
        let together = 4.0 * self.pass(length / 2.0);
        let refit = match experiment.search().refit.as_ref().map(|refit| refit.towards) {
            Some(Towards::Outputs) => 2.0 * self.pass(length / 2.0) + 3.0 * self.students as f64,
            Some(Towards::Answers) | None => together,
        };
        let retrained = questions.len() as f64 * (self.refits as f64 * refit + self.recovery as f64 * together);
        let settings = experiment.efficiency();
        let models = (2 + experiment.operators().len()) as f64;
        let measured = |&context: &usize| {
            let context = context as f64;
            context * self.pass(context / 2.0) / rate + settings.decode_tokens as f64 * self.pass(context) / rate_of_one
        };
        let measured: f64 = settings.contexts.iter().map(measured).sum();
        Seconds {
            distill: BESIDE_PRODUCTS * trained / rate,
            search: BESIDE_PRODUCTS * (searched + retrained) / rate,
            efficiency: BESIDE_PRODUCTS * models * settings.repetitions as f64 * measured,
        }
    }
}

/// Multiply-adds a second of a product of `rows` rows with a matrix of the MLP, at best.
fn rate<B: Backend>(rows: usize, config: &DecoderConfig, device: &B::Device) -> f64 {
    let (input, output) = (config.attention.hidden, config.intermediate);
    let matrix = |shape| Tensor::<B, 2>::random(shape, Distribution::Uniform(-1.0, 1.0), device);
    let (x, weight) = (matrix([rows, input]), matrix([input, output]));
    let product = || {
        // Read back, so that a device that works in the background has done it.
        black_box(x.clone().matmul(weight.clone()).sum().into_scalar());
    };
    product();
    // The fastest counts: other work on the machine only slows.
    let (began, mut fastest) = (Instant::now(), f64::INFINITY);
    while began.elapsed() < MEASURED {
        let started = Instant::now();
        product();
        fastest = started.elapsed().as_secs_f64().min(fastest);
    }
    (rows * input * output) as f64 / fastest
}
