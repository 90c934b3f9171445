//! JSON as Python's `json.dumps` writes it: what the filter `tojson` of chat templates gives.

use std::io;

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// `json.dumps(value, ensure_ascii=False, indent, separators)`.
pub(crate) fn dumps(value: &Value, settings: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = settings.get("indent")?;
    let separators: Option<Vec<String>> = settings.get("separators")?;
    let ascii: Option<bool> = settings.get("ensure_ascii")?;
    settings.assert_all_used()?;
    let wrong = |reason: &str| Error::new(ErrorKind::InvalidOperation, format!("tojson: {reason}"));
    if ascii == Some(true) {
        return Err(wrong("ensure_ascii=true is not supported"));
    }
    let [item, key] = match separators {
        None => [if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()],
        Some(two) => two.try_into().map_err(|_| wrong("separators are two strings"))?,
    };
    let mut bytes = Vec::new();
    let python = Python { item, key, indent, depth: 0, filled: false };
    value.serialize(&mut Serializer::with_formatter(&mut bytes, python)).map_err(|error| wrong(&error.to_string()))?;
    String::from_utf8(bytes).map(Value::from_safe_string).map_err(|error| wrong(&error.to_string()))
}

/// Python's separators and lines.
struct Python {
    item: String,
    key: String,
    indent: Option<usize>,
    depth: usize,
    /// Whether the innermost array or object has anything in it.
    filled: bool,
}

impl Python {
    fn line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        match self.indent {
            Some(indent) => write!(writer, "\n{:1$}", "", indent * self.depth),
            None => Ok(()),
        }
    }

    fn begin<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: u8) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        writer.write_all(&[bracket])
    }

    fn entry<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.line(writer)
    }

    fn end<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: u8) -> io::Result<()> {
        self.depth -= 1;
        if self.filled {
            self.line(writer)?;
        }
        self.filled = true;
        writer.write_all(&[bracket])
    }
}

impl Formatter for Python {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b'[')
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.entry(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b']')
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b'{')
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.entry(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b'}')
    }
}
