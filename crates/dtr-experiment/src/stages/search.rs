//! The search of one task, the layouts it is compared with, and the test split.

use std::ops::Range;

use dtr_attention::TrainBackend;
use dtr_eval::Split;
use dtr_models::Decoder;
use dtr_search::{Evaluation, Layout, Observation, Operator, Settings, Summary, Trace, baselines, search};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::answers::differing;
use super::objective::{TaskObjective, asked, asked_count};
use super::prepare::{Bank, Parent, letter, operators};
use super::refit::Workshop;
use super::{Found, Run, Texts};
use crate::error::Error;
use crate::events::{Event, Guessing};
use crate::report::interval::wilson;
use crate::schema::{Experiment, Goal, key};
use crate::terminal::Stage;
use crate::words;

/// Where `m_opt` stands among the models a task is reported with.
const M_OPT: usize = 2;

/// What the search is told.
pub(super) fn settings(experiment: &Experiment, prior: Vec<(Operator, f64)>) -> Settings {
    let search = experiment.search();
    Settings {
        strategy: search.strategy,
        layers: prior.len(),
        menu: operators(experiment).iter().map(letter).collect(),
        prior,
        floor: search.floor,
        signal: search.rank,
        racing: search.racing,
        acceptance: search.acceptance,
        swaps: search.swaps,
        goal: match &search.goal {
            Goal::Floor => dtr_search::Goal::Floor,
            Goal::Replaced(count) => dtr_search::Goal::Replaced(*count),
            Goal::CacheBytes(limit) | Goal::PrefillSeconds(limit) | Goal::DecodeSeconds(limit) => dtr_search::Goal::Cost(limit.at_most),
        },
    }
}

/// Of each layer the operator with the lowest distillation loss, and that loss.
pub(super) fn prior(losses: impl Iterator<Item = (usize, Operator, f64)> + Clone, layers: usize) -> Vec<(Operator, f64)> {
    let best = |layer| {
        let of_layer = losses.clone().filter(|(at, ..)| *at == layer).map(|(_, operator, loss)| (operator, loss));
        of_layer.min_by(|a, b| a.1.total_cmp(&b.1)).expect("every layer has a student")
    };
    (0..layers).map(best).collect()
}

/// The examples that choose, and those kept apart, if any.
fn parts(settings: &Settings, examples: usize) -> Vec<Range<usize>> {
    let (select, confirm) = settings.split(examples);
    [select, confirm].into_iter().filter(|part| !part.is_empty()).collect()
}

impl Run<'_> {
    /// Searches a layout for one task, scores what it is compared with, and reports all of them on the test split.
    pub(super) fn search<B: TrainBackend>(
        &mut self,
        parent: &Parent<B::InnerBackend>,
        bank: &Bank<B::InnerBackend>,
        name: &str,
        texts: &Texts,
        device: &B::Device,
    ) -> Result<Found<B::InnerBackend>, Error> {
        let task = texts.tasks[name].as_ref();
        let layers = parent.config.layers();
        let settings =
            settings(self.experiment, prior(bank.losses.iter().map(|((layer, operator), loss)| (*layer, *operator, *loss)), layers));
        let layouts = settings.strategy.layouts(layers, settings.menu.len());
        let sizes = &self.experiment.tasks()[name];
        let examples = asked_count(self.experiment, name);
        let metric = task.metric().name().to_owned();
        self.log.emit(Event::Searching { task: name.into(), metric, validation: sizes.validation, test: sizes.test })?;
        let bar = self.progress.stage(&format!("searching {name}"), layouts as u64, "layouts");
        let truncated = task.truncated(Split::Validation) + task.truncated(Split::Test);
        if truncated > 0 {
            bar.warn(&format!("{truncated} prompts were cut to the model's context"));
        }
        let here = (self.experiment, &self.directory, self.pieces);
        let parts = |count| parts(&settings, count);
        let workshop = Workshop::<B> {
            experiment: self.experiment,
            directory: &self.directory,
            texts,
            parent,
            task: name,
            progress: self.progress,
            pieces: self.pieces,
        };
        let mut refit = |layout: &Layout, bank: &Bank<B::InnerBackend>, made| workshop.refit(layout, bank, made, device);
        let mut objective =
            TaskObjective::new(here, (parent, bank), (name, task), Split::Validation, parts, device)?.with_refit(&mut refit);
        let (log, mut emitted) = (&mut self.log, Ok(()));
        let select = settings.split(examples).0;
        let chance = task.metric().chance(&asked(self.experiment, name, task)[..select.end]);
        let result = search(&mut objective, &settings, &mut |observation| {
            tell(&observation, &select, &bar);
            let guessing = guessing(&observation, chance);
            if let Some(found) = &guessing {
                bar.warn(&words::guessing(found));
            }
            let found = guessing.map(|found| Event::Guessing { task: name.into(), found });
            for event in [Some(event(name, &observation)), found].into_iter().flatten() {
                if emitted.is_ok() {
                    emitted = log.emit(event);
                }
            }
        });
        emitted?;
        let trace = result.map_err(|error| Error::of_search(name, error))?;
        bar.finish();
        log.emit(searched(name, task.metric().name(), &settings, &trace))?;

        let generation = |layout: &Layout| (layout.clone(), objective.generations.of(layout));
        let (m_best, m_opt) = (generation(trace.m_best()), generation(trace.m_opt()));
        let others = self.baselines(&settings.prior, m_opt.0.replaced());
        let mut layouts = vec![generation(&trace.parent), m_best.clone(), m_opt.clone()];
        layouts.extend(others.iter().map(|(_, layout)| (layout.clone(), 0)));
        let bar = self.progress.stage(&format!("testing {name}"), 2 * layouts.len() as u64, "layouts");
        // What remains to be scored resembles the parent more than any other layout.
        let all = [(settings.acceptance.training() == 0).then_some(0..select.end), (select.end < examples).then_some(select.end..examples)];
        let mut validation = scores(&mut objective, &layouts, &all, &bar)?;
        let recovered = recovered::<B>(&workshop, &mut objective, &m_opt, all[1].clone().unwrap_or(0..select.end), device)?;
        if let Some((model, identity, ..)) = &recovered {
            validation[M_OPT] = mean(&all, |part| objective.evaluate_recovered(model, identity, &m_opt.0, part))?;
        }
        let banks = std::mem::take(&mut objective.banks);
        drop(objective);
        let whole = |count| std::iter::once(0..count).collect();
        let mut objective = TaskObjective::new(here, (parent, bank), (name, task), Split::Test, whole, device)?;
        objective.banks = banks;
        let whole = [Some(0..self.experiment.tasks()[name].test)];
        let mut test = scores(&mut objective, &layouts, &whole, &bar)?;
        if let Some((model, identity, before, after)) = &recovered {
            let unrecovered = test[M_OPT];
            test[M_OPT] = mean(&whole, |part| objective.evaluate_recovered(model, identity, &m_opt.0, part))?;
            let (task, before, after) = (name.to_owned(), *before, *after);
            self.log.emit(Event::Recovered { task, before, after, test_before: unrecovered, test_after: test[M_OPT] })?;
        }
        let of_parent = objective.evaluate_in(0, &trace.parent, 0..sizes.test)?.examples;
        let (hybrid, of_hybrid) = match &recovered {
            Some((model, identity, ..)) => (model.clone(), objective.evaluate_recovered(model, identity, &m_opt.0, 0..sizes.test)?),
            None => (parent.hybrid(&m_opt.0, &objective.banks[m_opt.1]).1, objective.evaluate_in(m_opt.1, &m_opt.0, 0..sizes.test)?),
        };
        let questions = task.questions(name, Split::Test, sizes.test);
        let (of_parent, of_hybrid) = ((&parent.model, of_parent.as_slice()), (&hybrid, of_hybrid.examples.as_slice()));
        let answers = differing(name, &task.metric(), of_parent, of_hybrid, &questions, parent.reader.tokenizer(), device)?;
        let banks = std::mem::take(&mut objective.banks);
        drop(objective);
        bar.finish();
        let found = Found { task: name.into(), m_best, m_opt, banks, recovered: recovered.map(|recovered| recovered.0) };
        let mut pairs = validation.into_iter().zip(test);
        for ((model, (layout, _)), (validation, test)) in found.models().into_iter().zip(&mut pairs) {
            self.log.emit(Event::Tested { task: name.into(), model, layout: layout.to_string(), validation, test })?;
        }
        for ((baseline, layout), (validation, test)) in others.into_iter().zip(pairs) {
            self.log.emit(Event::Baseline { task: name.into(), name: baseline, layout: layout.to_string(), validation, test })?;
        }
        for answer in answers {
            self.log.emit(Event::Answered(answer))?;
        }
        Ok(found)
    }

    /// Layouts found without search, with as many layers replaced; each layer by its best student.
    fn baselines(&self, prior: &[(Operator, f64)], replaced: usize) -> Vec<(String, Layout)> {
        if replaced == 0 {
            return Vec::new();
        }
        let random = |k: usize| {
            let mut random = ChaCha8Rng::seed_from_u64(self.experiment.seed().wrapping_add(k as u64));
            (format!("random-{k}"), baselines::random(prior, replaced, &mut random))
        };
        let mut found = vec![("uniform".to_owned(), baselines::uniform(prior, replaced))];
        found.extend((0..self.experiment.search().random_layouts).map(random));
        found.push(("local-importance".to_owned(), baselines::local_importance(prior, replaced)));
        found
    }
}

/// Mean score of each layout over all of the parts, with the students of its generation.
fn scores<B: dtr_attention::MixerBackend>(
    objective: &mut TaskObjective<'_, B>,
    layouts: &[(Layout, usize)],
    parts: &[Option<Range<usize>>],
    bar: &Stage,
) -> Result<Vec<f64>, Error> {
    let mut found = Vec::new();
    for (layout, generation) in layouts {
        found.push(mean(parts, |part| objective.evaluate_in(*generation, layout, part))?);
        bar.inc(1);
    }
    Ok(found)
}

/// Mean score over all of the parts.
fn mean(parts: &[Option<Range<usize>>], mut evaluate: impl FnMut(Range<usize>) -> Result<Evaluation, Error>) -> Result<f64, Error> {
    let mut sum = Summary::default();
    for part in parts.iter().flatten() {
        sum += evaluate(part.clone())?.examples.iter().collect();
    }
    Ok(sum.score())
}

/// The hybrid recovered, what stands for it in keys, and its scores before and after on examples that did not choose it, if there are
/// such; `None` where none is asked for or it would be worse.
#[expect(clippy::type_complexity, reason = "used in one place")]
fn recovered<B: TrainBackend>(
    workshop: &Workshop<'_, B>,
    objective: &mut TaskObjective<'_, B::InnerBackend>,
    (layout, generation): &(Layout, usize),
    examples: Range<usize>,
    device: &B::Device,
) -> Result<Option<(Decoder<B::InnerBackend>, String, f64, f64)>, Error> {
    if workshop.experiment.search().recovery.is_none() || layout.replaced() == 0 {
        return Ok(None);
    }
    let identity = key(&(&objective.banks[*generation].identity, &workshop.experiment.search().recovery));
    let model = workshop.recover(layout, &objective.banks[*generation], device)?;
    let mean = |found: Evaluation| found.examples.iter().collect::<Summary>();
    let before = mean(objective.evaluate_in(*generation, layout, examples.clone())?);
    let after = mean(objective.evaluate_recovered(&model, &identity, layout, examples)?);
    let better = (after.score(), -after.loss()) >= (before.score(), -before.loss());
    Ok(better.then(|| (model, identity, before.score(), after.score())))
}

fn tell(observation: &Observation<'_>, select: &Range<usize>, bar: &Stage) {
    match observation {
        // A layout that is left early counts, too, and one that is asked about again does not.
        Observation::Evaluated(step) => bar.inc(u64::from(step.from == 0)),
        Observation::Decided(decision) => {
            let verdict = match decision.verdict {
                dtr_search::Verdict::Kept => "kept",
                dtr_search::Verdict::GoneOn => "on the way",
                dtr_search::Verdict::BelowFloor => "below the floor",
                dtr_search::Verdict::Unconfirmed => "not confirmed",
            };
            bar.message(&format!("{} {:.3} on {} examples, {verdict}", decision.layout, decision.score, select.len()));
        }
    }
}

/// Whether what was scored is the parent, on the examples that choose, and is no better than guessing.
fn guessing(observation: &Observation<'_>, chance: f64) -> Option<Guessing> {
    let Observation::Evaluated(step) = observation else { return None };
    let interval = wilson(step.score, step.to).filter(|interval| step.round == 0 && step.from == 0 && interval[0] <= chance)?;
    Some(Guessing { score: step.score, interval, chance, examples: step.to })
}

fn event(task: &str, observation: &Observation<'_>) -> Event {
    match observation {
        Observation::Evaluated(step) => Event::Evaluated {
            task: task.into(),
            round: step.round,
            layout: step.layout.to_string(),
            from: step.from,
            to: step.to,
            score: step.score,
            loss: step.loss,
            divergence: step.divergence,
            full_evaluation_equivalents: step.full_evaluation_equivalents,
            seconds: step.seconds,
        },
        Observation::Decided(decision) => Event::Decided {
            task: task.into(),
            round: decision.round,
            before: decision.from.to_string(),
            layout: decision.layout.to_string(),
            score: decision.score,
            minimum: decision.minimum,
            verdict: decision.verdict,
            best: decision.best,
            confirmation: decision.confirmation,
            refitted: decision.refitted,
        },
    }
}

fn searched(task: &str, metric: &str, settings: &Settings, trace: &Trace) -> Event {
    Event::Searched {
        task: task.into(),
        metric: metric.into(),
        strategy: settings.strategy.name().into(),
        floor: settings.floor,
        reached: trace.reached,
        evaluations: trace.layouts(),
        full_evaluation_equivalents: trace.full_evaluation_equivalents(),
        seconds: trace.seconds(),
    }
}
