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
    /// Horizontal lines across the whole chart, with the names that stand at their ends and are their class in the page's style.
    pub levels: &'a [(f64, &'a str)],
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
/// Height of a line of text.
const LINE: f64 = 13.0;

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

    /// The same scale from a mark to a mark, so that it shows two at least.
    fn widened(mut self, decades: bool) -> Self {
        if decades {
            self.low = fine_decades(self.low).filter(|mark| *mark <= self.low + 1e-9).fold(self.low - 1.0, f64::max);
            self.high = fine_decades(self.high).filter(|mark| *mark >= self.high - 1e-9).fold(self.high + 1.0, f64::min);
        } else {
            let step = self.step();
            (self.low, self.high) = ((self.low / step + 1e-9).floor() * step, (self.high / step - 1e-9).ceil() * step);
        }
        self
    }

    fn at(&self, value: f64) -> f64 {
        self.place((self.map)(value))
    }

    fn place(&self, mapped: f64) -> f64 {
        self.from + (self.to - self.from) * (mapped - self.low) / (self.high - self.low)
    }

    /// A round distance that cuts the scale into five parts or fewer.
    fn step(&self) -> f64 {
        let raw = (self.high - self.low) / 5.0;
        let power = 10_f64.powf(raw.log10().floor());
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= raw * (1.0 - 1e-9)).unwrap_or(raw)
    }

    /// Round numbers between the ends.
    fn ticks(&self) -> Vec<f64> {
        let step = self.step();
        let (first, last) = ((self.low / step - 1e-6).ceil() as i64, (self.high / step + 1e-6).floor() as i64);
        (first..=last).map(|n| n as f64 * step).collect()
    }

    /// Logarithms of round numbers between the ends: of powers of ten where these are many, else of their double and fivefold too.
    fn decades(&self) -> Vec<f64> {
        let whole: Vec<f64> = (self.low.ceil() as i32..=self.high.floor() as i32).map(f64::from).collect();
        if whole.len() > 2 {
            return whole;
        }
        let mut marks: Vec<f64> =
            (self.low.floor() as i32..=self.high.ceil() as i32).flat_map(|power| fine_decades(power.into())).collect();
        marks.retain(|mark| (self.low - 1e-9..=self.high + 1e-9).contains(mark));
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        marks
    }
}

/// Logarithms of 1, 2, 5 and 10 times the power of ten below a value given by its logarithm.
fn fine_decades(value: f64) -> impl Iterator<Item = f64> {
    let power = (value + 1e-9).floor();
    [1.0_f64, 2.0, 5.0, 10.0].into_iter().map(move |factor| power + factor.log10())
}

/// Heights of labels, each as near to the height it wants as the others let it be.
fn apart(wanted: &[f64], distance: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    let mut heights = wanted.to_vec();
    // Crowded labels spread evenly about their middle.
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for index in order {
        groups.push(vec![index]);
        while let [.., before, last] = &groups[..] {
            let middle = |group: &[usize]| group.iter().map(|label| wanted[*label]).sum::<f64>() / group.len() as f64;
            let needed = distance * (before.len() + last.len()) as f64 / 2.0;
            if middle(last) - middle(before) >= needed {
                break;
            }
            let last = groups.pop().expect("there are two");
            groups.last_mut().expect("there is one").extend(last);
        }
    }
    for group in groups {
        let middle = group.iter().map(|label| wanted[*label]).sum::<f64>() / group.len() as f64;
        for (place, label) in group.iter().enumerate() {
            heights[*label] = middle + distance * (place as f64 - (group.len() - 1) as f64 / 2.0);
        }
    }
    heights
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
    let y = Scale::new(heights, HEIGHT - BOTTOM, TOP, vertical).widened(frame.decades);

    let mut svg = String::new();
    let label = escape(frame.title);
    let _ = write!(svg, r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"><title>{label}</title>"#);
    draw_axes(&mut svg, frame, &x, &y, points().map(|point| point.0).collect());
    let end = WIDTH - RIGHT;
    let levels: Vec<f64> = frame.levels.iter().map(|level| y.at(level.0)).collect();
    for (((_, name), at), label) in frame.levels.iter().zip(&levels).zip(apart(&levels, LINE)) {
        let name = escape(name);
        let _ = write!(
            svg,
            r#"<line class="level {name}" x1="{LEFT}" x2="{end}" y1="{at:.1}" y2="{at:.1}"/><text class="level-name {name}" x="{}" y="{:.1}">{name}</text>"#,
            end + 4.0,
            label + 4.0
        );
    }
    let ends: Vec<f64> = series.iter().map(|series| series.points.last().map_or(f64::NAN, |point| y.at(point.1))).collect();
    let labels = apart(&ends, LINE);
    for (index, series) in series.iter().enumerate() {
        let path: Vec<String> = series.points.iter().map(|(px, py)| format!("{:.1},{:.1}", x.at(*px), y.at(*py))).collect();
        let colour = index % COLOURS;
        let _ = write!(svg, r#"<polyline class="line c{colour}" points="{}"/>"#, path.join(" "));
        if series.points.len() <= 16 {
            for (px, py) in &series.points {
                let _ = write!(svg, r#"<circle class="dot c{colour}" cx="{:.1}" cy="{:.1}" r="3.2"/>"#, x.at(*px), y.at(*py));
            }
        }
        if let (true, Some((px, _))) = (frame.named, series.points.last()) {
            let _ = write!(
                svg,
                r#"<text class="name c{colour}" x="{:.1}" y="{:.1}">{}</text>"#,
                x.at(*px) + 7.0,
                labels[index] + 4.0,
                escape(&series.name)
            );
        }
    }
    svg.push_str("</svg>");
    svg
}

fn draw_axes(svg: &mut String, frame: &Frame<'_>, x: &Scale, y: &Scale, mut places: Vec<f64>) {
    let (bottom, end) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    let ticks = if frame.decades { y.decades() } else { y.ticks() };
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
    let decimals = if value.abs() < 0.1 { 4 } else { 2 };
    let text = format!("{value:.decimals$}");
    if !text.contains('.') {
        return text;
    }
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
        let shown = [8192.0, 0.5, 25_000.0, 1_200_000.0, 0.002, 0.0].map(number);
        assert_eq!(["8192", "0.5", "25k", "1.2M", "0.002", "0"].map(str::to_owned), shown);
    }

    #[test]
    fn every_axis_shows_two_marks_and_holds_all_values() {
        for (values, decades) in
            [([0.94, 0.95], false), ([99.9, 100.0], false), ([3000.0, 3900.0], true), ([1.0, 10.0], true), ([0.3, 2e6], true)]
        {
            let map: fn(f64) -> f64 = if decades { f64::log10 } else { |y| y };
            let scale = Scale::new(values.into_iter(), 0.0, 1.0, map).widened(decades);
            let marks = if decades { scale.decades() } else { scale.ticks() };
            assert!(marks.len() >= 2 && marks.len() <= 8, "{values:?}: {marks:?}");
            assert!(values.iter().all(|value| (-1e-6..=1.0 + 1e-6).contains(&scale.at(*value))), "{values:?}");
        }
    }

    #[test]
    fn labels_keep_apart_and_near() {
        assert_eq!(apart(&[10.0, 100.0], 13.0), [10.0, 100.0]);
        assert_eq!(apart(&[50.0, 50.0], 10.0), [45.0, 55.0]);
        let crowded = apart(&[30.0, 10.0, 11.0, 12.0], 10.0);
        let mut sorted = crowded.clone();
        sorted.sort_by(f64::total_cmp);
        assert!(sorted.windows(2).all(|pair| pair[1] - pair[0] >= 10.0 - 1e-9), "{crowded:?}");
    }
}
