//! Several runs on one page: what differs in their experiments, and what came of it.

use std::collections::BTreeMap;

use minijinja::{Value, context};

use super::{fill, speed, task};
use crate::charts::{Dots, Frame, Mark, STYLES, Series, plot};
use crate::events::{Event, Model};
use crate::report::{Efficiency, Report, crossover};
use crate::rounds::trace;
use crate::words::{count, duration, interval, percent};

/// A run among others.
#[derive(Debug)]
pub struct Compared {
    /// What it is called here.
    pub label: String,
    /// What it found.
    pub report: Report,
    /// What happened in it.
    pub events: Vec<Event>,
    /// Its resolved experiment file.
    pub experiment: String,
}

/// Keys of the experiment files whose values are not the same in all runs, with their values, run by run.
pub fn differences(runs: &[Compared]) -> Vec<(String, Vec<String>)> {
    let flat: Vec<BTreeMap<String, String>> = runs.iter().map(|run| flattened(&run.experiment)).collect();
    let keys: std::collections::BTreeSet<&String> = flat.iter().flat_map(BTreeMap::keys).collect();
    let row = |key: &String| {
        let values: Vec<String> = flat.iter().map(|run| run.get(key).cloned().unwrap_or_else(|| "–".into())).collect();
        values.windows(2).any(|pair| pair[0] != pair[1]).then(|| (key.clone(), values))
    };
    keys.into_iter().filter_map(row).collect()
}

/// Every value of a TOML file under its dotted key. Lists are one value each.
fn flattened(text: &str) -> BTreeMap<String, String> {
    fn walk(prefix: &str, table: &toml::Table, found: &mut BTreeMap<String, String>) {
        for (key, value) in table {
            let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                toml::Value::Table(inner) => walk(&key, inner, found),
                value => drop(found.insert(key, value.to_string())),
            }
        }
    }
    let mut found = BTreeMap::new();
    walk("", &text.parse().unwrap_or_default(), &mut found);
    found
}

/// Names of the tasks of all runs, each once.
pub(crate) fn tasks(runs: &[Compared]) -> Vec<&String> {
    runs.iter().flat_map(|run| run.report.tasks.keys()).collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

/// The page.
///
/// # Panics
/// Never: the template is part of the program and tested.
pub fn compare(runs: &[Compared]) -> String {
    let run = |(index, run): (usize, &Compared)| {
        let Report { experiment, device, seed, complete, seconds, distillation, .. } = &run.report;
        context! {
            style => index % STYLES,
            label => run.label.clone(),
            experiment,
            device,
            seed,
            complete,
            took => duration(*seconds),
            tokens => count(distillation.tokens as f64),
            mse => mean(distillation.students.iter().map(|student| student.normalised_mse)).map(|mean| format!("{mean:.3}")),
        }
    };
    let difference = |(key, values): (String, Vec<String>)| context! { key, values };
    fill(
        "compare",
        include_str!("../../templates/compare.html"),
        context! {
            runs => runs.iter().enumerate().map(run).collect::<Vec<_>>(),
            differences => differences(runs).into_iter().map(difference).collect::<Vec<_>>(),
            tasks => tasks(runs).into_iter().map(|task| of_task(task, runs)).collect::<Vec<_>>(),
            students => Value::from_safe_string(students(runs)),
        },
    )
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn of_task(name: &str, runs: &[Compared]) -> Value {
    let row = |(index, run): (usize, &Compared)| {
        let task = run.report.tasks.get(name)?;
        let standing = task.standing(&task.m_opt);
        Some(context! {
            style => index % STYLES,
            label => run.label.clone(),
            tested => task.tested(),
            layout => task.m_opt.layout.clone(),
            replaced => task.m_opt.replaced,
            test => percent(task.m_opt.test),
            test_interval => interval(task.m_opt.test_interval),
            parent => percent(task.parent.test),
            share => task.kept(&task.m_opt).map(percent),
            holds => standing.map(|standing| standing >= task.search.floor),
            floor => crate::words::floor(task),
            strategy => task.search.strategy.clone(),
            evaluations => task.search.evaluations,
            seconds => duration(task.search.seconds),
            gains => speed::gains(name, &run.report),
        })
    };
    let series = |marks: &dyn Fn(&Compared) -> Vec<Mark>| -> Vec<Series> {
        let of_run =
            |(style, run): (usize, &Compared)| Series { name: String::new(), style, line: true, dots: Dots::Filled, marks: marks(run) };
        runs.iter().enumerate().map(of_run).collect()
    };
    let chart = |title: &str, x: &str, y: &str, doublings: bool, marks: &dyn Fn(&Compared) -> Vec<Mark>| {
        let title = format!("{name}: {title}");
        let levels: &[(f64, &str)] = if doublings { &[(1.0, "parent")] } else { &[] };
        let frame = Frame { title: &title, x, y, levels, doublings, decades: doublings };
        Value::from_safe_string(plot(&frame, &series(marks)))
    };
    let ratio = |of: fn(&Efficiency) -> f64| move |run: &Compared| ratios(name, run, of);
    let charts = [
        chart(
            "score on the examples that choose against layers replaced",
            "layers replaced",
            "score, % (examples that choose)",
            false,
            &|run| trace(&run.events, name).as_ref().map_or_else(Vec::new, task::kept),
        ),
        chart(
            "decoding speed of m_opt beside its parent",
            "tokens of context",
            "decoding, times the parent",
            true,
            &ratio(|row| row.decode_tokens_per_second.unwrap_or(f64::NAN)),
        ),
        chart(
            "prefill speed of m_opt beside its parent",
            "tokens of context",
            "prefill, times the parent",
            true,
            &ratio(|row| row.prefill_tokens_per_second),
        ),
    ];
    context! {
        name,
        rows => runs.iter().enumerate().filter_map(row).collect::<Vec<_>>(),
        charts => charts.into_iter().filter(Value::is_true).collect::<Vec<_>>(),
    }
}

/// How many times its parent's speed `m_opt` has, over context length: what a machine does to both cancels.
fn ratios(task: &str, run: &Compared, of: fn(&Efficiency) -> f64) -> Vec<Mark> {
    let rows = &run.report.efficiency;
    let Some(m_opt) = rows.iter().find(|row| row.task == task && row.model == Model::MOpt) else { return Vec::new() };
    let mark = |(parent, hybrid): (&Efficiency, &Efficiency)| {
        let ratio = of(hybrid) / of(parent);
        Mark { x: hybrid.context as f64, y: ratio, range: None, title: format!("{}, {} tokens: {ratio:.2}", run.label, hybrid.context) }
    };
    crossover::pairs(rows, m_opt).into_iter().map(mark).collect()
}

/// Held-out errors by layer, one line a run: the best operator of each layer.
fn students(runs: &[Compared]) -> String {
    let of_run = |(style, run): (usize, &Compared)| {
        let mut best: BTreeMap<usize, f64> = BTreeMap::new();
        for student in &run.report.distillation.students {
            let entry = best.entry(student.layer).or_insert(f64::INFINITY);
            *entry = entry.min(student.normalised_mse);
        }
        let mark = |(layer, loss): (usize, f64)| Mark {
            x: layer as f64,
            y: loss,
            range: None,
            title: format!("{}, layer {layer}: {loss:.3}", run.label),
        };
        Series { name: String::new(), style, line: true, dots: Dots::Filled, marks: best.into_iter().map(mark).collect() }
    };
    let series: Vec<Series> = runs.iter().enumerate().map(of_run).collect();
    let title = "Held-out error of the best student of each layer";
    plot(&Frame { title, x: "layer", y: "normalised squared error", levels: &[], doublings: false, decades: true }, &series)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_differ_are_named() {
        let run = |experiment: &str| Compared {
            label: String::new(),
            report: Report::default(),
            events: Vec::new(),
            experiment: experiment.into(),
        };
        let runs =
            [run("seed = 1\n[search]\nfloor = 0.9\ntasks = ['a']"), run("seed = 1\n[search]\nfloor = 0.8\ntasks = ['a']\nswaps = 2")];
        let expected = [("search.floor", ["0.9", "0.8"]), ("search.swaps", ["–", "2"])];
        assert_eq!(differences(&runs), expected.map(|(key, values)| (key.to_owned(), values.map(str::to_owned).to_vec())));
    }
}
