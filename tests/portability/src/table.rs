//! Differences as a table: groups or cases down, devices across.

use std::collections::BTreeMap;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use crate::compare::{Case, Result};

/// The worst case of each group and kind, or with `all` every case; below, whatever is not near enough.
pub fn table(results: &[Result], all: bool) -> String {
    let mut rows: BTreeMap<(usize, String, String), Vec<Option<&Case>>> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    for (column, result) in results.iter().enumerate() {
        for case in &result.cases {
            let at = order.iter().position(|group| *group == case.group).unwrap_or_else(|| {
                order.push(&case.group);
                order.len() - 1
            });
            let name = if all { format!("{}: {}", case.group, case.case) } else { case.group.clone() };
            let row = rows.entry((at, name, kind(case))).or_insert_with(|| vec![None; results.len()]);
            if row[column].is_none_or(|worst| worse(case, worst)) {
                row[column] = Some(case);
            }
        }
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["largest difference", "of", "allowed"].into_iter().chain(results.iter().map(|result| result.device.as_str())));
    for ((_, name, kind), cells) in rows {
        let allowed = cells.iter().flatten().map(|case| number(case.tolerance)).next().unwrap_or_default();
        table.add_row([name, kind, allowed].into_iter().chain(cells.iter().map(|cell| cell.map_or_else(String::new, shown))));
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut lines = vec![table.to_string()];
    for result in results {
        let ran = result.cases.iter().filter(|case| case.difference.is_ok()).count();
        let failed: Vec<&Case> = result.cases.iter().filter(|case| !case.passed()).collect();
        let seconds: f64 = result.cases.iter().map(|case| case.seconds).sum();
        lines.push(match &result.failed {
            Some(reason) => format!("{}: {reason}", result.device),
            None => format!("{}: {ran} of {} comparisons ran, {} failed, {seconds:.0} s", result.device, result.cases.len(), failed.len()),
        });
        for case in failed {
            let found = case
                .difference
                .as_ref()
                .map_or_else(String::clone, |difference| format!("differs by {}, allowed {}", number(*difference), number(case.tolerance)));
            lines.push(format!("  {}, {}, {}: {found}", case.group, case.case, kind(case)));
        }
    }
    lines.join("\n")
}

fn worse(case: &Case, than: &Case) -> bool {
    match (&case.difference, &than.difference) {
        (Ok(case), Ok(than)) => case > than,
        (case, than) => case.is_err() && than.is_ok(),
    }
}

fn kind(case: &Case) -> String {
    serde_json::to_value(case.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default()
}

fn shown(case: &Case) -> String {
    let mark = if case.passed() { "" } else { " !" };
    case.difference.as_ref().map_or_else(|_| "failed !".to_owned(), |difference| format!("{}{mark}", number(*difference)))
}

fn number(x: f64) -> String {
    if x == 0.0 { "0".into() } else { format!("{x:.0e}") }
}
