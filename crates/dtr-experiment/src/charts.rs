//! Charts as inline SVG. Colours come from the page's style, so that they fit light, dark and paper; no meaning rests on colour alone.

mod picture;
mod plot;
mod scale;
mod small;

pub use picture::{Cell, Row, picture};
pub use plot::{Dots, Frame, Mark, Series, plot};
pub use small::{Curve, small};

pub(crate) use scale::number;

/// Styles that series may have: a colour, a shape of dots and a dash each.
pub const STYLES: usize = 8;

/// Text that cannot be taken for markup.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
