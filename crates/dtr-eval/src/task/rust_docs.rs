//! Retrieval over real text: given the name and the first paragraph of an item's documentation, find the rest of it.

use std::collections::HashSet;

use super::Split;
use super::retrieval::{Pair, Retrieval};
use crate::corpus::{Sources, files};
use crate::error::EvalError;
use crate::reader::Reader;
use crate::retrieval::Measure;

/// Characters of a first paragraph that says something.
const SUMMARY: usize = 20;

/// Characters of a rest that can be found.
const BODY: usize = 120;

/// Items with documentation in the sources of locked dependencies, a pair each: `name: first paragraph`, and all further paragraphs without
/// code and headings. An item belongs to the split of its file. Of equal paragraphs, the first item counts.
///
/// # Errors
/// If the model is no encoder, a crate is unknown, or a split has too few items.
pub fn rust_docs(
    name: &str,
    (sources, crates): (&Sources, &[String]),
    measure: Measure,
    wanted: &[(Split, usize)],
    reader: &Reader,
) -> Result<Retrieval, EvalError> {
    let (mut pairs, mut seen) = (Vec::new(), HashSet::new());
    for krate in crates {
        for split in [Split::Training, Split::Validation, Split::Test] {
            for file in files(sources, krate, split)? {
                for Item { name, summary, body } in items(file.text()) {
                    if seen.insert(summary.clone()) && seen.insert(body.clone()) {
                        let id = format!("{krate}/{}/{}", pairs.len(), name);
                        pairs.push(Pair { id, split, query: format!("{name}: {summary}"), document: body });
                    }
                }
            }
        }
    }
    Retrieval::new(name, pairs, measure, wanted, reader)
}

/// A documented item.
#[derive(Debug, PartialEq, Eq)]
struct Item {
    name: String,
    summary: String,
    body: String,
}

/// The documented public items of a source file that have more than one paragraph.
fn items(text: &str) -> Vec<Item> {
    let (mut found, mut documentation) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim) {
        if let Some(line) = line.strip_prefix("///") {
            documentation.push(line.strip_prefix(' ').unwrap_or(line));
        } else if !line.starts_with("#[") {
            let lines = std::mem::take(&mut documentation);
            found.extend(name(line).and_then(|name| item(name, &lines)));
        }
    }
    found
}

/// Name of the public item that a line begins.
fn name(line: &str) -> Option<&str> {
    const KINDS: [&str; 8] = ["fn ", "struct ", "enum ", "trait ", "type ", "const ", "static ", "union "];
    let mut rest = line.strip_prefix("pub ")?;
    for word in ["unsafe ", "async ", "const fn "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    rest = KINDS.iter().find_map(|kind| rest.strip_prefix(kind)).unwrap_or(rest);
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    (end > 0).then(|| &rest[..end])
}

fn item(name: &str, lines: &[&str]) -> Option<Item> {
    let mut in_code = false;
    let mut paragraphs = vec![String::new()];
    for line in lines {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        match line.trim() {
            _ if fence || in_code => {}
            "" => paragraphs.push(String::new()),
            line if line.starts_with('#') => paragraphs.push(String::new()),
            line => {
                let paragraph = paragraphs.last_mut().expect("there is one from the beginning");
                if !paragraph.is_empty() {
                    paragraph.push(' ');
                }
                paragraph.push_str(line);
            }
        }
    }
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    let (summary, body) = paragraphs.split_first()?;
    let body = body.join("\n");
    (summary.len() >= SUMMARY && body.len() >= BODY).then(|| Item { name: name.into(), summary: summary.clone(), body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_read_with_their_documentation() {
        let body = "It goes on for as long as it takes to say something that can be found again, which is a hundred and twenty characters or more.";
        let text = format!(
            "//! A file.\n\n/// Opens the door\n/// to the garden.\n///\n/// # Panics\n///\n/// {body}\n/// ```\n/// let x = 1;\n/// ```\n#[inline]\npub \
             const fn open(door: u8) {{}}\n/// Closes it, for good and ever.\npub fn close() {{}}\n/// Not for everybody, this one.\n///\n/// {body}\nfn own() {{}}\n"
        );
        let found = items(&text);
        assert_eq!(found, [Item { name: "open".into(), summary: "Opens the door to the garden.".into(), body: body.into() }]);
    }
}
