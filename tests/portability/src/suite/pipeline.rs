//! The whole pipeline on a small experiment: how the students' losses fall, and what the search decides.

use std::path::Path;

use dtr_attention::TrainBackend;
use dtr_experiment::events::Event;
use dtr_experiment::schema::Experiment;
use dtr_experiment::{Options, log, stages};
use dtr_portability::outcome::Kind;

use super::Suite;

impl<B: TrainBackend> Suite<'_, B> {
    pub(super) fn pipeline(&mut self) {
        self.record("distillation, search", [Kind::Curve, Kind::Curve, Kind::Decision], |device, dtype| {
            let runs = tempfile::tempdir().expect("a directory");
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiment.toml");
            let experiment = Experiment::load(&file, &[("dtype".into(), dtype.name().into())]).expect("the suite's own experiment");
            let options = Options { runs: runs.path().into(), quiet: true, events: false, command: String::new(), memory: None };
            let (directory, _) = stages::run::<B>(&experiment, &options, device).expect("the pipeline");
            let events = log::read(&directory.join("events.jsonl")).expect("its events");
            let (mut curve, mut losses, mut scores, mut decisions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for event in &events {
                match event {
                    Event::Distilling { normalised_mse, .. } => curve.push(normalised_mse.iter().copied().map(f64::from).collect()),
                    Event::Evaluated { loss, score, .. } => {
                        losses.push(*loss);
                        scores.push(*score);
                    }
                    Event::Decided { layout, best, .. } => {
                        decisions.push(layout.bytes().map(f64::from).chain([f64::from(u8::from(*best))]).collect());
                    }
                    _ => {}
                }
            }
            [curve, vec![losses, scores], decisions]
        });
    }
}
