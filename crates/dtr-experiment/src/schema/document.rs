//! An experiment file together with its overrides, in which every key and value knows where it was written.
//!
//! File and overrides share one address space: each text has its own range of offsets, so that the plain spans of the TOML
//! reader tell a mistake in the file from one in an override, even inside of nested values.

use std::{borrow::Cow, ops::Range, path::Path};

use miette::NamedSource;
use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeTable, DeValue, Deserializer},
};

use crate::error::{Error, Invalid, Problem};

/// Before the value of an override, to make a document of it.
const KEY: &str = "v=";

/// The texts that an experiment is read from.
pub(super) struct Sources(Vec<Source>);

struct Source {
    /// File name, or the override as given; also what the place of a mistake begins with.
    name: String,
    /// Dotted key, for an override only.
    key: Option<String>,
    /// Blanks up to `start`, then the text.
    padded: String,
    start: usize,
}

impl Source {
    fn text(&self) -> &str {
        &self.padded[self.start..]
    }

    /// An override is its own place.
    fn place(&self, offset: usize) -> String {
        if self.key.is_some() {
            return self.name.clone();
        }
        let before = &self.text()[..offset];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{}:{line}:{column}", self.name)
    }
}

impl Sources {
    pub(super) fn new(path: &Path, text: String, overrides: &[(String, String)]) -> Self {
        let file = Source { name: path.display().to_string(), key: None, padded: text, start: 0 };
        let mut sources = vec![file];
        let mut end = sources[0].padded.len();
        for (key, value) in overrides {
            let start = end + KEY.len();
            sources.push(Source {
                name: format!("--set {key}={value}"),
                key: Some(key.clone()),
                padded: format!("{}{KEY}{value}", " ".repeat(end)),
                start,
            });
            // One more, so that the end of a text is not the beginning of the next one.
            end = start + value.len() + 1;
        }
        Self(sources)
    }

    /// An error at `span`, shown up to the end of its first line.
    fn error(&self, span: Range<usize>, problem: Problem, remedy: impl Into<String>) -> Error {
        let source = self.0.iter().rfind(|source| source.start <= span.start).unwrap_or(&self.0[0]);
        let text = source.text();
        let start = (span.start - source.start).min(text.len());
        let end = (span.end - source.start).min(text.len());
        let length = text[start..end].lines().next().map_or(0, str::len);
        Error::Invalid(Box::new(Invalid {
            place: source.place(start),
            problem,
            remedy: remedy.into(),
            source_code: NamedSource::new(&source.name, text.to_owned()).with_language("TOML"),
            span: (start, length).into(),
        }))
    }

    fn shape(&self, error: &toml::de::Error, message: &str) -> Error {
        let message = message.trim_end().replace('\n', " ");
        let remedy = "compare with configs/quickstart.toml, which has every key with a comment: none has a default";
        self.error(error.span().unwrap_or(0..0), Problem::Shape { message }, remedy)
    }
}

/// The file after its overrides.
pub(super) struct Document<'i> {
    sources: &'i Sources,
    root: Spanned<DeTable<'i>>,
}

impl<'i> Document<'i> {
    /// # Errors
    /// [`Error::Invalid`] when the file is not TOML, or an override's key leads into something other than a table.
    pub(super) fn parse(sources: &'i Sources) -> Result<Self, Error> {
        let mut root = DeTable::parse(&sources.0[0].padded).map_err(|error| sources.shape(&error, error.message()))?;
        for source in &sources.0[1..] {
            set(root.get_mut(), source).map_err(|(problem, remedy)| sources.error(source.start..source.padded.len(), problem, remedy))?;
        }
        Ok(Self { sources, root })
    }

    /// # Errors
    /// [`Error::Invalid`] when a key is missing or unknown, or a value has the wrong type.
    pub(super) fn raw<T: DeserializeOwned>(&self) -> Result<T, Error> {
        T::deserialize(Deserializer::from(self.root.clone()))
            // Without its input, the reader's message ends with the dotted key.
            .map_err(|error| self.sources.shape(&error, &error.to_string()))
    }

    /// Whether there is no other key at the top.
    pub(super) fn has_only(&self, key: &str) -> bool {
        self.root.get_ref().keys().all(|found| found.get_ref() == key)
    }

    /// An error at the value of `key`, whose last parts may be missing; a number is a place in a list.
    pub(super) fn invalid(&self, key: &[&str], expected: String, found: String, remedy: String) -> Error {
        let mut span = self.root.span();
        let mut value = key.first().and_then(|&first| self.root.get_ref().get(first));
        for &part in key.iter().skip(1).chain([&""]) {
            let Some(here) = value else { break };
            span = here.span();
            value = match (here.get_ref(), part.parse::<usize>()) {
                (DeValue::Array(list), Ok(index)) => list.get(index),
                (DeValue::Table(table), _) => table.get(part),
                _ => None,
            };
        }
        let problem = Problem::Value { key: key.join("."), expected, found };
        self.sources.error(span, problem, remedy)
    }
}

/// Replaces one value, or adds it where it is not: a key that the schema does not know is found when the whole is read.
fn set<'i>(root: &mut DeTable<'i>, source: &'i Source) -> Result<(), (Problem, &'static str)> {
    let key = source.key.as_deref().unwrap_or_default();
    let span = source.start..source.padded.len();
    let spanned = |part: &'i str| Spanned::new(span.clone(), Cow::Borrowed(part));
    let (parents, last) = key.rsplit_once('.').map_or((None, key), |(parents, last)| (Some(parents), last));
    let mut table = root;
    for part in parents.into_iter().flat_map(|parents| parents.split('.')) {
        let inner = table.entry(spanned(part)).or_insert_with(|| Spanned::new(span.clone(), DeValue::Table(DeTable::new())));
        table = match inner.get_mut() {
            DeValue::Table(inner) => inner,
            other => {
                let problem = Problem::Value {
                    key: key.to_owned(),
                    expected: "a key inside of tables".to_owned(),
                    found: format!("`{part}`, which is of type {}", other.type_str()),
                };
                return Err((problem, "set the whole value, as in --set 'search.tasks=[\"phonebook\"]'"));
            }
        };
    }
    // Removed first, because inserting keeps the old key, whose place is in the file.
    table.remove(last);
    table.insert(spanned(last), value(source));
    Ok(())
}

/// The override's value, or its text as a string where it is no TOML value: `cuda:0` needs no quotes.
fn value(source: &Source) -> Spanned<DeValue<'_>> {
    DeTable::parse(&source.padded)
        .ok()
        .map(Spanned::into_inner)
        // A value with a line break could bring further keys.
        .filter(|table| table.len() == 1)
        .and_then(|table| table.into_iter().next())
        .map_or_else(
            || {
                let span = source.start..source.padded.len();
                Spanned::new(span, DeValue::String(Cow::Borrowed(source.text())))
            },
            |(_, value)| value,
        )
}
