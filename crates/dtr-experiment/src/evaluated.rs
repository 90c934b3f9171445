//! Scores of one model as a table.

use std::fmt::Write;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, Table};

use crate::stages::Evaluated;

/// One line a task.
pub fn table(found: &[Evaluated]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["task", "metric", "split", "examples", "score", "±", "loss", "perplexity"]);
    for task in found {
        let text = [&task.task, &task.metric, &task.split].map(Cell::new);
        let numbers = [
            task.examples.to_string(),
            format!("{:.2} %", 100.0 * task.score),
            format!("{:.2}", 100.0 * task.standard_error),
            format!("{:.4}", task.loss),
            format!("{:.3}", task.perplexity),
        ];
        let numbers = numbers.map(|number| Cell::new(number).set_alignment(CellAlignment::Right));
        table.add_row(text.into_iter().chain(numbers));
    }
    let mut text = table.to_string();
    for task in found.iter().filter(|task| task.truncated > 0) {
        let _ = write!(text, "\n{}: {} of its prompts were cut to the model's context", task.task, task.truncated);
    }
    text
}
