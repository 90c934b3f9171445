//! Students made anew on a hybrid's own inputs, while its search goes on or when it is done.

use std::collections::BTreeMap;

use dtr_attention::TrainBackend;
use dtr_distill::recover::{self, Recovery};
use dtr_distill::trainer::Rows;
use dtr_distill::{Loss, Row, Settings, StudentBank};
use dtr_eval::EvalError;
use dtr_models::{Decoder, checkpoint};
use dtr_search::{Layout, Operator};

use super::Texts;
use super::distill::{batch, piece};
use super::prepare::{Bank, Parent};
use crate::error::Error;
use crate::run_dir::RunDir;
use crate::schema::{Experiment, Trained, key};
use crate::terminal::Progress;

/// What all of it needs to know.
pub(super) struct Workshop<'a, B: TrainBackend> {
    pub experiment: &'a Experiment,
    pub directory: &'a RunDir,
    pub texts: &'a Texts,
    pub parent: &'a Parent<B::InnerBackend>,
    pub task: &'a str,
    pub progress: Progress,
    /// Parts in which a batch goes through the device in a refit.
    pub pieces: usize,
}

/// Batches on which refitted students are measured, and from which their output projections are fitted first.
const BATCHES: usize = 4;

impl<B: TrainBackend> Workshop<'_, B> {
    fn steps(&self, tokens: usize) -> usize {
        let distill = self.experiment.distill();
        (tokens / (distill.rows * distill.length)).max(1)
    }

    fn draw(&self, purpose: &str) -> Result<Vec<Row>, EvalError> {
        batch(self.experiment, self.texts, &format!("{}/{purpose}", self.task))
    }

    /// Students for the layers of `layout`: those that stand in it and those that may still be put in, all trained further on
    /// what they meet there.
    pub fn refit(
        &self,
        layout: &Layout,
        bank: &Bank<B::InnerBackend>,
        commits: usize,
        device: &B::Device,
    ) -> Result<Bank<B::InnerBackend>, Error> {
        let settings = self.experiment.search().refit.as_ref().expect("asked for only where it is set");
        let files = StudentBank::new(self.directory.path().join(format!("students/refit/{}/{commits}", self.task)));
        let identity = key(&(&bank.identity, layout, settings, self.experiment.seed(), self.task));
        let stands = layout.operators();
        let wanted: Vec<_> =
            bank.mixers.keys().copied().filter(|&(layer, operator)| [Operator::PARENT, operator].contains(&stands[layer])).collect();
        let unit = |layer: usize, operator: Operator| {
            format!("students/refit/{}/{commits}/{operator}-{layer:02}.json", self.task, operator = operator.letter())
        };
        let mut made = Bank { identity: identity.clone(), ..bank.clone() };
        let mut missing = false;
        for &(layer, operator) in &wanted {
            missing |= self.directory.load_unit::<f64>(&unit(layer, operator), &identity)?.is_none();
        }
        if missing {
            let mut operators: BTreeMap<Operator, usize> = BTreeMap::new();
            let mut configs = Vec::new();
            for &(layer, operator) in &wanted {
                operators.entry(operator).or_insert_with(|| {
                    configs.push(bank.mixers[&(layer, operator)].0.clone());
                    configs.len() - 1
                });
            }
            let students = wanted.iter().map(|&(layer, operator)| (layer, operators[&operator], bank.mixers[&(layer, operator)].1.clone()));
            let distill = self.experiment.distill();
            let pieces = self.pieces.min(distill.rows);
            let draw = |what: &str, n: usize| piece(n, pieces, |n| self.draw(&format!("refit/{commits}/{what}/{n}")));
            let several = |what: &str| (0..BATCHES * pieces).map(|n| draw(what, n)).collect::<Result<_, EvalError>>();
            let rows =
                Rows { calibration: several("calibration")?, held_out: several("held-out")?, training: &mut |n| Ok(draw("step", n)?) };
            let (steps, learning_rate) = (self.steps(settings.tokens), settings.learning_rate);
            let training = Settings {
                operators: configs,
                loss: if distill.loss == Loss::AttentionWeights { Loss::NormalisedMse } else { distill.loss },
                steps,
                accumulate: pieces,
                optimiser: distill.optimiser,
                learning_rate,
                warmup: distill.warmup,
                weight_decay: distill.weight_decay as f32,
                patience: None,
            };
            let hybrid = self.parent.hybrid(layout, bank).1;
            let models = (&hybrid, &self.parent.model);
            let outcome = dtr_distill::refit::<B>(models, students.collect(), (&training, &distill.initialise), rows, device, &mut |_| ())?;
            for student in outcome.students {
                files.save(student.layer, &student.operator, &student.mixer)?;
                self.directory.save_unit(
                    &unit(student.layer, super::prepare::letter(&student.operator)),
                    &identity,
                    &student.normalised_mse,
                )?;
            }
        }
        for (layer, operator) in wanted {
            let config = bank.mixers[&(layer, operator)].0.clone();
            let mixer = files.load(layer, &config, &self.parent.config.attention, device)?;
            made.mixers.insert((layer, operator), (config, mixer));
        }
        Ok(made)
    }

    /// The hybrid after a short training towards the parent's answers on the task's own rows.
    pub fn recover(&self, layout: &Layout, bank: &Bank<B::InnerBackend>, device: &B::Device) -> Result<Decoder<B::InnerBackend>, Error> {
        let settings = self.experiment.search().recovery.as_ref().expect("asked for only where it is set");
        let (config, hybrid) = self.parent.hybrid(layout, bank);
        let directory = self.directory.path().join(format!("search/{}/recovery", self.task));
        let unit = format!("search/{}/recovery.json", self.task);
        let key = key(&(&bank.identity, layout, settings, self.experiment.seed(), self.experiment.distill()));
        if self.directory.load_unit::<usize>(&unit, &key)?.is_some() {
            return Ok(checkpoint::load_in::<B::InnerBackend>(&directory, self.experiment.compute().dtype.into(), device)?.1);
        }
        let steps = self.steps(settings.tokens);
        let recovery = Recovery {
            steps,
            learning_rate: settings.learning_rate,
            task_weight: settings.task_weight,
            trained: match settings.trained {
                Trained::Mixers => recover::Trained::Mixers,
                Trained::All => recover::Trained::All { norms_and_embeddings: settings.norms_and_embeddings },
                Trained::Lora(rank) => recover::Trained::LowRank(rank),
            },
        };
        let distill = self.experiment.distill();
        let bar = self.progress.stage(&format!("recovering {}", self.task), (steps * distill.rows * distill.length) as u64, "tokens");
        let model = recover::recover::<B>(
            &self.parent.model,
            &hybrid,
            &recovery,
            &mut |step| Ok(self.draw(&format!("recovery/{step}"))?),
            device,
            &mut |tokens, _| bar.set(tokens as u64),
        )?;
        bar.finish();
        checkpoint::save(&directory, &config, &model, &self.parent.directory)?;
        self.directory.save_unit(&unit, &key, &settings.tokens)?;
        Ok(model)
    }
}
