//! A configuration as a tree of values, each with the place it came from.
//!
//! Law: a value from the environment or a flag stays text ([`Value::Raw`]) until a field says what it wants.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// In no file: the empty tree that a process without a file starts from.
    Nowhere,
    /// In the file; line and column from 1.
    File { line: usize, column: usize },
    /// In a variable, with its full name.
    Variable(String),
    /// In a flag, with its dotted key.
    Flag(String),
}

impl Origin {
    pub(super) fn show(&self, path: Option<&Path>) -> String {
        match (self, path) {
            (Self::File { line, column }, Some(path)) => format!("{}:{line}:{column}", path.display()),
            (Self::File { line, column }, None) => format!("{line}:{column}"),
            (Self::Variable(name), _) => format!("environment variable {name}"),
            (Self::Flag(key), _) => format!("flag for `{key}`"),
            (Self::Nowhere, Some(path)) => path.display().to_string(),
            (Self::Nowhere, None) => "configuration".to_owned(),
        }
    }
}

/// A value and its place; for a table's entry, the place of its key.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Raw(String),
    Array(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

/// Why a text is not TOML.
#[derive(Debug)]
pub(super) struct SyntaxFault {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) problem: String,
}

impl Node {
    pub(super) fn table(origin: Origin) -> Self {
        Self { origin, value: Value::Table(BTreeMap::new()) }
    }

    /// Puts a raw value at a path of at least one key, making tables on the way. The error is how many keys lead to
    /// something that is no table.
    pub(super) fn lay(&mut self, keys: &[String], raw: String, origin: &Origin) -> Result<(), usize> {
        let Some((last, tables)) = keys.split_last() else { return Ok(()) };
        let mut node = self;
        for (depth, key) in tables.iter().enumerate() {
            let Value::Table(entries) = &mut node.value else { return Err(depth) };
            node = entries.entry(key.clone()).or_insert_with(|| Self::table(origin.clone()));
        }
        let Value::Table(entries) = &mut node.value else { return Err(tables.len()) };
        entries.insert(last.clone(), Self { origin: origin.clone(), value: Value::Raw(raw) });
        Ok(())
    }
}

/// Parses a whole file.
pub(super) fn parse(text: &str) -> Result<Node, SyntaxFault> {
    let places = Places::of(text);
    let fault = |at: usize, problem: &str| {
        let (line, column) = places.line_and_column(at);
        SyntaxFault { line, column, problem: problem.trim_end().to_owned() }
    };
    let document =
        DeTable::parse(text).map_err(|error| fault(error.span().map_or(0, |span| span.start), error.message()))?;
    let origin = |at: usize| {
        let (line, column) = places.line_and_column(at);
        Origin::File { line, column }
    };
    let value = table(document.get_ref(), &origin).map_err(|(at, problem)| fault(at, problem))?;
    Ok(Node { origin: Origin::Nowhere, value })
}

/// Parses one value as the right side of a TOML assignment; `None` if it is not one.
pub(super) fn parse_value(text: &str, origin: &Origin) -> Option<Node> {
    let parsed = DeValue::parse(text.trim()).ok()?;
    let value = value(&parsed, &|_| origin.clone()).ok()?;
    Some(Node { origin: origin.clone(), value })
}

type Fault = (usize, &'static str);

fn table(entries: &DeTable<'_>, origin: &dyn Fn(usize) -> Origin) -> Result<Value, Fault> {
    let node = |(key, entry): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let (name, at): (&std::borrow::Cow<'_, str>, _) = (key.get_ref(), key.span().start);
        Ok((name.to_string(), Node { origin: origin(at), value: value(entry, origin)? }))
    };
    Ok(Value::Table(entries.iter().map(node).collect::<Result<_, Fault>>()?))
}

fn value(parsed: &Spanned<DeValue<'_>>, origin: &dyn Fn(usize) -> Origin) -> Result<Value, Fault> {
    let at = parsed.span().start;
    Ok(match parsed.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => Value::Integer(
            i64::from_str_radix(number.as_str(), number.radix()).map_err(|_| (at, "integer outside 64 bits"))?,
        ),
        DeValue::Float(number) => Value::Float(number.as_str().parse().map_err(|_| (at, "not a number"))?),
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(items) => {
            let node = |item: &Spanned<DeValue<'_>>| {
                Ok(Node { origin: origin(item.span().start), value: value(item, origin)? })
            };
            Value::Array(items.iter().map(node).collect::<Result<_, Fault>>()?)
        }
        DeValue::Table(entries) => table(entries, origin)?,
    })
}

/// Finds lines and columns of byte offsets.
struct Places<'a> {
    text: &'a str,
}

impl<'a> Places<'a> {
    fn of(text: &'a str) -> Self {
        Self { text }
    }

    fn line_and_column(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}
