//! Line charts as inline SVG. Colours come from the page's style, so that they fit light and dark.

use std::fmt::Write;

/// One line.
pub struct Series {
    /// What it shows.
    pub name: String,
    /// Points from left to right.
    pub points: Vec<(f64, f64)>,
}

/// What is drawn around the lines.
pub struct Frame<'a> {
    /// What the chart shows, for those who do not see it.
    pub title: &'a str,
    /// Label of the horizontal axis.
    pub x: &'a str,
    /// Label of the vertical axis.
    pub y: &'a str,
    /// Horizontal lines across the whole chart, with their labels.
    pub levels: &'a [(f64, String)],
    /// Whether the horizontal axis counts doublings.
    pub doublings: bool,
    /// Whether the vertical axis counts powers of ten.
    pub decades: bool,
    /// Whether names stand at the ends of lines.
    pub named: bool,
}

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 76.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;

/// Colours there are, one a line, in turn.
const COLOURS: usize = 8;

struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    map: fn(f64) -> f64,
}

impl Scale {
    fn new(values: impl Iterator<Item = f64>, from: f64, to: f64, map: fn(f64) -> f64) -> Self {
        let values: Vec<f64> = values.map(map).filter(|value| value.is_finite()).collect();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = if low > high {
            (0.0, 1.0)
        } else if high - low < 1e-9 {
            (low - 0.5, high + 0.5)
        } else {
            (low, high)
        };
        Self { low, high, from, to, map }
    }

    fn at(&self, value: f64) -> f64 {
        self.place((self.map)(value))
    }

    fn place(&self, mapped: f64) -> f64 {
        self.from + (self.to - self.from) * (mapped - self.low) / (self.high - self.low)
    }

    /// Round numbers between the ends.
    fn ticks(&self) -> Vec<f64> {
        let raw = (self.high - self.low) / 5.0;
        let power = 10_f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= raw).unwrap_or(raw);
        let (first, last) = ((self.low / step).ceil() as i64, (self.high / step + 1e-6).floor() as i64);
        (first..=last).map(|n| n as f64 * step).collect()
    }
}

/// The chart, or nothing where there is nothing to draw.
pub fn lines(frame: &Frame<'_>, series: &[Series]) -> String {
    if series.iter().all(|series| series.points.is_empty()) {
        return String::new();
    }
    let points = || series.iter().flat_map(|series| series.points.iter());
    let horizontal: fn(f64) -> f64 = if frame.doublings { f64::log2 } else { |x| x };
    let vertical: fn(f64) -> f64 = if frame.decades { f64::log10 } else { |y| y };
    let x = Scale::new(points().map(|point| point.0), LEFT, WIDTH - RIGHT, horizontal);
    let heights = points().map(|point| point.1).chain(frame.levels.iter().map(|level| level.0));
    let y = Scale::new(heights, HEIGHT - BOTTOM, TOP, vertical);

    let mut svg = String::new();
    let label = escape(frame.title);
    let _ = write!(svg, r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"><title>{label}</title>"#);
    draw_axes(&mut svg, frame, &x, &y, points().map(|point| point.0).collect());
    for (level, name) in frame.levels {
        let at = y.at(*level);
        let end = WIDTH - RIGHT;
        let _ = write!(
            svg,
            r#"<line class="level" x1="{LEFT}" x2="{end}" y1="{at:.1}" y2="{at:.1}"/><text class="level-name" x="{}" y="{:.1}">{}</text>"#,
            end + 4.0,
            at + 4.0,
            escape(name)
        );
    }
    for (index, series) in series.iter().enumerate() {
        let path: Vec<String> = series.points.iter().map(|(px, py)| format!("{:.1},{:.1}", x.at(*px), y.at(*py))).collect();
        let colour = index % COLOURS;
        let _ = write!(svg, r#"<polyline class="line c{colour}" points="{}"/>"#, path.join(" "));
        if series.points.len() <= 16 {
            for (px, py) in &series.points {
                let _ = write!(svg, r#"<circle class="dot c{colour}" cx="{:.1}" cy="{:.1}" r="3.2"/>"#, x.at(*px), y.at(*py));
            }
        }
        if let (true, Some((px, py))) = (frame.named, series.points.last()) {
            let _ = write!(
                svg,
                r#"<text class="name c{colour}" x="{:.1}" y="{:.1}">{}</text>"#,
                x.at(*px) + 7.0,
                y.at(*py) + 4.0,
                escape(&series.name)
            );
        }
    }
    svg.push_str("</svg>");
    svg
}

fn draw_axes(svg: &mut String, frame: &Frame<'_>, x: &Scale, y: &Scale, mut places: Vec<f64>) {
    let (bottom, end) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    let ticks = if frame.decades { (y.low.ceil() as i32..=y.high.floor() as i32).map(f64::from).collect() } else { y.ticks() };
    for tick in ticks {
        let at = y.place(tick);
        let value = if frame.decades { 10_f64.powf(tick) } else { tick };
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{LEFT}" x2="{end}" y1="{at:.1}" y2="{at:.1}"/><text class="tick" x="{}" y="{:.1}" text-anchor="end">{}</text>"#,
            LEFT - 6.0,
            at + 4.0,
            number(value)
        );
    }
    places.sort_by(f64::total_cmp);
    places.dedup();
    // Where the places are few, each has its own mark; else round numbers serve.
    let few = frame.doublings || places.len() <= 9 && places.iter().all(|place| *place < 100.0);
    let marks = if few { places } else { x.ticks() };
    for mark in marks {
        let at = x.at(mark);
        let _ = write!(svg, r#"<text class="tick" x="{at:.1}" y="{}" text-anchor="middle">{}</text>"#, bottom + 16.0, number(mark));
    }
    let _ = write!(svg, r#"<line class="axis" x1="{LEFT}" x2="{end}" y1="{bottom}" y2="{bottom}"/>"#);
    let _ = write!(
        svg,
        r#"<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>"#,
        f64::midpoint(LEFT, end),
        HEIGHT - 8.0,
        escape(frame.x)
    );
    let middle = f64::midpoint(TOP, bottom);
    let _ = write!(
        svg,
        r#"<text class="label" x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{}</text>"#,
        escape(frame.y)
    );
}

/// A number as short as it can be said.
fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1e6 {
        format!("{}M", trimmed(value / 1e6))
    } else if size >= 1e4 {
        format!("{}k", trimmed(value / 1e3))
    } else {
        trimmed(value)
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Text that cannot be taken for markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame<'static> {
        Frame { title: "a < b", x: "x", y: "y", levels: &[], doublings: false, decades: false, named: true }
    }

    #[test]
    fn draws_what_there_is_and_escapes_it() {
        let series = [Series { name: "<b>".into(), points: vec![(0.0, 1.0), (1.0, 3.0)] }];
        let svg = lines(&frame(), &series);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"));
        assert!(svg.contains("&lt;b&gt;") && svg.contains("a &lt; b") && !svg.contains("<b>"));
        assert!(!svg.contains("NaN"));
        assert_eq!(lines(&frame(), &[]), "");
    }

    #[test]
    fn a_single_point_is_no_division_by_zero() {
        let svg = lines(&frame(), &[Series { name: "one".into(), points: vec![(5.0, 5.0)] }]);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(["8192", "0.5", "25k", "1.2M"].map(str::to_owned), [8192.0, 0.5, 25_000.0, 1_200_000.0].map(number));
    }
}
