//! The layouts of a search as a picture: rounds from top to bottom, layers from left to right.

use std::fmt::Write;

use super::escape;

/// What a round did with a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// Stays full; was not tried in this round.
    Full,
    /// Was replaced before.
    Linear,
    /// Replaced in this round.
    New,
    /// Tried in this round, and another layer did better.
    Passed,
    /// Tried in this round, with a score below the floor.
    Below,
    /// Proposed in this round, and refused.
    Refused,
}

impl Cell {
    /// Its class in the page's style.
    pub fn class(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Linear => "linear",
            Self::New => "new",
            Self::Passed => "passed",
            Self::Below => "below",
            Self::Refused => "refused",
        }
    }
}

/// One round.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Stands in front of it.
    pub name: String,
    /// What became of each layer, its letter, and more for those who point at it.
    pub cells: Vec<(Cell, char, String)>,
    /// Stands behind it.
    pub result: String,
    /// Whether the round kept what it proposed.
    pub kept: bool,
}

const SIZE: f64 = 22.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 158.0;
const TOP: f64 = 22.0;

/// The picture, or nothing where there is no round.
pub fn picture(title: &str, rows: &[Row]) -> String {
    let layers = rows.iter().map(|row| row.cells.len()).max().unwrap_or(0);
    if layers == 0 {
        return String::new();
    }
    let (width, height) = (LEFT + SIZE * layers as f64 + RIGHT, TOP + SIZE * rows.len() as f64 + 4.0);
    let title = escape(title);
    let mut svg = format!(
        r#"<svg class="picture" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{title}"><title>{title}</title>"#
    );
    for layer in 0..layers {
        let middle = LEFT + SIZE * (layer as f64 + 0.5);
        let _ = write!(svg, r#"<text class="tick" x="{middle}" y="14" text-anchor="middle">{layer}</text>"#);
    }
    for (index, row) in rows.iter().enumerate() {
        let top = TOP + SIZE * index as f64;
        let base = top + 15.0;
        let (name, result) = (escape(&row.name), escape(&row.result));
        let _ = write!(svg, r#"<text class="tick" x="{}" y="{base}" text-anchor="end">{name}</text>"#, LEFT - 8.0);
        for (layer, (cell, letter, words)) in row.cells.iter().enumerate() {
            draw(&mut svg, *cell, *letter, words, (LEFT + SIZE * layer as f64, top));
        }
        let class = if row.kept { "result" } else { "result not" };
        let _ = write!(svg, r#"<text class="{class}" x="{}" y="{base}">{result}</text>"#, LEFT + SIZE * layers as f64 + 8.0);
    }
    svg.push_str("</svg>");
    svg
}

fn draw(svg: &mut String, cell: Cell, letter: char, words: &str, (left, top): (f64, f64)) {
    let (class, size) = (cell.class(), SIZE - 2.0);
    let _ = write!(svg, r#"<g class="{class}"><rect x="{}" y="{}" width="{size}" height="{size}" rx="3"/>"#, left + 1.0, top + 1.0);
    let (x, y) = (left + SIZE / 2.0, top + SIZE / 2.0);
    match cell {
        Cell::Linear | Cell::New | Cell::Refused => {
            let letter = escape(&letter.to_string());
            let _ = write!(svg, r#"<text x="{x}" y="{}" text-anchor="middle">{letter}</text>"#, y + 4.0);
        }
        Cell::Below => {
            let _ = write!(svg, r#"<path d="M{},{}l6,6m0,-6l-6,6"/>"#, x - 3.0, y - 3.0);
        }
        Cell::Passed => {
            let _ = write!(svg, r#"<circle cx="{x}" cy="{y}" r="2.6"/>"#);
        }
        Cell::Full => {}
    }
    if !words.is_empty() {
        let _ = write!(svg, "<title>{}</title>", escape(words));
    }
    svg.push_str("</g>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_has_its_class_and_words() {
        let cells = [Cell::Full, Cell::Linear, Cell::New, Cell::Passed, Cell::Below, Cell::Refused];
        let row = Row {
            name: "1".into(),
            cells: cells.iter().map(|&cell| (cell, '<', format!("<{}>", cell.class()))).collect(),
            result: "<50 %>".into(),
            kept: false,
        };
        let svg = picture("rounds & layers", &[row]);
        for cell in cells {
            let class = cell.class();
            assert!(svg.contains(&format!(r#"<g class="{class}">"#)) && svg.contains(&format!("&lt;{class}&gt;")), "{class}");
        }
        assert!(svg.contains("rounds &amp; layers") && !svg.contains("<50"));
        assert_eq!(picture("nothing", &[]), "");
    }
}
