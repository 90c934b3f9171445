//! All strategies beside each other, on the scores of a run that searched exhaustively: no model runs, so each is tried on many
//! draws of the examples, and what a layout is truly worth is known from examples that the draw left out.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::Range;
use std::path::PathBuf;

use dtr_eval::Split;
use dtr_search::statistics::mean_and_margin;
use dtr_search::{
    Acceptance, Confirm, Evaluation, Example, Floor, Layout, Objective, Racing, Ranking, SearchError, Settings, Signal, Strategy, search,
};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use super::objective::unit;
use super::replay::Recorded;
use crate::error::Error;
use crate::events::Event;
use crate::schema::Experiment;

/// How a study is done.
#[derive(Debug, Clone, Copy)]
pub struct Study {
    /// Draws of examples.
    pub draws: usize,
    /// Share of a task's examples that are a draw's validation split. Half as many more choose where training examples do; the others tell
    /// what is true.
    pub share: f64,
    /// Of the parent's score.
    pub floor: f64,
    /// That no floor is broken.
    pub confidence: f64,
}

/// One way to search, over all runs and draws.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Strategy and rule.
    pub name: String,
    /// Layers replaced, mean.
    pub replaced: f64,
    /// Half of the 95 % interval of that mean: over the runs, or over the draws of a single run.
    pub replaced_margin: f64,
    /// Share of searches whose result is below the floor on the examples left out.
    pub broken: f64,
    /// Score on them as a share of the parent's, mean.
    pub kept: f64,
    /// Layouts looked at, mean.
    pub layouts: f64,
    /// Examples looked at in units of all of a search's examples for one layout, mean.
    pub evaluations: f64,
}

/// What one search found.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    replaced: f64,
    /// Share of the parent's score on the examples left out.
    kept: f64,
    layouts: f64,
    evaluations: f64,
}

impl Row {
    /// Of the outcomes of each run.
    fn new(name: String, runs: &[Vec<Outcome>], floor: f64) -> Self {
        let all: Vec<&Outcome> = runs.iter().flatten().collect();
        let mean = |of: &dyn Fn(&Outcome) -> f64| all.iter().map(|outcome| of(outcome)).sum::<f64>() / all.len() as f64;
        // Draws of one run share its students and its examples: runs are what is independent.
        let by_run = |run: &Vec<Outcome>| run.iter().map(|outcome| outcome.replaced).sum::<f64>() / run.len() as f64;
        let replaced: Vec<f64> = match runs {
            [single] => single.iter().map(|outcome| outcome.replaced).collect(),
            several => several.iter().map(by_run).collect(),
        };
        Self {
            name,
            replaced: mean(&|outcome| outcome.replaced),
            replaced_margin: mean_and_margin(&replaced).1,
            broken: mean(&|outcome| f64::from(u8::from(outcome.kept < floor))),
            kept: mean(&|outcome| outcome.kept),
            layouts: mean(&|outcome| outcome.layouts),
            evaluations: mean(&|outcome| outcome.evaluations),
        }
    }
}

/// A recorded table of scores, and the examples that a search may use.
struct Table<'a> {
    scores: &'a HashMap<Layout, Vec<Example>>,
    examples: &'a [usize],
    /// Examples of one full evaluation.
    unit: usize,
}

impl Objective for Table<'_> {
    type Error = Infallible;

    fn examples(&self) -> usize {
        self.examples.len()
    }

    fn evaluate(&mut self, layout: &Layout, examples: Range<usize>) -> Result<Evaluation, Infallible> {
        let work = examples.len() as f64 / self.unit as f64;
        let scores = &self.scores[layout];
        let examples = self.examples[examples].iter().map(|&index| scores[index]).collect();
        Ok(Evaluation { examples, full_evaluation_equivalents: work, seconds: 0.0 })
    }

    fn cost(&mut self, layout: &Layout) -> Result<f64, Infallible> {
        Ok((layout.layers() - layout.replaced()) as f64)
    }
}

/// Share of the parent's score on some examples.
fn kept(scores: &HashMap<Layout, Vec<Example>>, layout: &Layout, examples: &[usize]) -> f64 {
    let sum = |layout: &Layout| examples.iter().map(|&index| f64::from(scores[layout][index].score)).sum::<f64>();
    sum(layout) / sum(&Layout::parent(layout.layers()))
}

/// Strategies and rules that are compared.
fn contenders(settings: &Settings, study: &Study, used: usize) -> Vec<(String, Settings)> {
    let paper = Settings {
        strategy: Strategy::Greedy,
        signal: Signal::Score,
        racing: Racing::Exact,
        acceptance: Acceptance::Point,
        floor: Floor::Share(study.floor),
        goal: dtr_search::Goal::Floor,
        swaps: 1,
        ..settings.clone()
    };
    let bound = |confirm| Acceptance::Bound { confirm, confidence: study.confidence, retries: 0 };
    let half = bound(Confirm::Share(0.5));
    let all = bound(Confirm::AllBut { training: used / 2 });
    let racing = Racing::Statistical { error: 0.05 };
    let mut found = vec![
        ("Algorithm 1".to_owned(), paper.clone()),
        (
            "Algorithm 1, half of the examples".to_owned(),
            Settings { acceptance: Acceptance::Bound { confirm: Confirm::Share(0.5), confidence: 1e-9, retries: 0 }, ..paper.clone() },
        ),
        ("Algorithm 1, bound, half confirms".to_owned(), Settings { acceptance: half, ..paper.clone() }),
        ("Algorithm 1, bound, all confirms".to_owned(), Settings { acceptance: all, ..paper.clone() }),
    ];
    let by_divergence = [
        Strategy::Greedy,
        Strategy::Floating,
        Strategy::Beam { width: 3 },
        Strategy::Front { layouts: 100 },
        Strategy::Exhaustive,
        Strategy::Ranked(Ranking::SwapDivergence),
        Strategy::Ranked(Ranking::SwapLoss),
        Strategy::Ranked(Ranking::RestoreDivergence),
        Strategy::Ranked(Ranking::LocalImportance),
        Strategy::Uniform,
        Strategy::Random { layouts: 36, seed: 0 },
    ]
    .map(|strategy| (strategy, Signal::Divergence));
    for (strategy, signal) in [(Strategy::Greedy, Signal::Loss)].into_iter().chain(by_divergence) {
        for (rule, acceptance) in [("point", Acceptance::Point), ("bound, half confirms", half), ("bound, all confirms", all)] {
            let settings = Settings { strategy, signal, racing, acceptance, ..paper.clone() };
            let by = if signal == Signal::Loss { "loss" } else { "divergence" };
            found.push((format!("{}, by {by}, {rule}", strategy.name()), settings));
        }
    }
    found
}

/// A run that a study rests on.
#[derive(Debug)]
pub struct Recording {
    /// Its directory.
    pub root: PathBuf,
    /// What it was told.
    pub experiment: Experiment,
    /// What it said.
    pub events: Vec<Event>,
}

/// Tries every strategy on draws of the recorded examples of `task`, in each of the runs.
///
/// # Errors
/// If one of them has not searched that task exhaustively to its end.
pub fn study(recordings: &[Recording], task: &str, study: &Study) -> Result<Vec<Row>, Error> {
    let mut rows: Vec<(String, Vec<Vec<Outcome>>)> = Vec::new();
    for recording in recordings {
        for (place, (name, outcomes)) in outcomes(recording, task, study)?.into_iter().enumerate() {
            if place == rows.len() {
                rows.push((name, Vec::new()));
            }
            rows[place].1.push(outcomes);
        }
    }
    Ok(rows.into_iter().map(|(name, runs)| Row::new(name, &runs, study.floor)).collect())
}

/// What each contender finds in the draws of one run, the ceiling in front.
fn outcomes(recording: &Recording, task: &str, study: &Study) -> Result<Vec<(String, Vec<Outcome>)>, Error> {
    let Recording { root, experiment, events } = recording;
    if !experiment.search().tasks.iter().any(|name| name == task) {
        return Err(Error::NoSearch { directory: root.clone() });
    }
    let (mut recorded, settings) = Recorded::new(root, experiment, events, task)?;
    let all = recorded.examples();
    let used = (study.share * all as f64).round() as usize;
    if experiment.search().strategy != Strategy::Exhaustive || settings.split(all).0.len() != all || used < 2 || used + used / 2 >= all {
        return Err(Error::NoStudy { directory: root.clone(), examples: all, used });
    }
    let mut scores = HashMap::new();
    for layout in dtr_search::strategy::all_layouts(settings.layers, &settings.menu) {
        let found: Evaluation = recorded.read(&unit(task, Split::Validation, "0", &layout, &(0..all)), Some(0))?;
        scores.insert(layout, found.examples);
    }
    let mut found = vec![("ceiling: all layouts, all examples".to_owned(), vec![ceiling(&scores, all, study, used)])];
    for (name, settings) in contenders(&settings, study, used) {
        let outcomes = (0..study.draws).into_par_iter().map(|draw| outcome(task, (&scores, all, used), &settings, draw));
        found.push((name, outcomes.collect::<Result<_, _>>()?));
    }
    Ok(found)
}

/// What a search finds on one draw of all examples.
fn outcome(
    task: &str,
    (scores, all, used): (&HashMap<Layout, Vec<Example>>, usize, usize),
    settings: &Settings,
    draw: usize,
) -> Result<Outcome, Error> {
    let mut order: Vec<usize> = (0..all).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(draw as u64));
    let (may, truth) = order.split_at(used + used / 2);
    let mut table = Table { scores, examples: &may[used / 2 - settings.acceptance.training()..], unit: used };
    let trace = match search(&mut table, settings, &mut |_| {}) {
        Ok(trace) => trace,
        Err(SearchError::Objective(never)) => match never {},
        Err(error) => return Err(Error::Search { task: task.into(), reason: error.to_string() }),
    };
    Ok(Outcome {
        replaced: trace.m_opt().replaced() as f64,
        kept: kept(scores, trace.m_opt(), truth),
        layouts: trace.layouts() as f64,
        evaluations: trace.full_evaluation_equivalents(),
    })
}

/// The most layers that any layout may replace, judged by all examples.
fn ceiling(scores: &HashMap<Layout, Vec<Example>>, all: usize, study: &Study, used: usize) -> Outcome {
    let examples: Vec<usize> = (0..all).collect();
    let holding = scores.keys().map(|layout| (layout.replaced(), kept(scores, layout, &examples))).filter(|found| found.1 >= study.floor);
    let (replaced, kept) = holding.max_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))).unwrap_or((0, 1.0));
    let layouts = scores.len() as f64;
    Outcome { replaced: replaced as f64, kept, layouts, evaluations: layouts * all as f64 / used as f64 }
}
