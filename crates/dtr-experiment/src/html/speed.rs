//! Speed and memory of one task's models on the page.

use minijinja::{Value, context};

use crate::charts::{Dots, Frame, Mark, Series, plot};
use crate::events::{Efficiency, Model};
use crate::report::{Crossing, Crossover, Report, crossover};
use crate::words::{bytes, count, crossing, duration, times};

const MIB: f64 = 1024.0 * 1024.0;

/// A value, and the range of its measurements.
type Measured = (f64, Option<[f64; 2]>);

/// One curve: a model, or two that are the same layout.
struct Curve<'a> {
    name: String,
    /// Stands at its end.
    label: String,
    style: usize,
    rows: Vec<&'a Efficiency>,
}

/// Curves, crossovers and the table.
pub fn context(task: &str, report: &Report) -> Value {
    let models = models(task, report);
    let chart = |title: &str, y: &str, of: fn(&Efficiency) -> Option<Measured>| {
        let mark = |row: &&Efficiency, name: &str| {
            let (value, range) = of(row).filter(|(value, _)| value.is_finite() && *value > 0.0)?;
            let title = format!("{name}, {} tokens of context: {}", row.context, crate::charts::number(value));
            Some(Mark { x: row.context as f64, y: value, range, title })
        };
        let series: Vec<Series> = models
            .iter()
            .map(|model| {
                let marks = model.rows.iter().filter_map(|row| mark(row, &model.name)).collect();
                Series { name: model.label.clone(), style: model.style, line: true, dots: Dots::Filled, marks }
            })
            .collect();
        let title = format!("{task}: {title} over context length");
        let frame = Frame { title: &title, x: "tokens of context", y, levels: &[], doublings: true, decades: true };
        context! { svg => Value::from_safe_string(plot(&frame, &series)) }
    };
    let charts = [
        chart("prefill", "prefill, tokens/s", |row| Some((row.prefill_tokens_per_second, row.prefill_tokens_per_second_range))),
        chart("decoding", "decoding, tokens/s", |row| Some((row.decode_tokens_per_second?, row.decode_tokens_per_second_range))),
        chart("time to first token", "time to first token, s", |row| Some((row.first_token_seconds?, row.first_token_seconds_range))),
        chart("cache", "cache, MiB", |row| Some((row.cache_bytes as f64 / MIB, None))),
        chart("peak memory", "peak memory, MiB", |row| Some((row.peak_bytes? as f64 / MIB, None))),
    ];
    let too_long = report.too_long.iter().filter(|row| row.task == task).map(|row| {
        let needed = bytes(row.needed_bytes as f64);
        format!("{} ({}) was not measured at {} tokens: it would take about {needed}.", row.model.name(), row.layout, row.context)
    });
    context! {
        charts => charts.into_iter().filter(|chart| chart.get_attr("svg").is_ok_and(|svg| svg.is_true())).collect::<Vec<_>>(),
        crossovers => crossovers(task, report),
        too_long => too_long.collect::<Vec<_>>(),
        rows => models.iter().flat_map(|model| model.rows.iter().map(|row| table_row(&model.name, row))).collect::<Vec<_>>(),
    }
}

/// Models of a task in the order of the table, the parent first; hybrids of one layout are one.
fn models<'a>(task: &str, report: &'a Report) -> Vec<Curve<'a>> {
    let mut models: Vec<(Model, Curve<'a>)> = Vec::new();
    for row in report.efficiency.iter().filter(|row| row.task == task) {
        let is = |other: &(Model, Curve<'a>)| {
            let first = other.1.rows[0];
            other.0 == row.model && first.layout == row.layout
                || first.layout == row.layout && !row.layout.is_empty() && other.0 != Model::AllLinear && row.model != Model::AllLinear
        };
        if let Some((model, entry)) = models.iter_mut().find(|other| is(other)) {
            if *model == row.model {
                entry.rows.push(row);
            } else if !entry.name.contains(row.model.name()) {
                (entry.name, entry.label) = (format!("{}, {}", entry.name, row.model.name()), row.model.name().into());
                entry.style = 2;
            }
            continue;
        }
        let everywhere = models.iter().filter(|(model, _)| *model == Model::AllLinear).count();
        let (name, style) = match row.model {
            Model::Parent => ("parent".to_owned(), 0),
            Model::MBest => ("m_best".to_owned(), 1),
            Model::MOpt => ("m_opt".to_owned(), 2),
            Model::AllLinear => (format!("all {}", row.layout.chars().next().unwrap_or('?')), 3 + everywhere),
        };
        models.push((row.model, Curve { label: name.clone(), name, style, rows: vec![row] }));
    }
    models.sort_by_key(|(model, _)| *model);
    let mut models: Vec<Curve<'a>> = models.into_iter().map(|(_, model)| model).collect();
    for model in &mut models {
        model.rows.sort_by_key(|row| row.context);
    }
    models
}

/// From which context length each hybrid is faster; of two that are the same, `m_opt` stands for both.
fn crossovers(task: &str, report: &Report) -> Vec<Value> {
    let sentence = |found: &Crossover| {
        let words = |crossed: Crossing| crossing(crossed, found.contexts);
        context! { name => found.name(), prefill => words(found.prefill), decode => found.decode.map(words) }
    };
    crossover::distinct(&report.crossovers).filter(|found| found.task == task).map(sentence).collect()
}

/// What `m_opt` gains over its parent at the longest context, for the lead.
pub fn gains(task: &str, report: &Report) -> Option<Value> {
    let m_opt = report.efficiency.iter().find(|row| row.task == task && row.model == Model::MOpt)?;
    let pairs = crossover::pairs(&report.efficiency, m_opt);
    let (parent, hybrid) = pairs.last()?;
    let ratio = |of: fn(&Efficiency) -> f64| of(hybrid) / of(parent);
    Some(context! {
        context => count(hybrid.context as f64),
        decode => parent.decode_tokens_per_second.map(|_| times(ratio(|row| row.decode_tokens_per_second.unwrap_or(f64::NAN)))),
        prefill => times(ratio(|row| row.prefill_tokens_per_second)),
        cache => format!("{:.0} %", 100.0 * ratio(|row| row.cache_bytes as f64)),
        cache_bytes => bytes(hybrid.cache_bytes as f64),
    })
}

fn table_row(name: &str, row: &Efficiency) -> Value {
    let range = |range: Option<[f64; 2]>, of: fn(f64) -> String| range.map(|[low, high]| format!("{}–{}", of(low), of(high)));
    context! {
        name,
        layout => row.layout.clone(),
        context => count(row.context as f64),
        prefill => count(row.prefill_tokens_per_second),
        prefill_range => range(row.prefill_tokens_per_second_range, count),
        decode => row.decode_tokens_per_second.map(count),
        decode_range => range(row.decode_tokens_per_second_range, count),
        first => row.first_token_seconds.map(duration),
        first_range => range(row.first_token_seconds_range, duration),
        peak => row.peak_bytes.map(|count| bytes(count as f64)),
        cache => bytes(row.cache_bytes as f64),
    }
}
