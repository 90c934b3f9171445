//! Results as tables in the terminal, all of them functions of reports.

use std::fmt::Write;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, Table};

use crate::html::compare::tasks;
use crate::html::{Compared, differences};
use crate::report::crossover::distinct;
use crate::report::{Crossover, Efficiency, Hybrid, Report, Task};
use crate::stages::{Distilled, Row, Study};
use crate::words::{bytes, crossing, duration, floor, guessing, interval};

/// The results of a run as tables.
pub fn summary(report: &Report) -> String {
    let mut parts = Vec::new();
    if !report.complete {
        parts.push("not complete: still running, or broken off; the same command goes on where it stopped".to_owned());
    }
    for (name, task) in &report.tasks {
        parts.extend(task.guessing.as_ref().map(|found| format!("{name}: WARNING, {}", guessing(found))));
        if task.m_opt.layout.is_empty() {
            let state = if task.search.strategy.is_empty() { "being searched" } else { "searched, not tested yet" };
            parts.push(format!("{name}: {state}"));
            continue;
        }
        let title = format!("{name} ({}), {}, floor {}", task.metric, task.search.strategy, floor(task));
        parts.push(format!("{title}\n{}\n{}", task_table(task), verdict(name, task)));
    }
    if !report.efficiency.is_empty() {
        let crossovers: String = distinct(&report.crossovers).map(faster).collect();
        parts.push(format!("Speed and memory, one sequence, medians\n{}{crossovers}", efficiency_table(report)));
    }
    parts.join("\n\n")
}

/// From where a hybrid is faster than its parent.
fn faster(found: &Crossover) -> String {
    let Crossover { task, prefill, decode, contexts, .. } = found;
    let words = |found| crossing(found, *contexts);
    let (name, prefill) = (found.name(), words(*prefill));
    match decode.map(words) {
        Some(decode) => format!("\n{task}: {name} is faster than the parent in decoding {decode}; in prefill {prefill}."),
        None => format!("\n{task}: {name} is faster than the parent in encoding {prefill}; an encoder generates nothing."),
    }
}

/// Several runs side by side, task by task.
pub fn comparison(runs: &[Compared]) -> String {
    let mut settings = Table::new();
    settings.load_style(UTF8_FULL_CONDENSED);
    settings.set_header(std::iter::once("key").chain(runs.iter().map(|run| run.label.as_str())));
    let found = differences(runs);
    let differ = !found.is_empty();
    for (key, values) in found {
        settings.add_row(std::iter::once(key).chain(values));
    }
    let mut parts = vec![if differ { format!("What differs\n{settings}") } else { "The experiments do not differ.".into() }];
    for name in tasks(runs) {
        let mut table = table(&["run", "m_opt", "replaced", "test", "of parent", "floor"]);
        for run in runs {
            let Some(task) = run.report.tasks.get(name).filter(|task| task.tested()) else {
                table.add_row([run.label.as_str(), "not tested yet"]);
                continue;
            };
            let verdict = match task.standing(&task.m_opt) {
                Some(standing) if standing >= task.search.floor => "holds",
                Some(_) => "BROKEN",
                None => "–",
            };
            table.add_row([
                Cell::new(&run.label),
                Cell::new(&task.m_opt.layout),
                Cell::new(task.m_opt.replaced),
                scored(task.m_opt.test, task.m_opt.test_interval),
                task.kept(&task.m_opt).map_or_else(|| Cell::new("–"), percent),
                Cell::new(format!("{} {verdict}", floor(task))),
            ]);
        }
        parts.push(format!("{name}\n{table}"));
    }
    parts.join("\n\n")
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header.iter().copied());
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn percent(score: f64) -> Cell {
    Cell::new(format!("{:.1} %", 100.0 * score))
}

/// A score with its interval.
fn scored(score: f64, range: Option<[f64; 2]>) -> Cell {
    let range = interval(range).map_or_else(String::new, |range| format!(" ({range})"));
    Cell::new(format!("{:.1} %{range}", 100.0 * score))
}

fn task_table(task: &Task) -> Table {
    let mut table = table(&["model", "layout", "replaced", "validation", "test", "of parent"]);
    let mut row = |name: &str, hybrid: &Hybrid| {
        table.add_row([
            Cell::new(name),
            Cell::new(&hybrid.layout),
            Cell::new(hybrid.replaced),
            percent(hybrid.validation),
            scored(hybrid.test, hybrid.test_interval),
            task.kept(hybrid).map_or_else(|| Cell::new("–"), percent),
        ]);
    };
    let layers = task.m_opt.layout.chars().count();
    let (validation, test, test_interval) = (task.parent.validation, task.parent.test, task.parent.test_interval);
    row("parent", &Hybrid { layout: "S".repeat(layers), validation, test, test_interval, ..Hybrid::default() });
    row("m_best", &task.m_best);
    row("m_opt", &task.m_opt);
    for baseline in &task.baselines {
        row(&baseline.name, &baseline.hybrid);
    }
    table
}

/// Whether the floor held on the test split, and by how much it did not; and what was known before.
fn verdict(name: &str, task: &Task) -> String {
    let Some(share) = task.standing(&task.m_opt) else {
        return format!("{name}: the parent scores 0 on the test split, so nothing can be said of a share of it.");
    };
    let of = if task.search.floor_is_score { "scores" } else { "keeps" };
    let kept = format!(
        "{name}: m_opt {of} {:.1} %{} on the test split; the floor of {:.0} %",
        100.0 * share,
        parent(task),
        100.0 * task.search.floor
    );
    let short = task.search.floor - share;
    let held = if short > 0.0 { format!("{kept} is BROKEN there, by {:.1} points.", 100.0 * short) } else { format!("{kept} holds.") };
    [Some(held), confirmed(task)].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn parent(task: &Task) -> &'static str {
    if task.search.floor_is_score { "" } else { " of the parent" }
}

/// What was known of `m_opt` before the test split was looked at.
pub(crate) fn confirmed(task: &Task) -> Option<String> {
    if let Some(found) = task.recovery {
        let [before, after] = [found.test_before, found.test_after].map(|score| 100.0 * score);
        return Some(format!("Recovery took it from {before:.1} to {after:.1} % on the test split."));
    }
    let found = task.confirmation?;
    let sure = 100.0 * (1.0 - found.error);
    let (lower, estimate) = (100.0 * found.lower, 100.0 * found.estimate);
    Some(format!(
        "Confirmed when it was kept: {estimate:.1} %{}, at least {lower:.1} % with {sure:.1} % confidence, on {} examples.",
        parent(task),
        found.examples
    ))
}

/// A study as a table.
pub fn study(task: &str, study: &Study, runs: usize, rows: &[Row]) -> String {
    let mut table = table(&["strategy", "layers replaced", "floor broken", "of parent", "layouts", "evaluations"]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for row in rows {
        table.add_row([
            Cell::new(&row.name),
            Cell::new(if row.replaced_margin.is_nan() {
                format!("{:.2}", row.replaced)
            } else {
                format!("{:.2} ± {:.2}", row.replaced, row.replaced_margin)
            }),
            percent(row.broken),
            percent(row.kept),
            Cell::new(format!("{:.1}", row.layouts)),
            Cell::new(format!("{:.1}", row.evaluations)),
        ]);
    }
    let Study { draws, .. } = study;
    let (share, floor, confidence) = (100.0 * study.share, 100.0 * study.floor, 100.0 * study.confidence);
    format!(
        "{task}: floor {floor:.0} %, bounds of {confidence:.0} %, {draws} draws of {share:.0} % of the examples for validation in each of {runs} runs\n{table}"
    )
}

/// Students without a run as a table.
pub fn distilled(found: &[Distilled]) -> String {
    let layers = found.first().map_or(0, |found| found.normalised_mse.len());
    let mut header = vec!["operator".to_owned(), "tokens".into(), "tokens/s".into(), "mean".into()];
    header.extend((0..layers).map(|layer| layer.to_string()));
    let mut table = table(&header.iter().map(String::as_str).collect::<Vec<_>>());
    let mut text = String::new();
    for found in found {
        let mean = found.normalised_mse.iter().sum::<f64>() / layers as f64;
        let mut row =
            vec![found.operator.clone(), found.tokens.to_string(), format!("{:.0}", found.tokens_per_second), format!("{mean:.4}")];
        row.extend(found.normalised_mse.iter().map(|loss| format!("{loss:.3}")));
        table.add_row(row);
        for (task, (parent, all)) in &found.scores {
            let (operator, parent, all) = (&found.operator, 100.0 * parent, 100.0 * all);
            let _ = write!(text, "\n{task}: {all:.1} % with {operator} in every layer, the parent {parent:.1} % (validation)");
        }
        let _ = write!(text, "\nstudents: {}", found.directory.display());
    }
    format!("Held-out normalised mean squared error by layer\n{table}{text}")
}

/// The shortest and the longest context; the page has all of them.
fn efficiency_table(report: &Report) -> Table {
    let mut table = table(&["task", "model", "context", "prefill tok/s", "decode tok/s", "first token", "peak", "cache"]);
    let contexts = || report.efficiency.iter().map(|row| row.context);
    let ends = [contexts().min(), contexts().max()];
    let mut rows: Vec<&Efficiency> = report.efficiency.iter().filter(|row| ends.contains(&Some(row.context))).collect();
    rows.sort_by(|a, b| (&a.task, a.model, a.context).cmp(&(&b.task, b.model, b.context)));
    for row in rows {
        let Efficiency { task, model, context, prefill_tokens_per_second, decode_tokens_per_second, .. } = row;
        table.add_row([
            Cell::new(task),
            Cell::new(model.name()),
            Cell::new(context),
            Cell::new(format!("{prefill_tokens_per_second:.0}")),
            Cell::new(decode_tokens_per_second.map_or_else(|| "–".to_owned(), |speed| format!("{speed:.1}"))),
            Cell::new(row.first_token_seconds.map_or_else(|| "–".to_owned(), duration)),
            Cell::new(row.peak_bytes.map_or_else(|| "–".to_owned(), |count| bytes(count as f64))),
            Cell::new(bytes(row.cache_bytes as f64)),
        ]);
    }
    table
}
