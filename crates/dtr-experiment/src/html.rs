//! The page `report.html`: one file, nothing loaded from elsewhere; words and numbers for people.

pub(crate) mod compare;
mod front;
mod speed;
mod students;
mod task;

use minijinja::{AutoEscape, Environment, Value, context};

use crate::events::Event;
use crate::report::Report;
use crate::words::count;

pub use compare::{Compared, compare, differences};

/// What a page says beside what happened.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// The command that reproduces the run.
    pub command: &'a str,
    /// Whether the page is written anew as the run goes on, and shows itself anew.
    pub live: bool,
}

/// The page for a run that is done, goes on, or broke off.
///
/// # Panics
/// Never: the template is part of the program and tested.
pub fn render(report: &Report, events: &[Event], page: Page<'_>) -> String {
    let tasks: Vec<Value> = report.tasks.iter().map(|(name, task)| task::context(name, task, report, events)).collect();
    let searching = report.tasks.iter().filter(|(_, task)| task.search.strategy.is_empty()).map(|(name, _)| name.clone());
    fill(
        "report",
        include_str!("../templates/report.html"),
        context! {
            experiment => report.experiment.clone(),
            device => report.device.clone(),
            seed => report.seed,
            complete => report.complete,
            live => page.live && !report.complete,
            model_type => report.parent.model_type.clone(),
            layers => report.parent.layers,
            parameters => format!("{:.2}", report.parent.parameters as f64 / 1e6),
            took => crate::words::duration(report.seconds),
            evaluations => count(events.len() as f64),
            tasks,
            command => page.command,
            searching => searching.collect::<Vec<_>>(),
            students => students::context(report, events),
        },
    )
}

/// A template of this program with its values put in, all of them escaped.
fn fill(name: &str, template: &str, values: Value) -> String {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_global("style", Value::from_safe_string(include_str!("../templates/style.css").into()));
    let page = environment.render_named_str(name, template, values);
    page.expect("the template renders every report")
}

#[cfg(test)]
mod tests {
    use dtr_search::Verdict;

    use super::*;
    use crate::events::Model;

    fn evaluated(round: usize, layout: &str, score: f64) -> Event {
        let task = "recall".to_owned();
        let (from, to, loss, divergence, full_evaluation_equivalents, seconds) = (0, 64, 0.1, 0.0, 1.0, 2.0);
        Event::Evaluated { task, round, layout: layout.into(), from, to, score, loss, divergence, full_evaluation_equivalents, seconds }
    }

    fn decided(round: usize, layout: &str, score: f64, committed: bool) -> Event {
        let verdict = if committed { Verdict::Kept } else { Verdict::BelowFloor };
        let (task, before, layout, confirmation) = ("recall".into(), "SS".into(), layout.into(), None);
        Event::Decided { task, round, before, layout, score, minimum: 0.9, verdict, best: committed, confirmation, refitted: None }
    }

    fn begun() -> Vec<Event> {
        vec![
            Event::Started { experiment: "<b>first</b>".into(), device: "flex".into(), seed: 7 },
            Event::Parent { model_type: "qwen3".into(), layers: 2, parameters: 1_500_000 },
            Event::Distilling { operator: "gated-delta".into(), tokens: 1000, normalised_mse: vec![0.5, 0.25] },
            Event::Student { layer: 0, operator: "gated-delta".into(), normalised_mse: 0.4 },
            Event::Student { layer: 0, operator: "gated-delta".into(), normalised_mse: 0.3 },
            evaluated(0, "SS", 0.95),
            evaluated(1, "GS", 0.94),
            decided(1, "GS", 0.94, true),
        ]
    }

    fn ended(parent: f64, hybrid: f64) -> Vec<Event> {
        let tested =
            |model, layout: &str, test| Event::Tested { task: "recall".into(), model, layout: layout.into(), validation: 0.94, test };
        let mut events = begun();
        events.extend([
            decided(2, "GG", 0.5, false),
            Event::Searched {
                task: "recall".into(),
                metric: "exact match".into(),
                strategy: "greedy".into(),
                floor: dtr_search::Floor::Share(0.95),
                reached: false,
                evaluations: 4,
                full_evaluation_equivalents: 3.5,
                seconds: 8.0,
            },
            tested(Model::Parent, "SS", parent),
            tested(Model::MBest, "GS", hybrid),
            tested(Model::MOpt, "GS", hybrid),
            Event::Finished { seconds: 12.0 },
        ]);
        events
    }

    fn page(events: &[Event]) -> String {
        render(&Report::from_events(events), events, Page { command: "cargo xtask run <file>", live: true })
    }

    #[test]
    fn a_report_is_what_was_said_last() {
        let report = Report::from_events(&ended(0.9, 0.81));
        assert_eq!((report.seed, report.parent.layers, report.complete), (7, 2, true));
        assert_eq!(report.distillation.students.len(), 1);
        assert!((report.distillation.students[0].normalised_mse - 0.3).abs() < 1e-12);
        let task = &report.tasks["recall"];
        assert_eq!((task.m_opt.layout.as_str(), task.m_opt.replaced, task.search.evaluations), ("GS", 1, 4));
        assert!((task.kept(&task.m_opt).unwrap() - 0.9).abs() < 1e-12);
    }

    #[test]
    fn a_parent_that_guesses_is_said_and_named() {
        let mut events = ended(0.26, 0.26);
        let sure = page(&events);
        assert!(!sure.contains("guessing") && !crate::terminal::summary(&Report::from_events(&events)).contains("WARNING"));
        let found = crate::events::Guessing { score: 0.26, interval: [0.16, 0.38], chance: 0.25, examples: 64 };
        events.insert(5, Event::Guessing { task: "recall".into(), found });
        let report = Report::from_events(&events);
        let (page, summary) = (page(&events), crate::terminal::summary(&report));
        for part in ["26.0 % (16.0–38.0) on the 64 examples", "guessing scores 25.0 %"] {
            assert!(page.contains(part) && summary.contains(part), "{part:?} is missing in {summary}");
        }
        assert!(page.contains("the parent guesses") && summary.contains("recall: WARNING"));
        let line = serde_json::to_string(&events[5]).expect("JSON");
        assert_eq!(serde_json::from_str::<Event>(&line).expect("an event"), events[5], "{line}");
    }

    #[test]
    fn a_run_under_way_shows_what_was_replaced_so_far() {
        let page = page(&begun());
        assert!(page.contains("not complete") && page.contains("searching <bdi>recall</bdi>"));
        assert!(
            page.contains("<title>layer 0: S to G, 94.0 % with it: kept</title>") && page.contains("against the number of layers replaced")
        );
        assert!(page.contains("http-equiv=\"refresh\""));
        assert!(!page.contains("<b>first") && page.contains("&lt;b&gt;first"));
        assert!(render(&Report::default(), &[], Page { command: "", live: false }).contains("No task has been searched"));
    }

    #[test]
    fn a_broken_floor_is_said_and_a_refused_swap_shown() {
        let broken = page(&ended(0.9, 0.81));
        assert!(broken.contains("floor of 95 % of the parent broken on test, by 5.0 points") && broken.contains("refused"));
        let held = page(&ended(0.9, 0.88));
        assert!(held.contains("holds on test") && !held.contains("broken on test"));
    }

    #[test]
    fn a_finished_page_stays_as_it_is_and_a_broken_off_one_too() {
        assert!(!page(&ended(0.9, 0.88)).contains("http-equiv=\"refresh\""));
        let events = begun();
        let broken_off = render(&Report::from_events(&events), &events, Page { command: "", live: false });
        assert!(broken_off.contains("not complete") && !broken_off.contains("http-equiv=\"refresh\""));
    }

    #[test]
    fn speeds_are_told_with_spread_crossover_and_front() {
        let row = |model, layout: &str, context: usize, decode: f64, cache_bytes| {
            Event::Efficiency(crate::events::Efficiency {
                context,
                model,
                task: "recall".into(),
                layout: layout.into(),
                prefill_tokens_per_second: 1000.0,
                prefill_tokens_per_second_range: Some([900.0, 1100.0]),
                decode_tokens_per_second: Some(decode),
                decode_tokens_per_second_range: None,
                first_token_seconds: Some(0.5),
                first_token_seconds_range: None,
                peak_bytes: Some(3 << 20),
                cache_bytes,
            })
        };
        let mut events = ended(0.9, 0.88);
        events.extend([
            row(Model::Parent, "SS", 512, 100.0, 1000),
            row(Model::MOpt, "GS", 512, 50.0, 600),
            row(Model::AllLinear, "GG", 512, 40.0, 200),
        ]);
        events.extend([
            row(Model::Parent, "SS", 2048, 25.0, 4000),
            row(Model::MOpt, "GS", 2048, 50.0, 2100),
            row(Model::AllLinear, "GG", 2048, 40.0, 200),
        ]);
        let report = Report::from_events(&events);
        let found = &report.crossovers[0];
        assert_eq!((found.model, found.layout.as_str(), found.contexts), (Model::MOpt, "GS", [512, 2048]));
        assert_eq!(found.prefill, crate::report::Crossing::Nowhere);
        let Some(crate::report::Crossing::From(at)) = found.decode else { panic!("{found:?}") };
        assert!((at - 1024.0).abs() < 1e-6);
        // Half the cost of replacing both, by layers; but what was measured counts.
        let points = crate::report::front::points("recall", &report, &events);
        let cost =
            |layout: &str| points.iter().find(|point| point.layout == layout).map(|point| (point.cache_bytes as usize, point.measured));
        assert_eq!((cost("SS"), cost("GS"), cost("GG")), (Some((4000, true)), Some((2100, true)), None));
        let page = page(&events);
        for part in ["from about 1000 tokens of context on", "900–1100", "2.00×", "Pareto front", "3.0 MiB", "all G"] {
            assert!(page.contains(part), "{part:?} is missing");
        }
    }

    #[test]
    fn a_parent_that_scores_nothing_is_no_division_by_zero() {
        let page = page(&ended(0.0, 0.0));
        assert!(page.contains("nothing can be said of a share") && !page.contains("NaN") && !page.contains("holds on test"));
    }
}
