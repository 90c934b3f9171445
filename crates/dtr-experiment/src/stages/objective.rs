//! What the search asks of a task: layouts scored on its examples, and measured where a budget says so. Every answer is kept in
//! the run directory and found again.

use std::ops::Range;
use std::time::Instant;

use burn::prelude::Backend;
use dtr_attention::MixerBackend;
use dtr_eval::efficiency::{measure, median};
use dtr_eval::{BATCH_TOKENS, Question, Score, Scorer, Split, Task};
use dtr_models::Decoder;
use dtr_search::{Evaluation, Example, Layout, Objective, Operator, Racing};
use serde::{Deserialize, Serialize};

use super::generations::Generations;
use super::prepare::{Bank, Parent, task_key};
use crate::error::Error;
use crate::run_dir::RunDir;
use crate::schema::{Experiment, Goal, Limit, key};

/// Memory for the hidden states that layouts share.
pub(super) const CACHE_BYTES: usize = 1 << 30;

/// Students of one search: those it began with, and those refitted since.
pub(super) type Banks<B> = Vec<Bank<B>>;

/// Makes new students for a hybrid from its bank; they are of the generation of this number.
pub(super) type Refit<'a, B> = &'a mut dyn FnMut(&Layout, &Bank<B>, usize) -> Result<Bank<B>, Error>;

/// Scores layouts on one split of a task.
pub(super) struct TaskObjective<'a, B: Backend> {
    experiment: &'a Experiment,
    parent: &'a Parent<B>,
    directory: &'a RunDir,
    device: &'a B::Device,
    task: &'a str,
    split: Split,
    key: String,
    scorer: Scorer<B>,
    examples: usize,
    /// Students by generation.
    pub banks: Banks<B>,
    pub generations: Generations,
    base: Layout,
    refit: Option<Refit<'a, B>>,
    /// What putting the examples in order took, until it is booked.
    preparation: Option<Arrangement>,
}

/// Which of the examples that choose comes when, and what it took to find out.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Arrangement {
    order: Vec<usize>,
    full_evaluation_equivalents: f64,
    seconds: f64,
}

/// Examples in the order of what the parent loses on them, the worst first. Its hybrids fail on the same ones: put to these first,
/// a candidate soon shows that it cannot win. What is decided does not depend on the order.
fn hardest_first(directory: &RunDir, (place, key): (&str, &str), parent: impl FnOnce() -> (Vec<Score>, f64)) -> Result<Arrangement, Error> {
    if let Some(found) = directory.load_unit(place, key)? {
        return Ok(found);
    }
    let began = Instant::now();
    let (scores, full_evaluation_equivalents) = parent();
    let scores: Vec<Example> = scores.into_iter().map(finite).collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].score.total_cmp(&scores[b].score).then(scores[b].loss.total_cmp(&scores[a].loss)));
    let found = Arrangement { order, full_evaluation_equivalents, seconds: began.elapsed().as_secs_f64() };
    directory.save_unit(place, key, &found)?;
    Ok(found)
}

impl<'a, B: MixerBackend> TaskObjective<'a, B> {
    /// `parts` are the ranges of examples that are asked for from their beginning; each batch is put in so many pieces.
    pub fn new(
        (experiment, directory, pieces): (&'a Experiment, &'a RunDir, usize),
        (parent, bank): (&'a Parent<B>, &Bank<B>),
        (name, task): (&'a str, &dyn Task),
        split: Split,
        parts: impl FnOnce(usize) -> Vec<Range<usize>>,
        device: &'a B::Device,
    ) -> Result<Self, Error> {
        let sizes = &experiment.tasks()[name];
        let mut questions = match split {
            Split::Validation => asked(experiment, name, task),
            _ => task.questions(name, split, sizes.test),
        };
        let count = questions.len();
        let examples: Vec<&dtr_eval::Example> = questions.iter().map(dtr_eval::Question::example).collect();
        let labels = examples.first().is_some_and(|example| example.told().count() > 0);
        let answer = |example: &dtr_eval::Example| -> Vec<u32> { example.told().map(|(_, told)| told).collect() };
        if labels && examples.len() > 1 && examples.windows(2).all(|pair| answer(pair[0]) == answer(pair[1])) {
            return Err(Error::OneAnswer { task: name.into(), split: split.name(), examples: examples.len() });
        }
        let base = Layout::parent(parent.config.layers());
        let parts = parts(count);
        let choosing = parts.first().map_or(count, |part| part.end);
        let metric = task.metric();
        let scorer = |questions: &[Question]| {
            let whole = Scorer::new(questions, &parts, metric.clone(), (&parent.model, &path(&base, 0)), CACHE_BYTES, device);
            whole.in_batches_of(BATCH_TOKENS / pieces)
        };
        let races = split == Split::Validation && experiment.search().racing == Racing::Exact;
        let identity = (&parent.identity, name, task_key(&sizes.kind, task), count, &parts, experiment.compute().to_string(), races);
        let key = key(&identity);
        let mut preparation = None;
        if races {
            let found = hardest_first(directory, (&order_unit(name), &key), || {
                scorer(&questions).score(&parent.model, &path(&base, 0), 0..choosing)
            })?;
            let first: Vec<Question> = found.order.iter().map(|&index| questions[index].clone()).collect();
            questions.splice(0..choosing, first);
            preparation = Some(found);
        }
        Ok(Self {
            scorer: scorer(&questions),
            key,
            experiment,
            parent,
            directory,
            device,
            task: name,
            split,
            examples: count,
            banks: vec![bank.clone()],
            generations: Generations::default(),
            base,
            refit: None,
            preparation,
        })
    }

    /// The same, with students made anew as the search goes on.
    pub fn with_refit(mut self, refit: Refit<'a, B>) -> Self {
        self.refit = Some(refit);
        self
    }

    /// Scores a layout with the students of a generation.
    pub fn evaluate_in(&mut self, generation: usize, layout: &Layout, examples: Range<usize>) -> Result<Evaluation, Error> {
        self.scorer.favour(&path(&self.base, generation));
        let place = unit(self.task, self.split, &generation.to_string(), layout, &examples);
        let identity = key(&(&self.key, &self.banks[generation].identity));
        let model = |objective: &Self| objective.parent.hybrid(layout, &objective.banks[generation]).1;
        self.evaluate_model((&place, &identity), model, &path(layout, generation), examples)
    }

    /// Scores a recovered hybrid, which shares no layer with any other.
    pub fn evaluate_recovered(
        &mut self,
        model: &Decoder<B>,
        identity: &str,
        layout: &Layout,
        examples: Range<usize>,
    ) -> Result<Evaluation, Error> {
        let place = unit(self.task, self.split, "recovered", layout, &examples);
        let identity = key(&(&self.key, identity));
        let path = vec![u64::MAX; layout.layers()];
        self.evaluate_model((&place, &identity), |_| model.clone(), &path, examples)
    }

    fn evaluate_model(
        &mut self,
        (place, key): (&str, &str),
        model: impl FnOnce(&Self) -> Decoder<B>,
        path: &[u64],
        examples: Range<usize>,
    ) -> Result<Evaluation, Error> {
        if let Some(evaluation) = self.directory.load_unit(place, key)? {
            self.preparation = None;
            self.scorer.skip(path, examples);
            return Ok(evaluation);
        }
        let began = Instant::now();
        let model = model(self);
        let (scores, full_evaluation_equivalents) = self.scorer.score(&model, path, examples);
        let examples = scores.into_iter().map(finite).collect();
        let mut evaluation = Evaluation { examples, full_evaluation_equivalents, seconds: began.elapsed().as_secs_f64() };
        // The first evaluation is the parent's, of which this is a part.
        if let Some(arrangement) = self.preparation.take() {
            evaluation.full_evaluation_equivalents += arrangement.full_evaluation_equivalents;
            evaluation.seconds += arrangement.seconds;
        }
        self.directory.save_unit(place, key, &evaluation)?;
        Ok(evaluation)
    }

    /// Median of as many measurements as the experiment asks for elsewhere.
    fn measure(&self, layout: &Layout, goal: &Goal) -> f64 {
        let (Goal::CacheBytes(Limit { context, .. })
        | Goal::PrefillSeconds(Limit { context, .. })
        | Goal::DecodeSeconds(Limit { context, .. })) = goal
        else {
            return 0.0;
        };
        let model = self.parent.hybrid(layout, &self.banks[self.generations.of(layout)]).1;
        let settings = self.experiment.efficiency();
        let sample = || measure(&model, *context, settings.decode_tokens, self.parent.config.vocabulary, self.device);
        let samples: Vec<_> = (0..settings.repetitions).map(|_| sample()).collect();
        let of = samples.iter().map(|sample| match goal {
            Goal::PrefillSeconds(_) => sample.prefill_seconds,
            Goal::DecodeSeconds(_) => sample.decode_seconds.unwrap_or(0.0) / settings.decode_tokens as f64,
            _ => sample.cache_bytes as f64,
        });
        median(of.collect())
    }
}

/// An answer with a loss that is no number is a wrong one, and as bad as can be.
pub(super) fn finite(found: Score) -> Example {
    const WORST: f32 = 1e4;
    let bounded = |nats: f32| if nats.is_finite() { nats } else { WORST };
    let score = if found.loss.is_finite() { found.score } else { 0.0 };
    Example { score, loss: bounded(found.loss), divergence: bounded(found.divergence) }
}

/// Where an evaluation is stored.
pub(super) fn unit(task: &str, split: Split, generation: &str, layout: &Layout, examples: &Range<usize>) -> String {
    format!("search/{task}/{}/{generation}/{layout}/{}-{}.json", split.name(), examples.start, examples.end)
}

/// Questions of a search: those of the training split that choose, if any, and the validation split.
pub(super) fn asked(experiment: &Experiment, name: &str, task: &dyn Task) -> Vec<Question> {
    let mut questions = task.questions(name, Split::Training, experiment.search().acceptance.training());
    questions.extend(task.questions(name, Split::Validation, experiment.tasks()[name].validation));
    questions
}

/// How many they are.
pub(super) fn asked_count(experiment: &Experiment, name: &str) -> usize {
    experiment.search().acceptance.training() + experiment.tasks()[name].validation
}

/// Where the order of the examples that choose is stored.
fn order_unit(task: &str) -> String {
    format!("search/{task}/order.json")
}

/// Where it is stored how long a refit took.
pub(super) fn refit_unit(task: &str, generation: usize) -> String {
    format!("search/{task}/refit/{generation}.json")
}

/// Where the measured cost of a layout is stored.
pub(super) fn cost_unit(task: &str, layout: &Layout) -> String {
    format!("search/{task}/cost/{layout}.json")
}

/// What stands in each layer: students of another generation are others.
pub(super) fn path(layout: &Layout, generation: usize) -> Vec<u64> {
    let of = |operator: &Operator| match *operator {
        Operator::PARENT => 0,
        operator => 1 + generation as u64 * 128 + operator.letter() as u64,
    };
    layout.operators().iter().map(of).collect()
}

impl<B: MixerBackend> Objective for TaskObjective<'_, B> {
    type Error = Error;

    fn examples(&self) -> usize {
        self.examples
    }

    fn evaluate(&mut self, layout: &Layout, examples: Range<usize>) -> Result<Evaluation, Error> {
        self.evaluate_in(self.generations.of(layout), layout, examples)
    }

    fn cost(&mut self, layout: &Layout) -> Result<f64, Error> {
        let goal = &self.experiment.search().goal;
        let (place, key) = (cost_unit(self.task, layout), key(&(&self.key, goal, self.experiment.efficiency())));
        if let Some(cost) = self.directory.load_unit(&place, &key)? {
            return Ok(cost);
        }
        let cost = self.measure(layout, goal);
        self.directory.save_unit(&place, &key, &cost)?;
        Ok(cost)
    }

    fn refit(&mut self, layout: &Layout) -> Result<Option<f64>, Error> {
        if !self.generations.due(self.experiment, layout) {
            return Ok(None);
        }
        let Some(refit) = self.refit.take() else { return Ok(None) };
        let (made, before) = (self.generations.next(), self.generations.of(layout));
        let began = Instant::now();
        let bank = refit(layout, &self.banks[before], made);
        self.refit = Some(refit);
        self.banks.push(bank?);
        let (place, key) = (refit_unit(self.task, made), key(&(&self.key, &self.banks[made].identity)));
        // Students that an earlier start has made took the time they took there.
        let seconds = self.directory.load_unit(&place, &key)?.unwrap_or_else(|| began.elapsed().as_secs_f64());
        self.directory.save_unit(&place, &key, &seconds)?;
        self.generations.refitted(layout);
        Ok(Some(seconds))
    }

    fn unfit(&mut self, layout: &Layout) {
        self.generations.unfit(layout);
        // Its weights are of no use any more; its number is not given again.
        let bank = self.banks[self.generations.of(layout)].clone();
        self.banks.pop();
        self.banks.push(bank);
    }

    fn committed(&mut self, layout: &Layout) -> Result<bool, Error> {
        self.base = layout.clone();
        Ok(self.generations.committed(layout))
    }
}
