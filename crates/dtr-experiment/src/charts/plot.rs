//! Lines and dots over two axes.

use std::fmt::Write;

use super::scale::{Scale, apart, number};
use super::{STYLES, escape};

/// One place on a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// Along the horizontal axis.
    pub x: f64,
    /// Along the vertical axis.
    pub y: f64,
    /// From where to where `y` may lie.
    pub range: Option<[f64; 2]>,
    /// What it is, for those who point at it.
    pub title: String,
}

/// Marks of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What it shows; stands at its end unless empty.
    pub name: String,
    /// How it looks, from 0 to [`STYLES`].
    pub style: usize,
    /// Whether a line joins its marks.
    pub line: bool,
    /// How the marks themselves look.
    pub dots: Dots,
    /// From left to right.
    pub marks: Vec<Mark>,
}

/// How marks look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dots {
    /// As full shapes.
    Filled,
    /// As outlines.
    Hollow,
    /// Not at all.
    None,
}

/// What is drawn around them.
pub struct Frame<'a> {
    /// What the chart shows, for those who do not see it.
    pub title: &'a str,
    /// Label of the horizontal axis.
    pub x: &'a str,
    /// Label of the vertical axis.
    pub y: &'a str,
    /// Horizontal lines across the whole chart, with the names that stand at their ends and are their class in the page's style.
    pub levels: &'a [(f64, &'static str)],
    /// Whether the horizontal axis counts doublings.
    pub doublings: bool,
    /// Whether the vertical axis counts powers of ten.
    pub decades: bool,
}

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 282.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 74.0;
/// Names of four lines that all end at the top have room.
const TOP: f64 = 24.0;
const BOTTOM: f64 = 42.0;
/// Height of a line of text.
const LINE: f64 = 13.0;

/// The chart, or nothing where there is nothing to draw.
pub fn plot(frame: &Frame<'_>, series: &[Series]) -> String {
    let marks = || series.iter().flat_map(|series| &series.marks);
    if marks().next().is_none() {
        return String::new();
    }
    let horizontal: fn(f64) -> f64 = if frame.doublings { f64::log2 } else { |x| x };
    let vertical: fn(f64) -> f64 = if frame.decades { f64::log10 } else { |y| y };
    let x = Scale::new(marks().map(|mark| mark.x), LEFT, WIDTH - RIGHT, horizontal);
    let heights =
        marks().flat_map(|mark| [mark.y, mark.range.map_or(mark.y, |range| range[0]), mark.range.map_or(mark.y, |range| range[1])]);
    let heights = heights.chain(frame.levels.iter().map(|level| level.0));
    let y = Scale::new(heights, HEIGHT - BOTTOM, TOP, vertical).widened(frame.decades);

    let mut svg = String::new();
    let label = escape(frame.title);
    let _ = write!(svg, r#"<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"><title>{label}</title>"#);
    axes(&mut svg, frame, &x, &y, marks().map(|mark| mark.x).collect());
    levels(&mut svg, frame, &y);
    for series in series {
        draw(&mut svg, series, &x, &y);
    }
    names(&mut svg, series, &x, &y);
    svg.push_str("</svg>");
    svg
}

fn draw(svg: &mut String, series: &Series, x: &Scale, y: &Scale) {
    let style = series.style % STYLES;
    let _ = write!(svg, r#"<g class="s{style}{}">"#, if series.dots == Dots::Hollow { " hollow" } else { "" });
    if series.line {
        let path: Vec<String> = series.marks.iter().map(|mark| format!("{:.1},{:.1}", x.at(mark.x), y.at(mark.y))).collect();
        let _ = write!(svg, r#"<polyline class="line" points="{}"/>"#, path.join(" "));
    }
    for mark in series.marks.iter().filter(|_| series.dots != Dots::None) {
        let (px, py) = (x.at(mark.x), y.at(mark.y));
        if let Some([low, high]) = mark.range {
            let (low, high) = (y.at(low), y.at(high));
            let _ = write!(svg, r#"<line class="range" x1="{px:.1}" x2="{px:.1}" y1="{low:.1}" y2="{high:.1}"/>"#);
        }
        let _ = write!(svg, r#"<path class="dot" d="{}">"#, shape(style, px, py));
        if !mark.title.is_empty() {
            let _ = write!(svg, "<title>{}</title>", escape(&mark.title));
        }
        svg.push_str("</path>");
    }
    svg.push_str("</g>");
}

/// The outline of a dot: circle, square, triangle or diamond.
fn shape(style: usize, x: f64, y: f64) -> String {
    match style % 4 {
        0 => format!("M{:.1},{y:.1}a3.4,3.4 0 1,0 6.8,0a3.4,3.4 0 1,0 -6.8,0z", x - 3.4),
        1 => format!("M{:.1},{:.1}h6.2v6.2h-6.2z", x - 3.1, y - 3.1),
        2 => format!("M{x:.1},{:.1}l4,7h-8z", y - 4.4),
        _ => format!("M{x:.1},{:.1}l4.3,4.3l-4.3,4.3l-4.3,-4.3z", y - 4.3),
    }
}

fn levels(svg: &mut String, frame: &Frame<'_>, y: &Scale) {
    let end = WIDTH - RIGHT;
    let places: Vec<f64> = frame.levels.iter().map(|level| y.at(level.0)).collect();
    for (((_, name), at), label) in frame.levels.iter().zip(&places).zip(apart(&places, LINE)) {
        let (from, label) = (end + 5.0, label + 4.0);
        let _ = write!(
            svg,
            r#"<line class="level {name}" x1="{LEFT}" x2="{end}" y1="{at:.1}" y2="{at:.1}"/><text class="{name}" x="{from}" y="{label:.1}">{name}</text>"#
        );
    }
}

/// Names at the ends of lines.
fn names(svg: &mut String, series: &[Series], x: &Scale, y: &Scale) {
    let named: Vec<(&Series, &Mark)> =
        series.iter().filter(|series| !series.name.is_empty()).filter_map(|series| Some((series, series.marks.last()?))).collect();
    let labels = apart(&named.iter().map(|(_, mark)| y.at(mark.y)).collect::<Vec<_>>(), LINE);
    for ((series, mark), label) in named.iter().zip(labels) {
        let (style, name) = (series.style % STYLES, escape(&series.name));
        let _ = write!(svg, r#"<text class="name s{style}" x="{:.1}" y="{:.1}">{name}</text>"#, x.at(mark.x) + 8.0, label + 4.0);
    }
}

fn axes(svg: &mut String, frame: &Frame<'_>, x: &Scale, y: &Scale, mut places: Vec<f64>) {
    let (bottom, end) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    let ticks = if frame.decades { y.decades() } else { y.ticks() };
    for tick in ticks {
        let at = y.place(tick);
        let value = number(if frame.decades { 10_f64.powf(tick) } else { tick });
        let (from, base) = (LEFT - 6.0, at + 4.0);
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{LEFT}" x2="{end}" y1="{at:.1}" y2="{at:.1}"/><text class="tick" x="{from}" y="{base:.1}" text-anchor="end">{value}</text>"#
        );
    }
    places.sort_by(f64::total_cmp);
    places.dedup();
    // Where the places are few, each has its own mark; else round numbers serve.
    let few = places.len() <= 9 && (frame.doublings || places.iter().all(|place| *place < 100.0 && place.fract() == 0.0));
    let marks = if few { places } else { x.marks(frame.doublings) };
    for mark in marks {
        let at = x.at(mark);
        let _ = write!(svg, r#"<text class="tick" x="{at:.1}" y="{}" text-anchor="middle">{}</text>"#, bottom + 16.0, number(mark));
    }
    let _ = write!(svg, r#"<line class="axis" x1="{LEFT}" x2="{end}" y1="{bottom}" y2="{bottom}"/>"#);
    let (middle, base, label) = (f64::midpoint(LEFT, end), HEIGHT - 6.0, escape(frame.x));
    let _ = write!(svg, r#"<text class="label" x="{middle}" y="{base}" text-anchor="middle">{label}</text>"#);
    let (middle, label) = (f64::midpoint(TOP, bottom), escape(frame.y));
    let _ =
        write!(svg, r#"<text class="label" x="13" y="{middle}" text-anchor="middle" transform="rotate(-90 13 {middle})">{label}</text>"#);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(series: &[Series]) -> String {
        plot(&Frame { title: "a < b", x: "x", y: "y", levels: &[(2.0, "floor")], doublings: false, decades: false }, series)
    }

    fn series(name: &str, points: &[(f64, f64)]) -> Series {
        let marks = points.iter().map(|&(x, y)| Mark { x, y, range: Some([y - 0.1, y + 0.1]), title: "\"><i>".into() }).collect();
        Series { name: name.into(), style: 1, line: true, dots: Dots::Filled, marks }
    }

    #[test]
    fn draws_what_there_is_and_escapes_it() {
        let svg = draw(&[series("<b>", &[(0.0, 1.0), (1.0, 3.0)])]);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"));
        assert!(svg.contains("&lt;b&gt;") && svg.contains("a &lt; b") && !svg.contains("<b>") && !svg.contains("<i>"));
        assert!(svg.contains(r#"class="level floor""#) && !svg.contains("NaN"));
        assert_eq!(draw(&[]), "");
    }

    #[test]
    fn a_single_point_is_no_division_by_zero() {
        let svg = draw(&[series("one", &[(5.0, 5.0)])]);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
