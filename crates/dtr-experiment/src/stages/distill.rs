//! The distillation stage: students that are there are kept, in whichever run they were made; the others are trained from one pass of
//! the parent.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use burn::prelude::{Backend, DeviceOps as _};
use burn::tensor::backend::{DeviceId, DeviceOps};
use dtr_attention::{MixerBackend, TrainBackend};
use dtr_distill::trainer::Rows;
use dtr_distill::{Progress, Row, Settings, Snapshots, StateCache, StudentBank};
use dtr_eval::task::row;
use dtr_eval::{BATCH_TOKENS, EvalError, Scorer, Split, random};
use dtr_models::MixerConfig;
use dtr_search::Layout;
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::objective::path;
use super::prepare::{Bank, Parent, letter, task_key};
use super::{Options, Run, Texts, in_memory};
use crate::error::Error;
use crate::events::Event;
use crate::run_dir::{RunDir, Units, lock};
use crate::schema::{Distill, Experiment, key};
use crate::{atomic, terminal};

/// Below the directory of runs, students of all of them.
const SHELVES: &str = ".students";

/// Work that a kill may lose.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(20);

/// What is stored beside a student's weights.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    normalised_mse: f64,
    tokens: usize,
    tokens_per_second: f64,
}

/// Whole optimiser steps in the tokens asked for.
pub(super) fn steps(experiment: &Experiment) -> usize {
    let distill = experiment.distill();
    distill.tokens / (distill.batch() * distill.accumulate)
}

/// What students are made from and where they are kept.
pub(super) struct Making<'a, B: TrainBackend> {
    pub experiment: &'a Experiment,
    pub parent: &'a Parent<B::InnerBackend>,
    pub texts: &'a Texts,
    pub operators: &'a [MixerConfig],
    pub runs: &'a Path,
    pub progress: terminal::Progress,
    /// Parts in which a batch goes through the device.
    pub pieces: usize,
    pub device: &'a B::Device,
}

/// The students of one operator, made once for all runs that ask for the same: `<runs>/.students/<operator>-<key>/`.
pub(super) struct Shelf {
    operator: MixerConfig,
    key: String,
    units: Units,
    files: StudentBank,
}

impl Shelf {
    fn record(&self, layer: usize) -> Result<Option<Record>, Error> {
        self.units.load(&format!("layer-{layer:02}.json"), &self.key)
    }

    fn complete(&self, layers: usize) -> Result<bool, Error> {
        for layer in 0..layers {
            if !self.files.contains(layer, &self.operator) || self.record(layer)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl<B: TrainBackend> Making<'_, B> {
    fn shelf(&self, operator: &MixerConfig) -> Shelf {
        let key = student_key(self.experiment, self.parent, self.texts, operator);
        let directory = self.runs.join(SHELVES).join(format!("{}-{key}", operator.name()));
        Shelf { operator: operator.clone(), key, units: Units::new(directory.clone()), files: StudentBank::new(directory) }
    }

    /// All students, trained as far as they are missing.
    pub fn shelves(&self, emit: &mut dyn FnMut(Event) -> Result<(), Error>) -> Result<Vec<Shelf>, Error> {
        let shelves: Vec<Shelf> = self.operators.iter().map(|operator| self.shelf(operator)).collect();
        let all = key(&shelves.iter().map(|shelf| &shelf.key).collect::<Vec<_>>());
        let root = self.runs.join(SHELVES);
        fs::create_dir_all(&root).map_err(|source| Error::Io { action: "create the directory", path: root.clone(), source })?;
        let _lock = lock(&root.join(format!(".lock-{all}")), &root)?;
        let layers = self.parent.config.layers();
        let mut wanted = Vec::new();
        for shelf in &shelves {
            if !shelf.complete(layers)? {
                wanted.push(shelf);
            }
        }
        if !wanted.is_empty() {
            let wanted_key = key(&wanted.iter().map(|shelf| &shelf.key).collect::<Vec<_>>());
            let snapshots = Snapshots::new(root.join(format!("training-{wanted_key}")), wanted_key, SNAPSHOT_EVERY);
            self.train(&wanted, &snapshots, emit)?;
            snapshots.clear()?;
        }
        Ok(shelves)
    }

    fn train(&self, wanted: &[&Shelf], snapshots: &Snapshots, emit: &mut dyn FnMut(Event) -> Result<(), Error>) -> Result<(), Error> {
        let distill = self.experiment.distill();
        for shelf in wanted {
            let directory = shelf.units.root();
            fs::create_dir_all(directory).map_err(|source| Error::Io { action: "create the directory", path: directory.into(), source })?;
            atomic::remove_temporaries(directory, true)?;
        }
        let pieces = self.pieces.min(distill.rows);
        let settings = Settings {
            operators: wanted.iter().map(|shelf| shelf.operator.clone()).collect(),
            loss: distill.loss,
            steps: steps(self.experiment),
            accumulate: distill.accumulate * pieces,
            optimiser: distill.optimiser,
            learning_rates: wanted.iter().map(|shelf| distill.rate(shelf.operator.name())).collect(),
            warmup: distill.warmup,
            schedule: distill.schedule,
            weight_decay: distill.weight_decay as f32,
            patience: distill.patience,
        };
        let draw = |what: &str, n: usize| drawn(self.experiment, self.texts, &Drawn::of(distill), what, piece(n, pieces, distill.rows));
        let closed_form = (distill.calibration_tokens / distill.batch()).max(1) * pieces;
        let several = |what: &str| (0..closed_form).map(|n| draw(what, n)).collect::<Result<Vec<_>, _>>();
        let rows = Rows { calibration: several("calibration")?, held_out: several("held-out")?, training: &mut |n| Ok(draw("step", n)?) };
        let cache = match distill.cache_bytes {
            Some(limit) if limit > 0 => {
                let directory = self.runs.join(SHELVES).join(format!("states-{}", self.parent.identity));
                Some(StateCache::open(directory, &self.parent.identity, limit)?)
            }
            _ => None,
        };
        let first = self.device.id();
        let device = |index| B::Device::from_id(DeviceId { index_id: first.index_id + index, ..first });
        let mut devices = vec![self.device.clone()];
        devices.extend((1..distill.devices.unwrap_or(1)).map(|index| device(index as u16)));
        let total = settings.steps * distill.accumulate * distill.batch();
        let bar = self.progress.stage("distilling", total as u64, "tokens");
        let mut emitted = Ok(());
        let outcome = dtr_distill::train::<B>(
            (&self.parent.model, &self.parent.config),
            (&settings, &distill.initialise),
            rows,
            (snapshots, cache.as_ref()),
            &devices,
            &mut |progress| {
                match progress {
                Progress::Step { tokens } => bar.set(tokens as u64),
                Progress::Losses { operator, tokens, losses } if losses.iter().all(|loss| loss.is_finite()) => {
                    let event = Event::Distilling { operator: operator.name().into(), tokens, normalised_mse: losses };
                    if emitted.is_ok() {
                        emitted = emit(event);
                    }
                }
                Progress::Losses { .. } => {}
                Progress::Refused { operator, layer, tokens, loss } => bar.warn(&format!(
                    "the {} student of layer {layer} left out a step with a loss of {loss} before {tokens} tokens and goes on more slowly for a while",
                    operator.name()
                )),
                Progress::Done { operator, layer, tokens } => {
                    bar.message(&format!("the {} student of layer {layer} is done after {tokens} tokens", operator.name()));
                }
                Progress::Warning(text) => bar.warn(&text),
            }
            },
        )?;
        emitted?;
        bar.finish();
        for student in outcome.students {
            let shelf = wanted.iter().find(|shelf| shelf.operator == student.operator).expect("students of what was wanted");
            shelf.files.save(student.layer, &student.operator, &student.mixer)?;
            let (tokens, tokens_per_second) = (outcome.tokens, outcome.tokens_per_second);
            let record = Record { normalised_mse: student.normalised_mse, tokens, tokens_per_second };
            shelf.units.save(&format!("layer-{:02}.json", student.layer), &shelf.key, &record)?;
        }
        Ok(())
    }

    /// The students on the shelves.
    pub fn load(&self, shelves: &[Shelf], emit: &mut dyn FnMut(Event) -> Result<(), Error>) -> Result<Bank<B::InnerBackend>, Error> {
        let keys: Vec<&String> = shelves.iter().map(|shelf| &shelf.key).collect();
        let mut bank = Bank { mixers: BTreeMap::new(), losses: BTreeMap::new(), identity: key(&keys) };
        let mut speed = None;
        for shelf in shelves {
            for layer in 0..self.parent.config.layers() {
                let operator = &shelf.operator;
                let lost = || Error::LostUnit { path: shelf.files.path(layer, operator) };
                let record = shelf.record(layer)?.ok_or_else(lost)?;
                let mixer = shelf.files.load(layer, operator, &self.parent.config.attention, self.device)?;
                emit(Event::Student { layer, operator: operator.name().into(), normalised_mse: record.normalised_mse })?;
                bank.mixers.insert((layer, letter(operator)), (operator.clone(), mixer));
                bank.losses.insert((layer, letter(operator)), record.normalised_mse);
                speed = Some(Event::Distilled { tokens: record.tokens, tokens_per_second: record.tokens_per_second });
            }
        }
        speed.map_or(Ok(()), emit)?;
        Ok(bank)
    }
}

impl Run<'_> {
    /// Students from the shelves, which the run keeps by a name of its own: `students/<operator>/layer-NN.safetensors`.
    pub(super) fn distill<B: TrainBackend>(
        &mut self,
        parent: &Parent<B::InnerBackend>,
        texts: &Texts,
        runs: &Path,
        device: &B::Device,
    ) -> Result<Bank<B::InnerBackend>, Error> {
        let (experiment, progress, pieces) = (self.experiment, self.progress, self.pieces);
        let operators = self.operators.clone();
        let making = Making::<B> { experiment, parent, texts, operators: &operators, runs, progress, pieces, device };
        let shelves = making.shelves(&mut |event| self.log.emit(event))?;
        for shelf in &shelves {
            for layer in 0..parent.config.layers() {
                keep(&self.directory, &shelf.files.path(layer, &shelf.operator))?;
            }
        }
        making.load(&shelves, &mut |event| self.log.emit(event))
    }
}

/// A second name for a student's file, or a copy where the file system has no second names.
fn keep(directory: &RunDir, file: &Path) -> Result<(), Error> {
    let names: Vec<_> = file.components().rev().take(2).collect();
    let place = directory.path().join("students").join(names[1]).join(names[0]);
    let same = |place: &Path| Some((fs::metadata(place).ok()?.len(), fs::metadata(place).ok()?.modified().ok()?));
    if place.exists() && same(&place) == same(file) {
        return Ok(());
    }
    let failed = |action: &'static str| {
        let path = place.clone();
        move |source| Error::Io { action, path, source }
    };
    fs::create_dir_all(place.parent().unwrap_or(Path::new(""))).map_err(failed("create the directory of"))?;
    if place.exists() {
        fs::remove_file(&place).map_err(failed("replace"))?;
    }
    if fs::hard_link(file, &place).is_err() {
        let bytes = fs::read(file).map_err(failed("read the student for"))?;
        atomic::write(&place, &bytes)?;
    }
    Ok(())
}

/// Students made or found, without a run.
#[derive(Debug, Clone, Serialize)]
pub struct Distilled {
    /// Operator's name.
    pub operator: String,
    /// Where its students are.
    pub directory: PathBuf,
    /// Tokens they were trained on.
    pub tokens: usize,
    /// Through parent and all students that were trained together.
    pub tokens_per_second: f64,
    /// Held-out normalised mean squared error by layer.
    pub normalised_mse: Vec<f64>,
    /// Validation score of the parent, and of the model in which every layer is replaced, by task.
    pub scores: BTreeMap<String, (f64, f64)>,
}

/// Trains the students of `experiment` as far as they are missing, and says how good they are.
///
/// # Errors
/// The first thing that goes wrong; what was trained until then is kept and found again.
pub fn distill<B: TrainBackend>(experiment: &Experiment, options: &Options, device: &B::Device) -> Result<Vec<Distilled>, Error> {
    in_memory(experiment.compute(), options.quiet, |pieces| distilled::<B>(experiment, options, pieces, device))
}

fn distilled<B: TrainBackend>(
    experiment: &Experiment,
    options: &Options,
    pieces: usize,
    device: &B::Device,
) -> Result<Vec<Distilled>, Error> {
    let parent = super::prepare::parent::<B::InnerBackend>(experiment, device)?;
    let texts = super::prepare::texts(experiment, &parent.reader, &parent.config)?;
    let (operators, progress) = (super::prepare::operators(experiment), terminal::Progress::new(options.quiet));
    let runs = options.runs.as_path();
    let making = Making::<B> { experiment, parent: &parent, texts: &texts, operators: &operators, runs, progress, pieces, device };
    let shelves = making.shelves(&mut |_| Ok(()))?;
    let bank = making.load(&shelves, &mut |_| Ok(()))?;
    let mut found = Vec::new();
    for shelf in &shelves {
        let record = shelf.record(0)?.ok_or_else(|| Error::LostUnit { path: shelf.units.root().into() })?;
        let all = (0..parent.config.layers()).map(|_| letter(&shelf.operator)).collect();
        found.push(Distilled {
            operator: shelf.operator.name().into(),
            directory: shelf.units.root().into(),
            tokens: record.tokens,
            tokens_per_second: record.tokens_per_second,
            normalised_mse: (0..parent.config.layers()).map(|layer| bank.losses[&(layer, letter(&shelf.operator))]).collect(),
            scores: scores(experiment, &texts, (&parent, &bank), &all, pieces, device),
        });
    }
    Ok(found)
}

/// Validation scores of the parent and of one layout.
fn scores<B: MixerBackend>(
    experiment: &Experiment,
    texts: &Texts,
    (parent, bank): (&Parent<B>, &Bank<B>),
    layout: &Layout,
    pieces: usize,
    device: &B::Device,
) -> BTreeMap<String, (f64, f64)> {
    let of_task = |name: &String| {
        let (task, count) = (texts.tasks[name].as_ref(), experiment.tasks()[name].validation);
        let questions = task.questions(name, Split::Validation, count);
        let full = path(&Layout::parent(layout.layers()), 0);
        let whole = 0..count;
        let mut scorer = Scorer::new(&questions, std::slice::from_ref(&whole), task.metric(), (&parent.model, &full), 0, device)
            .in_batches_of(BATCH_TOKENS / pieces);
        let mut mean = |model, path: &[u64]| {
            let found = scorer.score(model, path, whole.clone()).0;
            found.iter().map(|score| f64::from(score.score)).sum::<f64>() / count as f64
        };
        let hybrid = parent.hybrid(layout, bank).1;
        (name.clone(), (mean(&parent.model, &full), mean(&hybrid, &path(layout, 0))))
    };
    experiment.search().tasks.iter().map(of_task).collect()
}

/// Hash of all that a student depends on. Where states are kept, how many devices share the work and what others learn at changes nothing.
fn student_key<B: Backend>(experiment: &Experiment, parent: &Parent<B>, texts: &Texts, operator: &MixerConfig) -> String {
    let mut distill = experiment.distill().clone();
    (distill.cache_bytes, distill.devices) = (None, None);
    distill.learning_rate = distill.rate(operator.name());
    distill.learning_rates.clear();
    let text = |name: &String| match experiment.tasks().get(name) {
        Some(task) => task_key(&task.kind, texts.tasks[name].as_ref()),
        None => texts.corpora[name].1.clone(),
    };
    let mixture: Vec<_> = distill.mixture.keys().map(|name| (name, text(name))).collect();
    key(&(&parent.identity, experiment.seed(), experiment.compute().to_string(), &distill, mixture, operator))
}

/// Which rows the n-th piece has, where each batch of `rows` is cut into so many.
pub(super) fn piece(n: usize, pieces: usize, rows: usize) -> Range<usize> {
    let (batch, piece) = (n / pieces * rows, n % pieces);
    batch + rows * piece / pieces..batch + rows * (piece + 1) / pieces
}

/// What the rows of a batch are drawn from, and what counts in them.
pub(super) struct Drawn<'a> {
    /// Tasks and corpora by name, each with its weight.
    pub mixture: &'a BTreeMap<String, f64>,
    /// Weight in the loss of where an answer is predicted.
    pub answer_weight: f64,
}

impl<'a> Drawn<'a> {
    fn of(distill: &'a Distill) -> Self {
        Self { mixture: &distill.mixture, answer_weight: distill.answer_weight }
    }
}

/// Those of all rows there are for a purpose, however they come in batches. Each is from a task or corpus, whose turns come as evenly as their
/// weights allow, from the first row on: multiples of the golden ratio spread over a circle, of which each has its part. By lot, a batch
/// of few rows would now and then be of one task alone.
pub(super) fn drawn(
    experiment: &Experiment,
    texts: &Texts,
    from: &Drawn<'_>,
    purpose: &str,
    rows: Range<usize>,
) -> Result<Vec<Row>, EvalError> {
    const GOLDEN: f64 = 1.618_033_988_749_895;
    let distill = experiment.distill();
    let stream = format!("{}/{purpose}", experiment.seed());
    let first: f64 = random::stream(&stream).random();
    let total: f64 = from.mixture.values().sum();
    let rows = rows.map(|n| {
        let mut random = random::stream(&format!("{stream}/{n}"));
        let mut place = (first + n as f64 * GOLDEN).fract() * total;
        let chosen = from.mixture.iter().find(|(_, weight)| {
            place -= **weight;
            place < 0.0
        });
        let name = chosen.or(from.mixture.last_key_value()).map(|(name, _)| name).expect("a mixture names a text");
        let documents = texts.documents(name);
        let found = if texts.encoder {
            // One text at a time, as an encoder reads it.
            documents.document(distill.length, &mut random)?
        } else {
            row(documents, distill.length, &mut random)?
        };
        let mut row = Row::plain(found.tokens.clone());
        for (at, _) in found.told() {
            row.weights[at] = from.answer_weight as f32;
        }
        Ok(row)
    });
    rows.collect()
}
