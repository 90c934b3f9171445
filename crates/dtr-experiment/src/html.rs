//! The page `report.html`: one file, nothing loaded from elsewhere; words and numbers for people.

use std::collections::BTreeMap;

use dtr_search::Verdict;
use minijinja::{AutoEscape, Environment, Value, context};

use crate::charts::{Frame, Series, lines};
use crate::events::{Event, Model};
use crate::report::{Hybrid, Report, Task, replaced};
use crate::terminal::{confirmed, floor};

/// The page for a run that is done, goes on, or broke off. `command` reproduces it.
///
/// # Panics
/// Never: the template is part of the program and tested.
pub fn render(report: &Report, events: &[Event], command: &str) -> String {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("report", include_str!("../templates/report.html")).expect("the template is valid");
    let tasks: Vec<Value> = report.tasks.iter().map(|(name, task)| task_context(name, task, report, events)).collect();
    let page = environment.get_template("report").and_then(|template| {
        template.render(context! {
            experiment => report.experiment.clone(),
            device => report.device.clone(),
            seed => report.seed,
            complete => report.complete,
            model_type => report.parent.model_type.clone(),
            layers => report.parent.layers,
            parameters => format!("{:.2}", report.parent.parameters as f64 / 1e6),
            tokens => report.distillation.tokens,
            tokens_per_second => format!("{:.0}", report.distillation.tokens_per_second),
            tasks,
            command,
            searching => searching(report),
            students => students(report),
            curves => curves(events),
        })
    });
    page.expect("the template renders every report")
}

fn percent(score: f64) -> String {
    if score.is_finite() { format!("{:.1} %", 100.0 * score) } else { "–".into() }
}

/// Tasks whose search has begun but not ended.
fn searching(report: &Report) -> Vec<String> {
    report.tasks.iter().filter(|(_, task)| task.search.strategy.is_empty()).map(|(name, _)| name.clone()).collect()
}

fn task_context(name: &str, task: &Task, report: &Report, events: &[Event]) -> Value {
    let tested = !task.m_opt.layout.is_empty();
    let share = task.standing(&task.m_opt);
    let short = share.map_or(0.0, |share| task.search.floor - share);
    context! {
        name,
        metric => task.metric.clone(),
        tested,
        replaced => task.m_opt.replaced,
        layers => task.m_opt.layout.len(),
        test => percent(task.m_opt.test),
        parent_test => percent(task.parent.test),
        share => share.map(percent),
        floor => floor(task),
        strategy => task.search.strategy.clone(),
        confirmed => confirmed(task),
        reached => task.search.reached,
        broken => tested && short > 0.0,
        short => format!("{:.1}", 100.0 * short),
        rows => if tested { table(task) } else { vec![] },
        rounds => rounds(name, events),
        chart => Value::from_safe_string(score_chart(name, task, events)),
        evaluations => task.search.evaluations,
        equivalents => format!("{:.1}", task.search.full_evaluation_equivalents),
        seconds => format!("{:.0}", task.search.seconds),
        efficiency => efficiency(name, report),
    }
}

/// Rows of the table of scores.
fn table(task: &Task) -> Vec<Value> {
    let row = |name: &str, hybrid: &Hybrid| {
        context! {
            name,
            layout => hybrid.layout.clone(),
            replaced => hybrid.replaced,
            validation => percent(hybrid.validation),
            test => percent(hybrid.test),
            share => task.kept(hybrid).map_or_else(|| "–".to_owned(), percent),
        }
    };
    let parent =
        Hybrid { layout: "S".repeat(task.m_opt.layout.len()), replaced: 0, validation: task.parent.validation, test: task.parent.test };
    let mut rows = vec![row("parent", &parent), row("m_best", &task.m_best), row("m_opt", &task.m_opt)];
    rows.extend(task.baselines.iter().map(|baseline| row(&baseline.name, &baseline.hybrid)));
    let random: Vec<&Hybrid> =
        task.baselines.iter().filter(|baseline| baseline.name.starts_with("random-")).map(|baseline| &baseline.hybrid).collect();
    if !random.is_empty() {
        let mean = |of: fn(&Hybrid) -> f64| random.iter().map(|hybrid| of(hybrid)).sum::<f64>() / random.len() as f64;
        let hybrid =
            Hybrid { layout: String::new(), replaced: random[0].replaced, validation: mean(|h| h.validation), test: mean(|h| h.test) };
        rows.push(row("random, mean", &hybrid));
    }
    rows
}

/// The layouts round by round: every decision with the layer it is about.
fn rounds(name: &str, events: &[Event]) -> Vec<Value> {
    let mut before: Option<String> = None;
    let mut rounds = Vec::new();
    for event in events {
        let (layout, round, score, verdict) = match event {
            Event::Evaluated { task, round: 0, from: 0, layout, score, .. } if task == name => (layout, 0, *score, Verdict::Kept),
            Event::Decided { task, round, layout, score, verdict, .. } if task == name => (layout, *round, *score, *verdict),
            _ => continue,
        };
        let committed = matches!(verdict, Verdict::Kept | Verdict::GoneOn);
        let earlier: Vec<char> = before.as_deref().unwrap_or(layout).chars().collect();
        let cells: Vec<Value> = layout
            .chars()
            .enumerate()
            .map(|(layer, letter)| {
                let changed = earlier.get(layer) != Some(&letter);
                let class = match (letter, changed, committed) {
                    (_, true, true) => "new",
                    (_, true, false) => "refused",
                    ('S', ..) => "full",
                    _ => "linear",
                };
                context! { letter => letter.to_string(), class, layer }
            })
            .collect();
        let word = match verdict {
            Verdict::Kept => "",
            Verdict::GoneOn => "on the way",
            Verdict::BelowFloor => "refused",
            Verdict::Unconfirmed => "not confirmed",
        };
        rounds.push(context! { round, cells, score => percent(score), committed, word });
        if committed {
            before = Some(layout.clone());
        }
    }
    rounds
}

fn score_chart(name: &str, task: &Task, events: &[Event]) -> String {
    let mut best = Vec::new();
    let (mut floor, mut parent) = (None, None);
    for event in events {
        match event {
            Event::Evaluated { task, round: 0, from: 0, score, .. } if task == name => {
                best.push((0.0, 100.0 * score));
                parent = Some(100.0 * score);
            }
            Event::Decided { task, layout, score, minimum, .. } if task == name => {
                best.push((replaced(layout) as f64, 100.0 * score));
                floor = Some(100.0 * minimum);
            }
            _ => {}
        }
    }
    // The best of each size; a run that was started again tells of the same layouts once more.
    best.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    best.dedup_by_key(|point| point.0);
    let levels: Vec<(f64, &str)> = [(parent, "parent"), (floor, "floor")].into_iter().filter_map(|(at, name)| Some((at?, name))).collect();
    let title = format!("{name}: best validation score of each number of layers replaced");
    let y = format!("{}, % (validation)", if task.metric.is_empty() { "score" } else { &task.metric });
    let frame = Frame { title: &title, x: "layers replaced", y: &y, levels: &levels, doublings: false, decades: false, named: false };
    lines(&frame, &[Series { name: "best of round".into(), points: best }])
}

/// Charts and rows of speed and memory for one task.
fn efficiency(name: &str, report: &Report) -> Value {
    let rows: Vec<_> = report.efficiency.iter().filter(|row| row.task == name).collect();
    let chart = |title: &str, y: &str, of: fn(&crate::report::Efficiency) -> f64| {
        let series = [(Model::Parent, "parent"), (Model::MBest, "m_best"), (Model::MOpt, "m_opt")].map(|(model, name)| Series {
            name: name.into(),
            points: rows.iter().filter(|row| row.model == model).map(|row| (row.context as f64, of(row))).collect(),
        });
        let frame = Frame { title, x: "tokens of context", y, levels: &[], doublings: true, decades: true, named: true };
        Value::from_safe_string(lines(&frame, &series))
    };
    let table: Vec<Value> = rows
        .iter()
        .map(|row| {
            context! {
                context => row.context,
                model => match row.model { Model::Parent => "parent", Model::MBest => "m_best", Model::MOpt => "m_opt" },
                prefill => format!("{:.0}", row.prefill_tokens_per_second),
                decode => format!("{:.0}", row.decode_tokens_per_second),
                cache => format!("{:.0}", row.cache_bytes as f64 / 1024.0),
            }
        })
        .collect();
    context! {
        rows => table,
        charts => [
            chart("Prefill: tokens a second against context length", "prefill, tokens/s", |row| row.prefill_tokens_per_second),
            chart("Decoding: tokens a second against context length", "decode, tokens/s", |row| row.decode_tokens_per_second),
            chart("Cache bytes against context length", "cache, bytes", |row| row.cache_bytes as f64),
        ],
    }
}

/// Held-out losses: one row an operator, one cell a layer.
fn students(report: &Report) -> Vec<Value> {
    let mut operators: BTreeMap<&str, BTreeMap<usize, f64>> = BTreeMap::new();
    for student in &report.distillation.students {
        operators.entry(&student.operator).or_default().insert(student.layer, student.normalised_mse);
    }
    let cell =
        |(layer, loss): (&usize, &f64)| context! { layer, loss => format!("{loss:.3}"), heat => format!("{:.2}", loss.clamp(0.0, 1.0)) };
    operators.into_iter().map(|(operator, layers)| context! { operator, cells => layers.iter().map(cell).collect::<Vec<_>>() }).collect()
}

/// Loss curves: one chart an operator, one line a layer.
fn curves(events: &[Event]) -> Vec<Value> {
    let mut operators: BTreeMap<&str, Vec<Series>> = BTreeMap::new();
    for event in events {
        let Event::Distilling { operator, tokens, normalised_mse } = event else { continue };
        let series = operators.entry(operator).or_default();
        for (layer, loss) in normalised_mse.iter().enumerate() {
            if series.len() <= layer {
                series.push(Series { name: layer.to_string(), points: Vec::new() });
            }
            // A run that was started again tells of the same tokens once more.
            series[layer].points.retain(|point| point.0 < *tokens as f64);
            series[layer].points.push((*tokens as f64, f64::from(*loss)));
        }
    }
    let chart = |(operator, series): (&str, Vec<Series>)| {
        let title = format!("{operator}: normalised error of each layer's student against tokens");
        let frame = Frame { title: &title, x: "tokens", y: "normalised MSE", levels: &[], doublings: false, decades: false, named: true };
        context! { operator, chart => Value::from_safe_string(lines(&frame, &series)) }
    };
    operators.into_iter().map(chart).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluated(round: usize, layout: &str, score: f64) -> Event {
        let task = "recall".to_owned();
        let (from, to, loss, divergence, full_evaluation_equivalents, seconds) = (0, 64, 0.1, 0.0, 1.0, 2.0);
        Event::Evaluated { task, round, layout: layout.into(), from, to, score, loss, divergence, full_evaluation_equivalents, seconds }
    }

    fn decided(round: usize, layout: &str, score: f64, committed: bool) -> Event {
        let verdict = if committed { Verdict::Kept } else { Verdict::BelowFloor };
        let (task, before, layout, confirmation) = ("recall".into(), "SS".into(), layout.into(), None);
        Event::Decided { task, round, before, layout, score, minimum: 0.9, verdict, best: committed, confirmation }
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
        render(&Report::from_events(events), events, "cargo xtask run <file>")
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
    fn a_run_under_way_shows_what_was_replaced_so_far() {
        let page = page(&begun());
        assert!(page.contains("not complete") && page.contains("searching recall"));
        assert!(page.contains(r#"class="cell new" title="layer 0: G""#) && page.contains("best validation score of each number"));
        assert!(!page.contains("<b>first") && page.contains("&lt;b&gt;first"));
        assert!(super::render(&Report::default(), &[], "").contains("No task has been searched"));
    }

    #[test]
    fn a_broken_floor_is_said_and_a_refused_swap_shown() {
        let broken = page(&ended(0.9, 0.81));
        assert!(broken.contains("floor of 95 % of the parent broken on test, by 5.0 points") && broken.contains("refused"));
        let held = page(&ended(0.9, 0.88));
        assert!(held.contains("holds on test") && !held.contains("broken on test"));
    }

    #[test]
    fn a_parent_that_scores_nothing_is_no_division_by_zero() {
        let page = page(&ended(0.0, 0.0));
        assert!(page.contains("nothing can be said of a share") && !page.contains("NaN") && !page.contains("holds on test"));
    }
}
