//! Distillation and search, small: how the students' losses fall, what hybrids score, and what the search decides.

use std::ops::Range;
use std::time::Duration;

use burn::prelude::*;
use dtr_attention::{MixerBackend, TrainBackend};
use dtr_distill::initialise::{Decay, Gate, Initialise, Write};
use dtr_distill::schedule::Schedule;
use dtr_distill::trainer::{Progress, Rows};
use dtr_distill::{Loss, Optimiser, Row, Settings, Snapshots, train};
use dtr_eval::task::Phonebook;
use dtr_eval::{Scorer, Split, Task};
use dtr_experiment::schema::Precision;
use dtr_models::layers::cast;
use dtr_models::{Decoder, Mixer, MixerConfig, Tokenizer, checkpoint};
use dtr_portability::outcome::{Kind, Numbers};
use dtr_search::{Acceptance, Evaluation, Example, Floor, Goal, Layout, Objective, Operator, Racing, Signal, Strategy, search};

use super::Suite;
use super::models::parent;

const STEPS: usize = 10;
const EXAMPLES: usize = 32;

/// Scores of the parent with students in some layers.
struct Hybrids<B: Backend> {
    parent: Decoder<B>,
    students: Vec<Mixer<B>>,
    scorer: Scorer<B>,
    losses: Vec<f64>,
}

impl<B: MixerBackend> Objective for Hybrids<B> {
    type Error = std::convert::Infallible;

    fn examples(&self) -> usize {
        EXAMPLES
    }

    fn evaluate(&mut self, layout: &Layout, examples: Range<usize>) -> Result<Evaluation, Self::Error> {
        let mut model = self.parent.clone();
        let path: Vec<u64> = layout.operators().iter().map(|&operator| u64::from(operator != Operator::PARENT)).collect();
        for (layer, _) in path.iter().enumerate().filter(|(_, replaced)| **replaced == 1) {
            model.layers[layer].mixer = self.students[layer].clone();
        }
        let (scores, full_evaluation_equivalents) = self.scorer.score(&model, &path, examples);
        let examples = scores.iter().map(|found| Example { score: found.score, loss: found.loss, divergence: found.divergence });
        let evaluation = Evaluation { examples: examples.collect(), full_evaluation_equivalents, seconds: 0.0 };
        self.losses.push(evaluation.examples.iter().map(|example| f64::from(example.loss)).sum::<f64>() / EXAMPLES as f64);
        Ok(evaluation)
    }

    fn cost(&mut self, _layout: &Layout) -> Result<f64, Self::Error> {
        Ok(0.0)
    }
}

impl<B: TrainBackend> Suite<'_, B> {
    pub(super) fn pipeline(&mut self) {
        self.record("distillation and search", [Kind::Curve, Kind::Curve, Kind::Decision], pipeline::<B>);
    }
}

fn pipeline<B: TrainBackend>(device: &B::Device, dtype: Precision) -> [Numbers; 3] {
    let (config, model) = checkpoint::load::<B::InnerBackend>(&parent(), device).expect("the bundled parent");
    let model = if dtype == Precision::F32 { model } else { cast(model, dtype.into()) };
    let tokenizer = Tokenizer::load(&parent(), config.vocabulary).expect("its tokenizer");
    let task = Phonebook::new(&tokenizer, 6, "<|phone|>", "<|query|>").expect("a task");
    let examples = task.examples("phonebook", Split::Training, 4 * (STEPS + 2));
    let batch = |n: usize| examples[4 * n..4 * n + 4].iter().map(|example| Row::plain(example.tokens.clone())).collect::<Vec<_>>();

    let settings = Settings {
        operators: vec![MixerConfig::GatedDelta { convolution: 4, rotary: false }],
        loss: Loss::NormalisedMse,
        steps: STEPS,
        accumulate: 1,
        optimiser: Optimiser::AdamW,
        learning_rates: vec![1e-3],
        warmup: 0.1,
        schedule: Schedule::Linear,
        weight_decay: 0.0,
        patience: None,
    };
    let initialise = Initialise { decay: Decay::Distance, write: Write::Received, gate: Gate::Magnitude, shrink: 0.2, ..Initialise::COPY };
    let directory = tempfile::tempdir().expect("a directory");
    let snapshots = Snapshots::new(directory.path().into(), String::new(), Duration::MAX);
    let mut training = |n: usize| Ok(batch(n));
    let rows = Rows { calibration: vec![batch(STEPS)], held_out: vec![batch(STEPS + 1)], training: &mut training };
    let mut curve: Numbers = Vec::new();
    let mut progress = |progress: Progress<'_>| {
        if let Progress::Losses { losses, .. } = progress {
            curve.push(losses.into_iter().map(f64::from).collect());
        }
    };
    let parts = ((&model, &config), (&settings, &initialise), (&snapshots, None));
    let outcome = train::<B>(parts.0, parts.1, rows, parts.2, std::slice::from_ref(device), &mut progress).expect("students");
    curve.push(outcome.students.iter().map(|student| student.normalised_mse).collect());

    let questions = task.questions("phonebook", Split::Validation, EXAMPLES);
    let scorer = Scorer::new(&questions, std::slice::from_ref(&(0..EXAMPLES)), task.metric(), (&model, &[0; 8]), 1 << 26, device);
    let students = outcome.students.into_iter().map(|student| cast(student.mixer, model.dtype())).collect();
    let mut hybrids = Hybrids { parent: model, students, scorer, losses: Vec::new() };
    let operator = Operator::new('G').expect("a letter");
    let trace = search(
        &mut hybrids,
        &dtr_search::Settings {
            strategy: Strategy::Greedy,
            layers: config.layers(),
            menu: vec![operator],
            prior: vec![(operator, 0.0); config.layers()],
            floor: Floor::Share(0.5),
            signal: Signal::Loss,
            racing: Racing::Off,
            acceptance: Acceptance::Point,
            swaps: 1,
            goal: Goal::Replaced(2),
        },
        &mut |_| (),
    )
    .expect("a search");
    let decisions = trace.decisions.iter().map(|decision| decision.layout.to_string().bytes().map(f64::from).collect()).collect();
    [curve, vec![hybrids.losses], decisions]
}
