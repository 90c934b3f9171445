//! The distillation on the page: how each layer's students came out, and how they came there.

use std::collections::BTreeMap;

use minijinja::{Value, context};

use crate::charts::{Curve, small};
use crate::events::Event;
use crate::report::Report;
use crate::words::count;

/// Styles of operators, the plainest first.
const OPERATORS: [usize; 5] = [2, 1, 3, 4, 5];

/// Losses by operator and layer, against tokens.
type Losses<'a> = BTreeMap<&'a str, Vec<Vec<(f64, f64)>>>;

/// Small charts, one a layer, and the table of what was measured on held-out tokens.
pub fn context(report: &Report, events: &[Event]) -> Value {
    let losses = losses(events);
    let mut operators: BTreeMap<&str, BTreeMap<usize, f64>> = BTreeMap::new();
    for student in &report.distillation.students {
        operators.entry(&student.operator).or_default().insert(student.layer, student.normalised_mse);
    }
    // Students found on the shelf have no curve in this run, and those under way no held-out loss yet.
    let names: Vec<&str> = losses.keys().chain(operators.keys()).copied().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    let style = |operator: &str| OPERATORS[names.iter().position(|name| *name == operator).unwrap_or(0) % OPERATORS.len()];
    let layers = losses.values().map(Vec::len).max().unwrap_or(0);
    let axes = axes(&losses);
    let chart = |layer: usize| {
        let of_layer = losses.iter().filter_map(|(operator, layers)| Some((*operator, layers.get(layer)?)));
        let curves: Vec<Curve> =
            of_layer.clone().map(|(operator, points)| Curve { style: style(operator), points: points.clone() }).collect();
        let words: Vec<String> = of_layer
            .filter_map(|(operator, points)| Some((operator, points.first()?, points.last()?)))
            .map(|(operator, first, last)| format!("{operator} from {:.3} to {:.3}", first.1, last.1))
            .collect();
        let title = format!("layer {layer}: {}", words.join(", "));
        let held_out: Vec<Value> = names
            .iter()
            .filter_map(|name| operators.get(name)?.get(&layer).map(|loss| context! { style => style(name), loss => format!("{loss:.3}") }))
            .collect();
        context! { layer, held_out, svg => Value::from_safe_string(small(&title, &curves, axes)) }
    };
    let cell = |(layer, loss): (&usize, &f64)| {
        context! { layer, loss => format!("{loss:.3}"), heat => format!("{:.2}", loss.clamp(0.0, 1.0)) }
    };
    let row = |(operator, layers): (&&str, &BTreeMap<usize, f64>)| {
        let mean = layers.values().sum::<f64>() / layers.len() as f64;
        context! { operator => *operator, mean => format!("{mean:.3}"), cells => layers.iter().map(cell).collect::<Vec<_>>() }
    };
    context! {
        tokens => count(report.distillation.tokens as f64),
        tokens_per_second => count(report.distillation.tokens_per_second),
        done => report.distillation.tokens > 0,
        rows => operators.iter().map(row).collect::<Vec<_>>(),
        charts => (0..layers).map(chart).collect::<Vec<_>>(),
        legend => names.iter().map(|name| context! { name => *name, style => style(name) }).collect::<Vec<_>>(),
        low => format!("{:.3}", axes.0.1),
        high => format!("{:.3}", axes.1.1),
        last => count(axes.1.0),
    }
}

fn losses(events: &[Event]) -> Losses<'_> {
    let mut operators: Losses<'_> = BTreeMap::new();
    for event in events {
        let Event::Distilling { operator, tokens, normalised_mse } = event else { continue };
        let layers = operators.entry(operator).or_default();
        layers.resize_with(layers.len().max(normalised_mse.len()), Vec::new);
        for (points, loss) in layers.iter_mut().zip(normalised_mse) {
            // A run that was started again tells of the same tokens once more.
            let known = points.iter().rposition(|point| point.0 < *tokens as f64).map_or(0, |last| last + 1);
            points.truncate(known);
            points.push((*tokens as f64, f64::from(*loss)));
        }
    }
    operators
}

/// The corners between which all curves lie.
fn axes(losses: &Losses<'_>) -> ((f64, f64), (f64, f64)) {
    let points = || losses.values().flatten().flatten();
    let positive = || points().map(|point| point.1).filter(|loss| *loss > 0.0);
    let (low, high) = (positive().fold(f64::INFINITY, f64::min), positive().fold(f64::NEG_INFINITY, f64::max));
    if low > high {
        return ((0.0, 0.1), (1.0, 1.0));
    }
    ((0.0, low), (points().map(|point| point.0).fold(0.0, f64::max), high.max(low * 1.1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_again_counts_once() {
        let told = |tokens, loss| Event::Distilling { operator: "hedgehog".into(), tokens, normalised_mse: vec![loss] };
        let events = [told(10, 0.5), told(20, 0.25), told(30, 0.125), told(20, 0.25), told(30, 0.0625)];
        assert_eq!(losses(&events)["hedgehog"], [[(10.0, 0.5), (20.0, 0.25), (30.0, 0.0625)]]);
        assert_eq!(axes(&losses(&events)), ((0.0, 0.0625), (30.0, 0.5)));
    }
}
