//! The page `report.html`: one file, nothing loaded from elsewhere; words and numbers for people.

use std::collections::BTreeMap;

use minijinja::{AutoEscape, Environment, Value, context};

use crate::charts::{Frame, Series, lines};
use crate::events::{Event, Model};
use crate::report::{Hybrid, Report, Task};

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
            searching => searching(report, events),
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
fn searching(report: &Report, events: &[Event]) -> Vec<String> {
    let begun = events.iter().filter_map(|event| match event {
        Event::Evaluated { task, .. } if !report.tasks.contains_key(task) => Some(task.clone()),
        _ => None,
    });
    let mut begun: Vec<String> = begun.collect();
    begun.dedup();
    begun
}

fn task_context(name: &str, task: &Task, report: &Report, events: &[Event]) -> Value {
    let tested = !task.m_opt.layout.is_empty();
    let share = task.m_opt.test / task.parent.test;
    let short = task.search.floor - share;
    context! {
        name,
        metric => task.metric.clone(),
        tested,
        replaced => task.m_opt.replaced,
        layers => task.m_opt.layout.len(),
        test => percent(task.m_opt.test),
        parent_test => percent(task.parent.test),
        share => percent(share),
        floor => percent(task.search.floor),
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
            share => percent(hybrid.test / task.parent.test),
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
        let (layout, round, score, committed) = match event {
            Event::Evaluated { task, round: 0, layout, score, .. } if task == name => (layout, 0, *score, true),
            Event::Decided { task, round, layout, score, committed, .. } if task == name => (layout, *round, *score, *committed),
            _ => continue,
        };
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
        rounds.push(context! { round, cells, score => percent(score), committed });
        if committed {
            before = Some(layout.clone());
        }
    }
    rounds
}

fn score_chart(name: &str, task: &Task, events: &[Event]) -> String {
    let mut best = Vec::new();
    let mut minimum = None;
    for event in events {
        match event {
            Event::Evaluated { task, round: 0, score, .. } if task == name => best.push((0.0, 100.0 * score)),
            Event::Decided { task, round, score, minimum: lowest, .. } if task == name => {
                best.push((*round as f64, 100.0 * score));
                minimum = Some(100.0 * lowest);
            }
            _ => {}
        }
    }
    let levels: Vec<(f64, String)> = minimum.map(|minimum| (minimum, "floor".to_owned())).into_iter().collect();
    let title = format!("{name}: best validation score of each round against layers replaced");
    let y = format!("{}, % (validation)", task.metric);
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
