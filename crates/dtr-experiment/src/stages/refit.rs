//! Students made anew on a hybrid's own inputs, before it is judged or when its search is done.

use std::collections::BTreeMap;
use std::ops::Range;

use dtr_attention::TrainBackend;
use dtr_distill::recover::{self, Recovery};
use dtr_distill::trainer::{Rows, Trained};
use dtr_distill::{Loss, Row, Settings, StudentBank};
use dtr_eval::EvalError;
use dtr_models::{Decoder, Mixer, checkpoint};
use dtr_search::{Layout, Operator};

use super::Texts;
use super::distill::{Drawn, drawn, piece};
use super::prepare::{Bank, Parent, letter};
use crate::error::Error;
use crate::run_dir::RunDir;
use crate::schema::{self, Experiment, Towards, key};
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

/// Batches from which output projections are fitted before students learn further.
const BATCHES: usize = 4;

/// Students by the layer and operator they stand for.
type Students<B> = Vec<((usize, Operator), Mixer<B>)>;

/// Steps that so many tokens of a refit or a recovery make.
pub(super) fn steps(experiment: &Experiment, tokens: usize) -> usize {
    (tokens / experiment.distill().batch()).max(1)
}

impl<B: TrainBackend> Workshop<'_, B> {
    /// Rows of the task's own: the hybrid is made for it.
    fn draw(&self, answer_weight: f64, purpose: &str, rows: Range<usize>) -> Result<Vec<Row>, EvalError> {
        let mixture = BTreeMap::from([(self.task.to_owned(), 1.0)]);
        drawn(self.experiment, self.texts, &Drawn { mixture: &mixture, answer_weight }, &format!("{}/{purpose}", self.task), rows)
    }

    /// All of them for one step.
    fn step(&self, answer_weight: f64, purpose: &str, step: usize) -> Result<Vec<Row>, EvalError> {
        self.draw(answer_weight, purpose, piece(step, 1, self.experiment.distill().rows))
    }

    /// Students for the layers of `layout`, trained further on what they meet there: those that stand in it and, where each
    /// learns alone, those that may still be put in.
    pub fn refit(
        &self,
        layout: &Layout,
        bank: &Bank<B::InnerBackend>,
        generation: usize,
        device: &B::Device,
    ) -> Result<Bank<B::InnerBackend>, Error> {
        let settings = self.experiment.search().refit.as_ref().expect("asked for only where it is set");
        let place = format!("students/refit/{}/{generation}", self.task);
        let files = StudentBank::new(self.directory.path().join(&place));
        let identity = key(&(&bank.identity, layout, settings, self.experiment.seed(), self.task));
        let stands = layout.operators();
        let changes = |(layer, operator): (usize, Operator)| {
            stands[layer] == operator || settings.towards == Towards::Outputs && stands[layer] == Operator::PARENT
        };
        let wanted: Vec<_> = bank.mixers.keys().copied().filter(|&student| changes(student)).collect();
        let unit = |layer: usize, operator: Operator| format!("{place}/{operator}-{layer:02}.json", operator = operator.letter());
        let mut missing = false;
        for &(layer, operator) in &wanted {
            missing |= self.directory.load_unit::<()>(&unit(layer, operator), &identity)?.is_none();
        }
        if missing {
            let students = match settings.towards {
                Towards::Outputs => self.apart(layout, bank, &wanted, generation, device)?,
                Towards::Answers => self.together(layout, bank, &wanted, generation, device)?,
            };
            for ((layer, operator), mixer) in students {
                files.save(layer, &bank.mixers[&(layer, operator)].0, &mixer)?;
                self.directory.save_unit(&unit(layer, operator), &identity, &())?;
            }
        }
        let mut made = Bank { identity: identity.clone(), ..bank.clone() };
        for (layer, operator) in wanted {
            let config = bank.mixers[&(layer, operator)].0.clone();
            let mixer = files.load(layer, &config, &self.parent.config.attention, device)?;
            made.mixers.insert((layer, operator), (config, mixer));
        }
        Ok(made)
    }

    /// Each student trained towards what the parent's attention gives where it stands.
    fn apart(
        &self,
        layout: &Layout,
        bank: &Bank<B::InnerBackend>,
        wanted: &[(usize, Operator)],
        generation: usize,
        device: &B::Device,
    ) -> Result<Students<B::InnerBackend>, Error> {
        let settings = self.experiment.search().refit.as_ref().expect("asked for only where it is set");
        let mut operators: BTreeMap<Operator, usize> = BTreeMap::new();
        let mut configs = Vec::new();
        for &(layer, operator) in wanted {
            operators.entry(operator).or_insert_with(|| {
                configs.push(bank.mixers[&(layer, operator)].0.clone());
                configs.len() - 1
            });
        }
        let students = wanted.iter().map(|&(layer, operator)| (layer, operators[&operator], bank.mixers[&(layer, operator)].1.clone()));
        let distill = self.experiment.distill();
        let pieces = self.pieces.min(distill.rows);
        let draw =
            |what: &str, n: usize| self.draw(settings.answer_weight, &format!("refit/{generation}/{what}"), piece(n, pieces, distill.rows));
        let calibration = (0..BATCHES * pieces).map(|n| draw("calibration", n)).collect::<Result<_, EvalError>>()?;
        let rows = Rows { calibration, held_out: Vec::new(), training: &mut |n| Ok(draw("step", n)?) };
        let training = Settings {
            learning_rates: vec![settings.learning_rate; configs.len()],
            operators: configs,
            loss: if distill.loss == Loss::AttentionWeights { Loss::NormalisedMse } else { distill.loss },
            steps: steps(self.experiment, settings.tokens),
            accumulate: pieces,
            optimiser: distill.optimiser,
            warmup: distill.warmup,
            schedule: distill.schedule,
            weight_decay: distill.weight_decay as f32,
            patience: None,
        };
        let hybrid = self.parent.hybrid(layout, bank).1;
        let models = (&hybrid, &self.parent.model);
        let outcome = dtr_distill::refit::<B>(models, students.collect(), (&training, &distill.initialise), rows, device, &mut |_| ())?;
        let student = |student: Trained<B::InnerBackend>| ((student.layer, letter(&student.operator)), student.mixer);
        Ok(outcome.students.into_iter().map(student).collect())
    }

    /// The students that stand in the hybrid trained towards what the parent predicts.
    fn together(
        &self,
        layout: &Layout,
        bank: &Bank<B::InnerBackend>,
        wanted: &[(usize, Operator)],
        generation: usize,
        device: &B::Device,
    ) -> Result<Students<B::InnerBackend>, Error> {
        let settings = self.experiment.search().refit.as_ref().expect("asked for only where it is set");
        let recovery = Recovery {
            steps: steps(self.experiment, settings.tokens),
            learning_rate: settings.learning_rate,
            task_weight: 0.0,
            trained: recover::Trained::Mixers,
        };
        let model = recover::recover::<B>(
            &self.parent.model,
            &self.parent.hybrid(layout, bank).1,
            &recovery,
            &mut |step| Ok(self.step(settings.answer_weight, &format!("refit/{generation}/step"), step)?),
            device,
            &mut |_, _| (),
        )?;
        Ok(wanted.iter().map(|&(layer, operator)| ((layer, operator), model.layers[layer].mixer.clone())).collect())
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
        let steps = steps(self.experiment, settings.tokens);
        let recovery = Recovery {
            steps,
            learning_rate: settings.learning_rate,
            task_weight: settings.task_weight,
            trained: match settings.trained {
                schema::Trained::Mixers => recover::Trained::Mixers,
                schema::Trained::All => recover::Trained::All { norms_and_embeddings: settings.norms_and_embeddings },
                schema::Trained::Lora(rank) => recover::Trained::LowRank(rank),
            },
        };
        let bar = self.progress.stage(&format!("recovering {}", self.task), (steps * self.experiment.distill().batch()) as u64, "tokens");
        let model = recover::recover::<B>(
            &self.parent.model,
            &hybrid,
            &recovery,
            &mut |step| Ok(self.step(settings.answer_weight, "recovery", step)?),
            device,
            &mut |tokens, _| bar.set(tokens as u64),
        )?;
        bar.finish();
        checkpoint::save(&directory, &config, &model, &self.parent.directory)?;
        self.directory.save_unit(&unit, &key, &settings.tokens)?;
        Ok(model)
    }
}
