//! The search of one task, the layouts it is compared with, and the test split.

use std::time::Instant;

use burn::prelude::Backend;
use dtr_attention::MixerBackend;
use dtr_eval::{Scorer, Split, Task};
use dtr_search::{Evaluation, Example, Floor, Layout, Objective, Observation, Operator, Trace, baselines, greedy};

use super::prepare::{Bank, Parent, letter};
use super::{Found, Run};
use crate::error::Error;
use crate::events::Event;
use crate::run_dir::RunDir;
use crate::schema::{Experiment, key};
use crate::terminal::Stage;

/// Memory for the hidden states that candidates of a round share.
pub(super) const CACHE_BYTES: usize = 1 << 30;

/// Scores layouts on one split of a task; every score is kept in the run directory and found again.
struct TaskObjective<'a, B: Backend> {
    parent: &'a Parent<B>,
    bank: &'a Bank<B>,
    directory: &'a RunDir,
    task: &'a str,
    split: Split,
    key: String,
    scorer: Scorer<B>,
    /// What the next candidates differ from in few layers.
    base: Layout,
    /// What the scorer has the hidden states of.
    known: Option<Layout>,
    /// Work of the last change of base, counted with the evaluation that follows it.
    owed: f64,
}

impl<'a, B: MixerBackend> TaskObjective<'a, B> {
    fn new(
        (experiment, directory): (&Experiment, &'a RunDir),
        (parent, bank): (&'a Parent<B>, &'a Bank<B>),
        (name, task): (&'a str, &dyn Task),
        split: Split,
        device: &B::Device,
    ) -> Self {
        let sizes = &experiment.tasks()[name];
        let count = if split == Split::Test { sizes.test } else { sizes.validation };
        let examples = task.examples(name, split, count);
        let base = Layout::parent(parent.config.layers());
        Self {
            parent,
            bank,
            directory,
            task: name,
            split,
            key: key(&(&parent.identity, &bank.identity, name, sizes.kind.key(), count, experiment.device().to_string())),
            scorer: Scorer::new(&examples, task.metric(), &parent.model, CACHE_BYTES, device),
            owed: rebase_work(base.layers(), 0),
            base,
            known: None,
        }
    }
}

/// Layers run to change the base where the first `shared` stay, as a share of a full evaluation.
fn rebase_work(layers: usize, shared: usize) -> f64 {
    (layers - 1).saturating_sub(shared) as f64 / layers as f64
}

impl<B: MixerBackend> Objective for TaskObjective<'_, B> {
    type Error = Error;

    fn evaluate(&mut self, layout: &Layout) -> Result<Evaluation, Error> {
        let path = format!("search/{}/{}/{layout}.json", self.task, self.split.name());
        let owed = std::mem::take(&mut self.owed);
        if let Some(evaluation) = self.directory.load_unit(&path, &self.key)? {
            return Ok(evaluation);
        }
        let began = Instant::now();
        if self.known.as_ref() != Some(&self.base) {
            let shared = self.known.as_ref().map_or(0, |known| known.shared_prefix(&self.base));
            self.scorer.rebase(&self.parent.hybrid(&self.base, self.bank).1, shared);
            self.known = Some(self.base.clone());
        }
        let layers = layout.layers();
        // The base's own last layer is never kept: scoring the base runs that one again.
        let shared = layout.shared_prefix(&self.base).min(layers - 1);
        let scores = self.scorer.score(&self.parent.hybrid(layout, self.bank).1, shared);
        // What the plan of work says, not what this start had to do: the same in a run that was broken off.
        let work = if self.scorer.is_caching() { owed + (layers - shared) as f64 / layers as f64 } else { 1.0 };
        let evaluation = Evaluation {
            score: scores.score(),
            loss: scores.loss(),
            examples: scores.examples.iter().map(|&(score, loss)| Example { score, loss }).collect(),
            full_evaluation_equivalents: work,
            seconds: began.elapsed().as_secs_f64(),
        };
        self.directory.save_unit(&path, &self.key, &evaluation)?;
        Ok(evaluation)
    }

    fn committed(&mut self, layout: &Layout) -> Result<(), Error> {
        self.owed = rebase_work(layout.layers(), layout.shared_prefix(&self.base));
        self.base = layout.clone();
        Ok(())
    }
}

impl Run<'_> {
    /// Searches a layout for one task, scores what it is compared with, and reports all of them on the test split.
    pub(super) fn search<B: MixerBackend>(
        &mut self,
        parent: &Parent<B>,
        bank: &Bank<B>,
        name: &str,
        task: &dyn Task,
        device: &B::Device,
    ) -> Result<Found, Error> {
        let layers = parent.config.layers();
        let menu: Vec<Operator> = self.operators.iter().map(letter).collect();
        let floor = self.experiment.search().floor;
        let bar = self.progress.stage(&format!("searching {name}"), (1 + menu.len() * layers * (layers + 1) / 2) as u64, "layouts");
        let (here, models) = ((self.experiment, &self.directory), (parent, bank));
        let mut objective = TaskObjective::new(here, models, (name, task), Split::Validation, device);
        let (log, mut emitted) = (&mut self.log, Ok(()));
        let result = greedy(&mut objective, layers, &menu, Floor::share(floor)?, &mut |observation| {
            tell(&observation, &bar);
            if emitted.is_ok() {
                emitted = log.emit(event(name, &observation));
            }
        });
        emitted?;
        let trace = result?;
        bar.finish();
        log.emit(searched(name, task.metric().name(), floor, &trace))?;

        let found = Found { task: name.into(), m_best: trace.m_best().clone(), m_opt: trace.m_opt().clone() };
        let others = self.baselines(bank, layers, found.m_opt.replaced());
        let chosen = found.models();
        let layouts: Vec<&Layout> = chosen.iter().map(|(_, layout)| layout).chain(others.iter().map(|(_, layout)| layout)).collect();
        let bar = self.progress.stage(&format!("testing {name}"), 2 * layouts.len() as u64, "layouts");
        // What remains to be scored resembles the parent more than any other layout.
        objective.committed(&trace.parent)?;
        let validation = scores(&mut objective, &layouts, &bar)?;
        drop(objective);
        let test = scores(&mut TaskObjective::new(here, models, (name, task), Split::Test, device), &layouts, &bar)?;
        bar.finish();
        let mut pairs = validation.into_iter().zip(test);
        for ((model, layout), (validation, test)) in chosen.into_iter().zip(&mut pairs) {
            self.log.emit(Event::Tested { task: name.into(), model, layout: layout.to_string(), validation, test })?;
        }
        for ((baseline, layout), (validation, test)) in others.into_iter().zip(pairs) {
            self.log.emit(Event::Baseline { task: name.into(), name: baseline, layout: layout.to_string(), validation, test })?;
        }
        Ok(found)
    }

    /// Layouts found without search, with as many layers replaced; each layer by its best student.
    fn baselines<B: Backend>(&self, bank: &Bank<B>, layers: usize, replaced: usize) -> Vec<(String, Layout)> {
        if replaced == 0 {
            return Vec::new();
        }
        let best = |layer: usize| {
            let of_layer = bank.losses.iter().filter(|((at, _), _)| *at == layer).map(|((_, operator), loss)| (*operator, *loss));
            of_layer.min_by(|a, b| a.1.total_cmp(&b.1)).expect("every layer has a student")
        };
        let (operators, losses): (Vec<Operator>, Vec<f64>) = (0..layers).map(best).unzip();
        let random = |k: usize| {
            let seed = self.experiment.seed().wrapping_add(k as u64);
            (format!("random-{k}"), baselines::random(&operators, replaced, seed))
        };
        let mut found = vec![("uniform".to_owned(), baselines::uniform(&operators, replaced))];
        found.extend((0..self.experiment.search().random_layouts).map(random));
        found.push(("local-importance".to_owned(), baselines::local_importance(&operators, replaced, &losses)));
        found
    }
}

fn scores<B: MixerBackend>(objective: &mut TaskObjective<'_, B>, layouts: &[&Layout], bar: &Stage) -> Result<Vec<f64>, Error> {
    let score = |layout: &&Layout| {
        let evaluation = objective.evaluate(layout)?;
        bar.inc(1);
        Ok(evaluation.score)
    };
    layouts.iter().map(score).collect()
}

fn tell(observation: &Observation<'_>, bar: &Stage) {
    match observation {
        Observation::Evaluated(_) => bar.inc(1),
        Observation::Decided(decision) => {
            let verdict = if decision.committed { "kept" } else { "refused" };
            bar.message(&format!("{} {verdict}, {:.1} %", decision.layout, 100.0 * decision.score));
        }
    }
}

fn event(task: &str, observation: &Observation<'_>) -> Event {
    match observation {
        Observation::Evaluated(step) => Event::Evaluated {
            task: task.into(),
            round: step.round,
            layout: step.layout.to_string(),
            score: step.score,
            loss: step.loss,
            full_evaluation_equivalents: step.full_evaluation_equivalents,
            seconds: step.seconds,
        },
        Observation::Decided(decision) => Event::Decided {
            task: task.into(),
            round: decision.round,
            layout: decision.layout.to_string(),
            score: decision.score,
            minimum: decision.minimum,
            committed: decision.committed,
            best: decision.best,
        },
    }
}

fn searched(task: &str, metric: &str, floor: f64, trace: &Trace) -> Event {
    Event::Searched {
        task: task.into(),
        metric: metric.into(),
        strategy: "greedy".into(),
        floor,
        evaluations: trace.evaluations.len(),
        full_evaluation_equivalents: trace.full_evaluation_equivalents(),
        seconds: trace.seconds(),
    }
}
