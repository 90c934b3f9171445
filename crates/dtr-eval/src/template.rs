//! Text with places for the fields of an example: `{question}`, `{choices.text}`; `{{` and `}}` stand for braces.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::flaw::Flaw;

/// Fields of an example.
pub(crate) type Fields = Map<String, Value>;

/// Text with places for fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A field, or one inside of another: names with dots between them.
    Field(String),
}

/// A template that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{{ and }} must enclose the name of a field, as in {{question}}; write {{{{ or }}}} for a brace. Found another at byte {at}")]
pub struct TemplateError {
    /// Where the brace stands.
    pub at: usize,
}

impl Template {
    /// The text of one example.
    pub(crate) fn render(&self, fields: &Fields) -> Result<String, Flaw> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Field(name) => text.push_str(&plain(name, field(fields, name)?)?),
            }
        }
        Ok(text)
    }

    /// As [`Self::render`], but a template that is nothing else than a field with a list gives each of its items.
    pub(crate) fn texts(&self, fields: &Fields) -> Result<Vec<String>, Flaw> {
        match self.value(fields)? {
            Some((name, Value::Array(items))) => items.iter().map(|item| plain(name, item)).collect(),
            _ => Ok(vec![self.render(fields)?]),
        }
    }

    /// Name and value of the field, where the template is nothing else.
    pub(crate) fn value<'f>(&self, fields: &'f Fields) -> Result<Option<(&str, &'f Value)>, Flaw> {
        match self.parts.as_slice() {
            [Part::Field(name)] => Ok(Some((name, field(fields, name)?))),
            _ => Ok(None),
        }
    }
}

fn field<'f>(fields: &'f Fields, name: &str) -> Result<&'f Value, Flaw> {
    let missing = || Flaw::MissingField { field: name.into() };
    let mut names = name.split('.');
    let first = fields.get(names.next().unwrap_or_default()).ok_or_else(missing)?;
    names.try_fold(first, |value, name| value.get(name)).ok_or_else(missing)
}

fn plain(name: &str, value: &Value) -> Result<String, Flaw> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        other => Err(Flaw::WrongType { field: name.into(), found: kind(other), expected: "text or a number" }),
    }
}

/// What a value is, for people.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl TryFrom<String> for Template {
    type Error = TemplateError;

    fn try_from(source: String) -> Result<Self, TemplateError> {
        let (mut parts, mut text) = (Vec::new(), String::new());
        let mut rest = source.as_str();
        while let Some(brace) = rest.find(['{', '}']) {
            let at = source.len() - rest.len() + brace;
            text.push_str(&rest[..brace]);
            let from = &rest[brace..];
            if from.starts_with("{{") || from.starts_with("}}") {
                text.push_str(&from[..1]);
                rest = &from[2..];
                continue;
            }
            let name = from.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let (name, behind) = name.filter(|(name, _)| !name.is_empty() && !name.contains('{')).ok_or(TemplateError { at })?;
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(Part::Field(name.to_owned()));
            rest = behind;
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self { source, parts })
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.source
    }
}

impl fmt::Display for Template {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields() -> Fields {
        json!({ "q": "why?", "n": 7, "yes": true, "list": ["a", 1], "deep": { "text": ["x"] }, "no": null }).as_object().unwrap().clone()
    }

    fn template(source: &str) -> Template {
        Template::try_from(source.to_owned()).unwrap()
    }

    #[test]
    fn fields_are_put_in_place() {
        for (source, expected) in [
            ("{q}", "why?"),
            ("Q: {q}\nA:", "Q: why?\nA:"),
            ("{n}{yes}{{{n}}}", "7true{7}"),
            ("fn main() {{ {q} }}", "fn main() { why? }"),
            ("", ""),
            ("grüße {q}", "grüße why?"),
        ] {
            assert_eq!(template(source).render(&fields()).unwrap(), expected);
            assert_eq!(template(source).to_string(), source);
        }
        assert_eq!(template("{list}").texts(&fields()).unwrap(), ["a", "1"]);
        assert_eq!(template("{deep.text}").texts(&fields()).unwrap(), ["x"]);
        assert_eq!(template("{q}!").texts(&fields()).unwrap(), ["why?!"]);
    }

    #[test]
    fn what_cannot_be_put_there_is_told() {
        let missing = |field: &str| Flaw::MissingField { field: field.into() };
        let wrong = |field: &str, found| Flaw::WrongType { field: field.into(), found, expected: "text or a number" };
        for (source, flaw) in [
            ("{Q}", missing("Q")),
            ("{deep.words}", missing("deep.words")),
            ("{q.text}", missing("q.text")),
            ("{list}!", wrong("list", "a list")),
            ("{no}", wrong("no", "null")),
        ] {
            assert_eq!(template(source).render(&fields()).unwrap_err(), flaw);
        }
        for (source, at) in [("{", 0), ("a}", 1), ("{}", 0), ("{a{b}", 0), ("{{}", 2), ("{a}}", 3)] {
            assert_eq!(Template::try_from(source.to_owned()), Err(TemplateError { at }), "{source}");
        }
    }
}
