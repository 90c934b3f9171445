//! The page `report.html`.
use crate::events::Event;
use crate::report::Report;
/// Renders.
pub fn render(_report: &Report, _events: &[Event], _command: &str) -> String { String::new() }
