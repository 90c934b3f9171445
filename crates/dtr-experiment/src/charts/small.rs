//! Many small charts of one kind beside each other, all with the same axes: shapes to compare, numbers in words beside them.

use std::fmt::Write;

use super::{STYLES, escape};

/// A line of falling numbers above zero.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// How it looks.
    pub style: usize,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 120.0;
const HEIGHT: f64 = 56.0;
/// Room for half a line's width.
const EDGE: f64 = 2.0;
/// Points of a curve that are drawn: more cannot be told apart.
const POINTS: usize = 60;

/// One of the charts, its axes reaching from `low` to `high`, downwards in powers of ten.
pub fn small(title: &str, curves: &[Curve], (low, high): ((f64, f64), (f64, f64))) -> String {
    let title = escape(title);
    let mut svg = format!(r#"<svg class="small" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}"><title>{title}</title>"#);
    let share = |value: f64, low: f64, high: f64| if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
    let across = |x: f64| EDGE + (WIDTH - 2.0 * EDGE) * share(x, low.0, high.0);
    let down = |y: f64| HEIGHT - EDGE - (HEIGHT - 2.0 * EDGE) * share(y.max(f64::MIN_POSITIVE).log10(), low.1.log10(), high.1.log10());
    // Powers of ten, so that the eye has something to hold on to.
    for power in (low.1.log10().ceil() as i32)..=(high.1.log10().floor() as i32) {
        let at = down(10_f64.powi(power));
        let _ = write!(svg, r#"<line class="grid" x1="0" x2="{WIDTH}" y1="{at:.1}" y2="{at:.1}"/>"#);
    }
    for curve in curves {
        let points: Vec<String> = thinned(&curve.points).iter().map(|&(x, y)| format!("{:.1},{:.1}", across(x), down(y))).collect();
        let _ = write!(svg, r#"<g class="s{}"><polyline class="line" points="{}"/></g>"#, curve.style % STYLES, points.join(" "));
    }
    svg.push_str("</svg>");
    svg
}

/// Means of neighbours where there are too many points; the last one as it is.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let together = points.len().div_ceil(POINTS).max(1);
    let mean = |group: &[(f64, f64)]| {
        let count = group.len() as f64;
        (group.iter().map(|point| point.0).sum::<f64>() / count, group.iter().map(|point| point.1).sum::<f64>() / count)
    };
    let mut thin: Vec<(f64, f64)> = points.chunks(together).map(mean).collect();
    if let (true, Some(last)) = (together > 1, points.last()) {
        thin.push(*last);
    }
    thin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_points_become_few_and_end_where_they_did() {
        let many: Vec<(f64, f64)> = (0..10_000).map(|n| (f64::from(n), 1.0 / f64::from(n + 1))).collect();
        let thin = thinned(&many);
        assert!(thin.len() <= POINTS + 1 && thin.last() == many.last());
        assert!(thin.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 >= pair[1].1));
        assert_eq!(thinned(&many[..5]), many[..5]);
    }

    #[test]
    fn nothing_is_drawn_outside() {
        let svg = small("<layer>", &[Curve { style: 9, points: vec![(0.0, 0.0), (5.0, 9.0), (1.0, 1.0)] }], ((0.0, 0.1), (2.0, 1.0)));
        assert!(svg.contains("&lt;layer&gt;") && svg.contains(r#"points="2.0,54.0 118.0,2.0 60.0,2.0""#), "{svg}");
    }
}
