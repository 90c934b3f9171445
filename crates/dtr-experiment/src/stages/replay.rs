//! A search done again from what is stored of it, without a model: its decisions must come out as they were logged.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use dtr_eval::Split;
use dtr_search::{Evaluation, Layout, Objective, Observation, Operator, Settings, Step, Trace, search};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::generations::Generations;
use super::objective::{asked_count, cost_unit, refit_unit, unit};
use super::search::{prior, settings};
use crate::error::Error;
use crate::events::Event;
use crate::schema::Experiment;

/// What a search asked, answered from the files of its run.
pub(super) struct Recorded<'a> {
    experiment: &'a Experiment,
    root: &'a Path,
    task: &'a str,
    examples: usize,
    generations: Generations,
    /// What the evaluations of each generation depend on.
    keys: HashMap<usize, String>,
}

impl<'a> Recorded<'a> {
    /// The search of one task, and what it was told.
    pub fn new(root: &'a Path, experiment: &'a Experiment, events: &[Event], task: &'a str) -> Result<(Self, Settings), Error> {
        let layers = events.iter().find_map(|event| match event {
            Event::Parent { layers, .. } => Some(*layers),
            _ => None,
        });
        let letters: HashMap<&str, Operator> =
            super::prepare::operators(experiment).iter().map(|operator| (operator.name(), super::prepare::letter(operator))).collect();
        let students = events.iter().filter_map(|event| match event {
            Event::Student { layer, operator, normalised_mse } => Some((*layer, *letters.get(operator.as_str())?, *normalised_mse)),
            _ => None,
        });
        let layers = layers.filter(|&layers| (0..layers).all(|layer| students.clone().any(|student| student.0 == layer)));
        let Some(layers) = layers else { return Err(Error::NoSearch { directory: root.into() }) };
        let settings = settings(experiment, prior(students, layers));
        let examples = asked_count(experiment, task);
        Ok((Self { experiment, root, task, examples, generations: Generations::default(), keys: HashMap::new() }, settings))
    }

    /// A stored unit; all of one generation depend on the same.
    pub fn read<T: DeserializeOwned>(&mut self, place: &str, generation: Option<usize>) -> Result<T, Error> {
        let path = self.root.join(place);
        let lost = || Error::LostUnit { path: path.clone() };
        let bytes = std::fs::read(&path).map_err(|_| lost())?;
        let mut unit: Value = serde_json::from_slice(&bytes).map_err(|_| lost())?;
        let key = unit["key"].as_str().ok_or_else(lost)?.to_owned();
        if let Some(generation) = generation {
            let first = self.keys.entry(generation).or_insert_with(|| key.clone());
            if *first != key {
                return Err(Error::OtherTrace { path, task: self.task.into() });
            }
        }
        serde_json::from_value(unit["value"].take()).map_err(|_| lost())
    }
}

impl Objective for Recorded<'_> {
    type Error = Error;

    fn examples(&self) -> usize {
        self.examples
    }

    fn evaluate(&mut self, layout: &Layout, examples: Range<usize>) -> Result<Evaluation, Error> {
        let generation = self.generations.of(layout);
        let place = unit(self.task, Split::Validation, &generation.to_string(), layout, &examples);
        let found: Evaluation = self.read(&place, Some(generation))?;
        if found.examples.len() == examples.len() {
            Ok(found)
        } else {
            Err(Error::OtherTrace { path: self.root.join(place), task: self.task.into() })
        }
    }

    fn cost(&mut self, layout: &Layout) -> Result<f64, Error> {
        self.read(&cost_unit(self.task, layout), None)
    }

    fn refit(&mut self, layout: &Layout) -> Result<Option<f64>, Error> {
        if !self.generations.due(self.experiment, layout) {
            return Ok(None);
        }
        let seconds = self.read(&refit_unit(self.task, self.generations.next()), None)?;
        self.generations.refitted(layout);
        Ok(Some(seconds))
    }

    fn unfit(&mut self, layout: &Layout) {
        self.generations.unfit(layout);
    }

    fn committed(&mut self, layout: &Layout) -> Result<bool, Error> {
        Ok(self.generations.committed(layout))
    }
}

/// The search of one task as far as it is stored, and whether that is all of it.
///
/// # Errors
/// If the directory holds no such search, or what is stored is not what was logged.
pub fn replay(root: &Path, experiment: &Experiment, events: &[Event], task: &str) -> Result<(Trace, bool), Error> {
    let (mut recorded, settings) = Recorded::new(root, experiment, events, task)?;
    let layers = settings.layers;
    let (mut evaluations, mut decisions): (Vec<Step>, Vec<_>) = (Vec::new(), Vec::new());
    let result = search(&mut recorded, &settings, &mut |observation| match observation {
        Observation::Evaluated(step) => evaluations.push(step.clone()),
        Observation::Decided(decision) => decisions.push(decision.clone()),
    });
    let (trace, whole) = match result {
        Ok(trace) => (trace, true),
        // A run that goes on or broke off: so far it came.
        Err(dtr_search::SearchError::Objective(Error::LostUnit { .. })) => {
            let minimum = evaluations.first().map_or(0.0, |step| settings.floor.minimum(step.score));
            (Trace { parent: Layout::parent(layers), minimum, evaluations, decisions, reached: false }, false)
        }
        Err(error) => return Err(Error::of_search(task, error)),
    };
    let logged: Vec<(String, bool)> = events
        .iter()
        .filter_map(|event| match event {
            Event::Decided { task: name, layout, verdict, .. } if name == task => {
                Some((layout.clone(), *verdict == dtr_search::Verdict::Kept))
            }
            _ => None,
        })
        .collect();
    for (index, decision) in trace.decisions.iter().enumerate() {
        let found = (decision.layout.to_string(), decision.verdict == dtr_search::Verdict::Kept);
        // What was decided in the moment of a kill may not have been logged.
        if logged.get(index).is_some_and(|logged| *logged != found) {
            return Err(Error::OtherTrace { path: root.join("events.jsonl"), task: task.into() });
        }
    }
    Ok((trace, whole))
}
