//! Score against cost on the page: time of a token and cache of every layout scored, and the Pareto front.

use minijinja::{Value, context};

use crate::charts::{Dots, Frame, Mark, Series, plot};
use crate::events::Event;
use crate::report::{Point, Report, front};
use crate::words::{bytes, count, duration, percent};

/// Score against the time of a token and against cache, and the corners as a table.
pub fn context(name: &str, report: &Report, events: &[Event]) -> Option<Value> {
    let points = front::points(name, report, events);
    let context = points.get(1)?.context;
    let chart = |x: &str, cost: fn(&Point) -> f64| {
        let mark = |point: &Point| {
            let name = if point.name.is_empty() { point.layout.clone() } else { format!("{} {}", point.name, point.layout) };
            Mark { x: cost(point), y: 100.0 * point.validation, range: None, title: format!("{name}: {}", percent(point.validation)) }
        };
        let series = |name: &str, style, dots, chosen: &dyn Fn(&Point) -> bool| {
            let marks = points.iter().filter(|point| chosen(point)).map(mark).collect();
            Series { name: name.into(), style, line: false, dots, marks }
        };
        let named = |name: &'static str| move |point: &Point| point.name == name;
        let mut steps: Vec<Mark> = Vec::new();
        for corner in front::corners(&points, cost).into_iter().map(mark) {
            if let Some(last) = steps.last().cloned() {
                steps.push(Mark { x: corner.x, ..last });
            }
            steps.push(corner);
        }
        let searched = |point: &Point| point.name.is_empty();
        let baseline = |point: &Point| !searched(point) && !["parent", "m_best", "m_opt"].contains(&point.name.as_str());
        let all = [
            Series { name: String::new(), style: 6, line: true, dots: Dots::None, marks: steps },
            series("", 7, Dots::Filled, &searched),
            series("", 5, Dots::Hollow, &baseline),
            series("parent", 0, Dots::Filled, &named("parent")),
            series("m_best", 1, Dots::Filled, &named("m_best")),
            series("m_opt", 2, Dots::Filled, &named("m_opt")),
        ];
        let title = format!("{name}: validation score against {x}");
        let frame = Frame { title: &title, x, y: "score, % (validation)", levels: &[], doublings: false, decades: false };
        Value::from_safe_string(plot(&frame, &all))
    };
    let encoder = report.efficiency.iter().any(|row| row.decode_tokens_per_second.is_none());
    let time = if encoder { "encoding time of a token, ms" } else { "decoding time of a token, ms" };
    let charts = [chart(time, |point| 1000.0 * point.decode_seconds), chart("cache, MiB", |point| point.cache_bytes / (1024.0 * 1024.0))];
    let mut shown: Vec<&Point> = points.iter().filter(|point| point.front || !point.name.is_empty()).collect();
    shown.sort_by(|a, b| b.validation.total_cmp(&a.validation).then(a.decode_seconds.total_cmp(&b.decode_seconds)));
    let row = |point: &Point| {
        context! {
            name => point.name.clone(),
            layout => point.layout.clone(),
            replaced => point.replaced,
            validation => percent(point.validation),
            decode => duration(point.decode_seconds),
            cache => bytes(point.cache_bytes),
            measured => point.measured,
            front => point.front,
        }
    };
    Some(context! { context => count(context as f64), charts, rows => shown.into_iter().map(row).collect::<Vec<_>>() })
}
