//! A search put together again from its events: which layouts were scored, and its trace as far as it is known.

use std::collections::{BTreeMap, HashMap};

use dtr_search::{Decision, Layout, Step, Trace};

use crate::events::Event;

/// A layout and its score on the examples that choose, all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// One letter a layer.
    pub layout: String,
    /// Mean score.
    pub score: f64,
}

/// The trace of one task's search, complete or not; `None` where it has not begun.
pub fn trace(events: &[Event], task: &str) -> Option<Trace> {
    let mut trace = Trace { parent: Layout::parent(0), minimum: f64::NAN, evaluations: Vec::new(), decisions: Vec::new(), reached: false };
    // A run that lost a unit tells of it once more, and then the later counts.
    let (mut steps, mut decisions) = (HashMap::new(), HashMap::new());
    for event in events {
        match event {
            Event::Evaluated { task: name, round, layout, from, to, score, loss, divergence, full_evaluation_equivalents, seconds }
                if name == task =>
            {
                let (Ok(layout), full_evaluation_equivalents) = (layout.parse::<Layout>(), *full_evaluation_equivalents) else { continue };
                let (round, from, to, score) = (*round, *from, *to, *score);
                let (loss, divergence, seconds) = (*loss, *divergence, *seconds);
                let step = Step { round, layout, from, to, score, loss, divergence, full_evaluation_equivalents, seconds };
                let place = *steps.entry((round, step.layout.clone(), from)).or_insert(trace.evaluations.len());
                put(&mut trace.evaluations, place, step);
            }
            Event::Decided { task: name, round, before, layout, score, minimum, verdict, best, confirmation, refitted } if name == task => {
                let (Ok(before), Ok(layout)) = (before.parse::<Layout>(), layout.parse::<Layout>()) else { continue };
                let (round, score, minimum, verdict, best) = (*round, *score, *minimum, *verdict, *best);
                let (confirmation, refitted) = (*confirmation, *refitted);
                trace.minimum = minimum;
                let place = *decisions.entry((round, layout.clone())).or_insert(trace.decisions.len());
                let decision = Decision { round, from: before, layout, score, minimum, verdict, best, confirmation, refitted };
                put(&mut trace.decisions, place, decision);
            }
            Event::Searched { task: name, reached, .. } if name == task => trace.reached = *reached,
            _ => {}
        }
    }
    trace.parent = Layout::parent(trace.evaluations.first()?.layout.layers());
    Some(trace)
}

/// Puts an item at its place, which may be behind the last one.
fn put<T>(list: &mut Vec<T>, place: usize, item: T) {
    if place == list.len() {
        list.push(item);
    } else {
        list[place] = item;
    }
}

/// Behind the last of the examples that choose; those behind it confirm.
pub fn choosing(trace: &Trace) -> usize {
    let furthest = trace.evaluations.iter().map(|step| step.to).max().unwrap_or(0);
    let confirming = trace.decisions.iter().filter_map(|decision| decision.confirmation).map(|found| found.examples).max();
    furthest - confirming.unwrap_or(0).min(furthest)
}

/// Layouts that were scored on all examples that choose: those left early are not among them.
pub fn scored(events: &[Event], task: &str) -> Vec<Scored> {
    let Some(trace) = trace(events, task) else { return Vec::new() };
    let choosing = choosing(&trace);
    let mut sums: BTreeMap<&Layout, (usize, f64)> = BTreeMap::new();
    // Parts lie one behind the other; students made anew begin again.
    for step in trace.evaluations.iter().filter(|step| step.to <= choosing) {
        let (reached, sum) = sums.entry(&step.layout).or_default();
        if step.from == 0 {
            (*reached, *sum) = (0, 0.0);
        }
        if step.from == *reached {
            (*reached, *sum) = (step.to, *sum + step.score * (step.to - step.from) as f64);
        }
    }
    let whole = sums.into_iter().filter(|(_, (reached, _))| *reached == choosing && choosing > 0);
    whole.map(|(layout, (reached, sum))| Scored { layout: layout.to_string(), score: sum / reached as f64 }).collect()
}
