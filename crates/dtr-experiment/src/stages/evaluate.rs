//! A model directory on tasks: questions part by part, results of each question in a file, taken up where they were left.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dtr_attention::MixerBackend;
use dtr_eval::{BATCH_TOKENS, Metric, Question, Reader, Reply, Split, evaluate as score, parts};
use dtr_models::{Decoder, checkpoint};
use serde::{Deserialize, Serialize};

use super::in_memory;
use super::objective::finite;
use super::prepare::{identity, task_key, tasks};
use crate::error::Error;
use crate::run_dir::{Units, lock};
use crate::schema::{Compute, Task, key};
use crate::{atomic, terminal};

/// Storing takes one in so many seconds, at most.
const STORING: u32 = 50;

/// What is to be scored.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Directory of a model, a parent or a hybrid.
    pub model: PathBuf,
    /// Tasks by name.
    pub tasks: BTreeMap<String, Task>,
    /// Their split.
    pub split: Split,
    /// Where the results of each question are kept, if anywhere.
    pub out: Option<PathBuf>,
    /// Where and in what it is computed.
    pub compute: Compute,
    /// No progress on the terminal.
    pub quiet: bool,
}

/// How a model did on one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// Task's name.
    pub task: String,
    /// Name of its metric.
    pub metric: String,
    /// Name of the split.
    pub split: String,
    /// Questions put.
    pub examples: usize,
    /// Questions whose prompts were cut to the model's context.
    pub truncated: usize,
    /// Mean score, higher is better.
    pub score: f64,
    /// Of that mean.
    pub standard_error: f64,
    /// Mean cross-entropy of right answers in nats.
    pub loss: f64,
    /// Of all labelled tokens of right answers.
    pub perplexity: f64,
}

/// A line of results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Line {
    id: String,
    score: f32,
    loss: f32,
    /// Of each answer; `null` for what is no number.
    log_likelihoods: Vec<Option<f32>>,
    greedy: Vec<bool>,
    right: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// Scores a model on tasks; what is stored of an earlier start is not scored again.
///
/// # Errors
/// If the model or a task cannot be read, a task has no examples, or the results stored are of something else.
pub fn evaluate<B: MixerBackend>(evaluation: &Evaluation, device: &B::Device) -> Result<Vec<Evaluated>, Error> {
    in_memory(evaluation.compute, evaluation.quiet, |pieces| evaluated::<B>(evaluation, BATCH_TOKENS / pieces, device))
}

fn evaluated<B: MixerBackend>(evaluation: &Evaluation, batch_tokens: usize, device: &B::Device) -> Result<Vec<Evaluated>, Error> {
    let (config, model) = checkpoint::load_in::<B>(&evaluation.model, evaluation.compute.dtype.into(), device)?;
    let made = tasks(&evaluation.tasks, |_| 0, &Reader::load(&evaluation.model, &config)?)?;
    let _lock = match &evaluation.out {
        Some(out) => {
            std::fs::create_dir_all(out).map_err(|source| Error::Io { action: "create the directory", path: out.clone(), source })?;
            let lock = lock(&out.join(".lock"), out)?;
            // Of what is below, others may be writing.
            atomic::remove_temporaries(out, false)?;
            Some(lock)
        }
        None => None,
    };
    let model_key = identity(&evaluation.model)?;
    let mut all = Vec::new();
    for (name, task) in &evaluation.tasks {
        let count = if evaluation.split == Split::Test { task.test } else { task.validation };
        let split = evaluation.split.name();
        let made = made[name].as_ref();
        let questions = made.questions(name, evaluation.split, count);
        if questions.is_empty() {
            return Err(Error::NoExamples { task: name.clone(), split });
        }
        let depends_on = key(&(&model_key, task_key(&task.kind, made), split, count, evaluation.compute.to_string()));
        let store = evaluation.out.as_ref().map(|out| Store::open(out, name, depends_on)).transpose()?;
        let lines = answers(&model, &questions, &made.metric(), store.as_ref(), (name, evaluation.quiet), batch_tokens, device)?;
        let found = Evaluated {
            task: name.clone(),
            metric: made.metric().name().into(),
            split: split.into(),
            examples: questions.len(),
            truncated: made.truncated(evaluation.split),
            ..summary(&questions, &lines)
        };
        if let Some(store) = &store {
            store.finish(&found)?;
        }
        all.push(found);
    }
    Ok(all)
}

/// One line a question, those stored and those that are new.
fn answers<B: MixerBackend>(
    model: &Decoder<B>,
    questions: &[Question],
    metric: &Metric,
    store: Option<&Store>,
    (name, quiet): (&str, bool),
    batch_tokens: usize,
    device: &B::Device,
) -> Result<Vec<Line>, Error> {
    let mut lines = store.map_or(Ok(Vec::new()), |store| store.lines(questions))?;
    let bar = terminal::Progress::new(quiet).stage(name, questions.iter().map(Question::tokens).sum::<usize>() as u64, "tokens");
    let (mut stored, mut took) = (Instant::now(), Duration::ZERO);
    for part in parts(questions, metric) {
        let some = &questions[part.clone()];
        if part.end > lines.len() {
            lines.truncate(part.start);
            let replies = score(model, some, metric, batch_tokens, device);
            lines.extend(some.iter().zip(replies).map(|(question, reply)| line(question, reply)));
            // All lines are written each time: the more there are, the more seldom.
            if let Some(store) = store.filter(|_| part.end == questions.len() || stored.elapsed() >= STORING * took) {
                let began = Instant::now();
                store.write(&lines)?;
                (stored, took) = (Instant::now(), began.elapsed());
            }
        }
        bar.inc(some.iter().map(Question::tokens).sum::<usize>() as u64);
    }
    bar.finish();
    Ok(lines)
}

fn line(question: &Question, reply: Reply) -> Line {
    let score = finite(reply.score);
    let number = |value: f32| value.is_finite().then_some(value);
    Line {
        id: question.id.clone(),
        score: score.score,
        loss: score.loss,
        log_likelihoods: reply.log_likelihoods.into_iter().map(number).collect(),
        greedy: reply.greedy,
        right: question.right,
        text: reply.text,
    }
}

/// Means over questions; of perplexity, over tokens.
fn summary(questions: &[Question], lines: &[Line]) -> Evaluated {
    let count = lines.len() as f64;
    let mean = |of: fn(&Line) -> f32| lines.iter().map(|line| f64::from(of(line))).sum::<f64>() / count;
    let score = mean(|line| line.score);
    let variance = lines.iter().map(|line| (f64::from(line.score) - score).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    // A document that is looked for is one choice.
    let labelled = |question: &Question| question.example().labelled.len().max(1) as f64;
    let nats: f64 = questions.iter().zip(lines).map(|(question, line)| labelled(question) * f64::from(line.loss)).sum();
    let tokens: f64 = questions.iter().map(labelled).sum();
    Evaluated {
        task: String::new(),
        metric: String::new(),
        split: String::new(),
        examples: 0,
        truncated: 0,
        score,
        standard_error: (variance / count).sqrt(),
        loss: mean(|line| line.loss),
        perplexity: (nats / tokens).exp(),
    }
}

/// Where the results of one task are kept: `<task>.jsonl`, and `<task>.json` with what they depend on.
struct Store {
    units: Units,
    name: String,
    path: PathBuf,
    key: String,
}

impl Store {
    /// # Errors
    /// If there are results of another model, task or device.
    fn open(out: &Path, name: &str, key: String) -> Result<Self, Error> {
        let (units, path) = (Units::new(out.into()), out.join(format!("{name}.jsonl")));
        let store = Self { units, name: format!("{name}.json"), path, key };
        if store.units.load::<Option<Evaluated>>(&store.name, &store.key)?.is_none() {
            if store.path.exists() || out.join(&store.name).exists() {
                return Err(Error::OtherResults { path: store.path });
            }
            store.units.save(&store.name, &store.key, &None::<Evaluated>)?;
        }
        Ok(store)
    }

    /// Results there are, as far as they are those of `questions`.
    fn lines(&self, questions: &[Question]) -> Result<Vec<Line>, Error> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(Error::Io { action: "read", path: self.path.clone(), source }),
        };
        let lines = text.lines().map_while(|line| serde_json::from_str::<Line>(line).ok());
        Ok(lines.zip(questions).take_while(|(line, question)| line.id == question.id).map(|(line, _)| line).collect())
    }

    fn write(&self, lines: &[Line]) -> Result<(), Error> {
        let mut text = String::new();
        for line in lines {
            let line = serde_json::to_string(line).map_err(|source| Error::Unstorable { path: self.path.clone(), source })?;
            let _ = writeln!(text, "{line}");
        }
        atomic::write(&self.path, text.as_bytes())
    }

    fn finish(&self, found: &Evaluated) -> Result<(), Error> {
        self.units.save(&self.name, &self.key, &Some(found))
    }
}
