//! The distillation stage: students that are there are kept, the others are trained from one pass of the parent.

use std::collections::BTreeMap;
use std::time::Duration;

use dtr_attention::{MixerBackend, TrainBackend};
use dtr_distill::trainer::Rows;
use dtr_distill::{Progress, Settings, Snapshots, StudentBank};
use dtr_eval::random;
use dtr_eval::task::row;
use dtr_models::MixerConfig;
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::prepare::{Bank, Parent, letter};
use super::{Run, Tasks};
use crate::error::Error;
use crate::events::Event;
use crate::schema::{Experiment, key};

/// Batches on which students are measured.
const HELD_OUT: usize = 4;

/// Work that a kill may lose.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(20);

/// What is stored beside a student's weights.
#[derive(Serialize, Deserialize)]
struct Record {
    normalised_mse: f64,
    tokens: usize,
    tokens_per_second: f64,
}

/// Whole optimiser steps in the tokens asked for.
pub(super) fn steps(experiment: &Experiment) -> usize {
    let distill = experiment.distill();
    distill.tokens / (distill.rows * distill.length)
}

impl Run<'_> {
    pub(super) fn distill<B: TrainBackend>(
        &mut self,
        parent: &Parent<B::InnerBackend>,
        tasks: &Tasks,
        device: &B::Device,
    ) -> Result<Bank<B::InnerBackend>, Error> {
        let files = StudentBank::new(self.directory.path().join("students"));
        let layers = parent.config.layers();
        let keys: Vec<String> = self.operators.iter().map(|operator| student_key(self.experiment, parent, operator)).collect();
        let missing = |run: &Self, operator: &MixerConfig, key: &str| -> Result<bool, Error> {
            for layer in 0..layers {
                if !files.contains(layer, operator) || run.directory.load_unit::<Record>(&record_path(layer, operator), key)?.is_none() {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let mut wanted = Vec::new();
        for (operator, key) in self.operators.iter().zip(&keys) {
            if missing(self, operator, key)? {
                wanted.push((operator.clone(), key.clone()));
            }
        }
        let snapshots = Snapshots::new(self.directory.path().join("students/training"), key(&keys), SNAPSHOT_EVERY);
        if !wanted.is_empty() {
            self.train::<B>(parent, tasks, &files, &snapshots, &wanted, device)?;
        }
        snapshots.clear()?;
        self.load(parent, &files, &keys, device)
    }

    fn train<B: TrainBackend>(
        &mut self,
        parent: &Parent<B::InnerBackend>,
        tasks: &Tasks,
        files: &StudentBank,
        snapshots: &Snapshots,
        wanted: &[(MixerConfig, String)],
        device: &B::Device,
    ) -> Result<(), Error> {
        let distill = self.experiment.distill();
        let settings = Settings {
            operators: wanted.iter().map(|(operator, _)| operator.clone()).collect(),
            steps: steps(self.experiment),
            learning_rate: distill.learning_rate,
            warmup: distill.warmup,
            weight_decay: distill.weight_decay as f32,
        };
        let draw = |purpose: &str| batch(self.experiment, tasks, purpose);
        let calibration = (distill.calibration_tokens / (distill.rows * distill.length)).max(1);
        let rows = Rows {
            calibration: (0..calibration).map(|n| draw(&format!("calibration/{n}"))).collect(),
            held_out: (0..HELD_OUT).map(|n| draw(&format!("held-out/{n}"))).collect(),
            training: &mut |step| draw(&format!("step/{step}")),
        };
        let bar = self.progress.stage("distilling", (settings.steps * distill.rows * distill.length) as u64, "tokens");
        let mut emitted = Ok(());
        let log = &mut self.log;
        let outcome =
            dtr_distill::train::<B>(&parent.model, &parent.config, &settings, rows, snapshots, device, &mut |progress| match progress {
                Progress::Step { tokens } => bar.set(tokens as u64),
                Progress::Losses { operator, tokens, normalised_mse } => {
                    let event = Event::Distilling { operator: operator.name().into(), tokens, normalised_mse };
                    if emitted.is_ok() {
                        emitted = log.emit(event);
                    }
                }
            })?;
        emitted?;
        bar.finish();
        let keys: BTreeMap<&str, &String> = wanted.iter().map(|(operator, key)| (operator.name(), key)).collect();
        for student in outcome.students {
            files.save(student.layer, &student.operator, &student.mixer)?;
            let record =
                Record { normalised_mse: student.normalised_mse, tokens: outcome.tokens, tokens_per_second: outcome.tokens_per_second };
            self.directory.save_unit(&record_path(student.layer, &student.operator), keys[student.operator.name()], &record)?;
        }
        Ok(())
    }

    fn load<B: MixerBackend>(
        &mut self,
        parent: &Parent<B>,
        files: &StudentBank,
        keys: &[String],
        device: &B::Device,
    ) -> Result<Bank<B>, Error> {
        let mut bank = Bank { mixers: BTreeMap::new(), losses: BTreeMap::new(), identity: key(keys) };
        let mut speed = None;
        for (operator, key) in self.operators.iter().zip(keys) {
            for layer in 0..parent.config.layers() {
                let path = record_path(layer, operator);
                let record = self
                    .directory
                    .load_unit::<Record>(&path, key)?
                    .ok_or_else(|| Error::LostUnit { path: self.directory.path().join(&path) })?;
                let mixer = files.load(layer, operator, &parent.config.attention, device)?;
                self.log.emit(Event::Student { layer, operator: operator.name().into(), normalised_mse: record.normalised_mse })?;
                bank.mixers.insert((layer, letter(operator)), (operator.clone(), mixer));
                bank.losses.insert((layer, letter(operator)), record.normalised_mse);
                speed = Some(Event::Distilled { tokens: record.tokens, tokens_per_second: record.tokens_per_second });
            }
        }
        speed.map_or(Ok(()), |event| self.log.emit(event))?;
        Ok(bank)
    }
}

/// Hash of all that a student depends on.
fn student_key<B: burn::prelude::Backend>(experiment: &Experiment, parent: &Parent<B>, operator: &MixerConfig) -> String {
    let mixture: Vec<_> = experiment.distill().mixture.keys().map(|name| (name, experiment.tasks()[name].kind.key())).collect();
    key(&(&parent.identity, experiment.seed(), experiment.device().to_string(), experiment.distill(), mixture, operator))
}

fn record_path(layer: usize, operator: &MixerConfig) -> String {
    format!("students/{}/layer-{layer:02}.json", operator.name())
}

/// The rows of one step or purpose: each from a task drawn by its weight.
pub(super) fn batch(experiment: &Experiment, tasks: &Tasks, purpose: &str) -> Vec<Vec<u32>> {
    let distill = experiment.distill();
    let mut random = random::stream(&format!("{}/{purpose}", experiment.seed()));
    let total: f64 = distill.mixture.values().sum();
    let rows = (0..distill.rows).map(|_| {
        let mut place = random.random_range(0.0..total);
        let chosen = distill.mixture.iter().find(|(_, weight)| {
            place -= **weight;
            place < 0.0
        });
        let name = chosen.or(distill.mixture.last_key_value()).map(|(name, _)| name).expect("a mixture names a task");
        row(tasks[name].as_ref(), distill.length, &mut random)
    });
    rows.collect()
}
