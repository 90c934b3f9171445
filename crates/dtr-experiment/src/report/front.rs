//! Score against cost: what each scored layout takes at the longest context, and which of them no other beats.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::events::{Efficiency, Event, Model};
use crate::report::{Report, replaced};
use crate::rounds::scored;

/// A layout with its score and cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// One letter a layer.
    pub layout: String,
    /// What it is known as, if it is.
    pub name: String,
    /// Layers that are no longer the parent's.
    pub replaced: usize,
    /// Score on the examples that choose.
    pub validation: f64,
    /// Seconds to generate a token after `context` tokens; of an encoder, to read one of as many.
    pub decode_seconds: f64,
    /// Bytes of keys, values and states there.
    pub cache_bytes: f64,
    /// Tokens in the context.
    pub context: usize,
    /// Whether the cost was measured. Else it follows from the parent and the models in which one operator is everywhere: time and
    /// bytes add up over layers.
    pub measured: bool,
    /// Whether no other layout is better in score, time or cache without being worse in another of them.
    pub front: bool,
}

/// All layouts of one task's search that were scored on all examples that choose, and those it is compared with.
pub fn points(task: &str, report: &Report, events: &[Event]) -> Vec<Point> {
    let Some(found) = report.tasks.get(task) else { return Vec::new() };
    let Some(costs) = Costs::new(task, report) else { return Vec::new() };
    let parent = "S".repeat(report.parent.layers);
    // By layout, so that each stands there once: first what it scored in the search, then what it is known as.
    let mut layouts: BTreeMap<String, (String, f64)> = BTreeMap::new();
    for layout in scored(events, task) {
        layouts.insert(layout.layout, (String::new(), layout.score));
    }
    for baseline in &found.baselines {
        layouts.insert(baseline.hybrid.layout.clone(), (baseline.name.clone(), baseline.hybrid.validation));
    }
    if found.tested() {
        for (name, layout, validation) in [
            ("parent", &parent, found.parent.validation),
            ("m_best", &found.m_best.layout, found.m_best.validation),
            ("m_opt", &found.m_opt.layout, found.m_opt.validation),
        ] {
            layouts.insert(layout.clone(), (name.into(), validation));
        }
    }
    let point = |(layout, (name, validation)): (String, (String, f64))| {
        let (decode_seconds, cache_bytes, measured) = costs.of(&layout)?;
        let (replaced, context) = (replaced(&layout), costs.context);
        Some(Point { layout, name, replaced, validation, decode_seconds, cache_bytes, context, measured, front: false })
    };
    let mut points: Vec<Point> = layouts.into_iter().filter_map(point).collect();
    let values: Vec<[f64; 3]> = points.iter().map(|point| [-point.validation, point.decode_seconds, point.cache_bytes]).collect();
    for (point, own) in points.iter_mut().zip(&values) {
        let beats = |other: &[f64; 3]| other.iter().zip(own).all(|(a, b)| a <= b) && other.iter().zip(own).any(|(a, b)| a < b);
        point.front = !values.iter().any(beats);
    }
    points
}

/// What layouts cost at the longest context at which everything needed was measured.
struct Costs<'a> {
    context: usize,
    parent: &'a Efficiency,
    rows: Vec<&'a Efficiency>,
}

impl<'a> Costs<'a> {
    fn new(task: &str, report: &'a Report) -> Option<Self> {
        let of_task: Vec<&Efficiency> = report.efficiency.iter().filter(|row| row.task == task).collect();
        let parent = *of_task.iter().filter(|row| row.model == Model::Parent).max_by_key(|row| row.context)?;
        let context = parent.context;
        Some(Self { context, parent, rows: of_task.into_iter().filter(|row| row.context == context).collect() })
    }

    /// Seconds a token, bytes, and whether they were measured.
    fn of(&self, layout: &str) -> Option<(f64, f64, bool)> {
        let cost = |row: &Efficiency| (1.0 / row.decode_tokens_per_second.unwrap_or(row.prefill_tokens_per_second), row.cache_bytes as f64);
        if let Some(row) = self.rows.iter().find(|row| row.layout == layout) {
            let (seconds, bytes) = cost(row);
            return Some((seconds, bytes, true));
        }
        let layers = layout.chars().count() as f64;
        let (mut seconds, mut bytes) = cost(self.parent);
        let (parent_seconds, parent_bytes) = (seconds, bytes);
        for letter in layout.chars().filter(|&letter| letter != 'S') {
            let everywhere = |row: &&&Efficiency| row.model == Model::AllLinear && row.layout.starts_with(letter);
            let (all_seconds, all_bytes) = cost(self.rows.iter().find(everywhere)?);
            seconds += (all_seconds - parent_seconds) / layers;
            bytes += (all_bytes - parent_bytes) / layers;
        }
        Some((seconds, bytes, false))
    }
}

/// Of points with a cost, those with a higher score than any that costs no more, cheapest first: the corners of the front.
pub fn corners(points: &[Point], cost: impl Fn(&Point) -> f64) -> Vec<&Point> {
    let mut sorted: Vec<&Point> = points.iter().collect();
    sorted.sort_by(|a, b| cost(a).total_cmp(&cost(b)).then(b.validation.total_cmp(&a.validation)));
    let mut best = f64::NEG_INFINITY;
    sorted.retain(|point| {
        let higher = point.validation > best;
        best = best.max(point.validation);
        higher
    });
    sorted
}
