//! Reads a process's own type out of the tree, and remembers where it stood when something did not fit.
//!
//! Law: a key that the type does not take is an error even if the type forgot to say `deny_unknown_fields`.

use std::collections::btree_map;
use std::fmt;
use std::path::Path;

use serde::de::value::MapAccessDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};

use super::ConfigError;
use super::tree::{Node, Origin, Value, parse_value};

/// Reads `T` out of a tree.
pub(super) fn read<T: DeserializeOwned>(root: &Node) -> Result<T, Fault> {
    T::deserialize(root).map_err(|fault| fault.at(&root.origin))
}

/// What did not fit, and where.
#[derive(Debug)]
pub(super) struct Fault {
    /// Innermost key first.
    path: Vec<String>,
    origin: Option<Origin>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Unknown(&'static [&'static str]),
    Missing(&'static str),
    Problem(String),
}

impl Fault {
    fn new(kind: Kind) -> Self {
        Self { path: Vec::new(), origin: None, kind }
    }

    fn at(mut self, origin: &Origin) -> Self {
        self.origin.get_or_insert_with(|| origin.clone());
        self
    }

    fn under(mut self, key: &str, origin: &Origin) -> Self {
        self.path.push(key.to_owned());
        self.at(origin)
    }

    pub(super) fn into_error(mut self, path: Option<&Path>, env_prefix: &str) -> ConfigError {
        let origin = self.origin.unwrap_or(Origin::Nowhere).show(path);
        if let Kind::Missing(key) = self.kind {
            self.path.insert(0, key.to_owned());
        }
        self.path.reverse();
        let field = self.path.join(".");
        match self.kind {
            Kind::Unknown(known) => {
                let (key, tables) = self.path.split_last().map_or(("", [].as_slice()), |(key, rest)| (key, rest));
                let hint = nearest(key, known).map(|near| {
                    let whole: Vec<&str> = tables.iter().map(String::as_str).chain([near]).collect();
                    whole.join(".")
                });
                ConfigError::UnknownKey { origin, field, hint }
            }
            Kind::Missing(_) => {
                let variable = format!("{env_prefix}{}", self.path.join("__").to_uppercase());
                ConfigError::MissingKey { origin, field, variable }
            }
            Kind::Problem(problem) => ConfigError::Value { origin, field, problem },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self::new(Kind::Problem(problem.to_string()))
    }

    fn unknown_field(_field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(Kind::Unknown(expected))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(Kind::Missing(field))
    }
}

/// The known key that differs least from `key`, if it differs little.
fn nearest(key: &str, known: &'static [&'static str]) -> Option<&'static str> {
    let close = |candidate: &&&str| distance(key, candidate) <= 1 + candidate.len() / 4;
    known.iter().filter(close).min_by_key(|candidate| distance(key, candidate)).copied()
}

/// Edits between two keys (Levenshtein); keys beyond 64 bytes are far from everything.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

impl Node {
    /// A raw value as the TOML value it looks like, else as text.
    fn guess(&self, raw: &str) -> Node {
        parse_value(raw, &self.origin).unwrap_or_else(|| self.with(Value::Text(raw.to_owned())))
    }

    fn with(&self, value: Value) -> Node {
        Node { origin: self.origin.clone(), value }
    }
}

macro_rules! guessed {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.deserialize_any(visitor)
        }
    )*};
}

macro_rules! textual {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match &self.value {
                Value::Raw(raw) => visitor.visit_str(raw).map_err(|fault: Fault| fault.at(&self.origin)),
                _ => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for &Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Bool(flag) => visitor.visit_bool(*flag),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Text(text) => visitor.visit_str(text),
            Value::Raw(raw) => self.guess(raw).deserialize_any(visitor),
            Value::Array(items) => visitor.visit_seq(Items { rest: items.iter(), at: 0 }),
            Value::Table(entries) => visitor.visit_map(Entries { rest: entries.iter(), current: None }),
        }
        .map_err(|fault: Fault| fault.at(&self.origin))
    }

    guessed! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128 deserialize_u8
        deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
    }

    textual! {
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
        deserialize_identifier
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Value::Raw(raw) = &self.value else { return self.deserialize_any(visitor) };
        let list = match parse_value(raw, &self.origin) {
            Some(node @ Node { value: Value::Array(_), .. }) => node,
            _ if raw.trim().is_empty() => self.with(Value::Array(Vec::new())),
            _ => {
                let items = raw.split(',').map(|item| self.with(Value::Raw(item.trim().to_owned())));
                self.with(Value::Array(items.collect()))
            }
        };
        list.deserialize_any(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Text(text) | Value::Raw(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::Table(entries) => {
                visitor.visit_enum(MapAccessDeserializer::new(Entries { rest: entries.iter(), current: None }))
            }
            Value::Bool(flag) => Err(Fault::invalid_type(Unexpected::Bool(*flag), &"a word")),
            _ => Err(Fault::invalid_type(Unexpected::Other("a number or list"), &"a word")),
        }
        .map_err(|fault: Fault| fault.at(&self.origin))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Fault> {
        Err(Fault::new(Kind::Unknown(&[])).at(&self.origin))
    }
}

/// The items of a list.
struct Items<'a> {
    rest: std::slice::Iter<'a, Node>,
    at: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let Some(node) = self.rest.next() else { return Ok(None) };
        self.at += 1;
        seed.deserialize(node).map(Some).map_err(|fault| fault.under(&(self.at - 1).to_string(), &node.origin))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// The entries of a table.
struct Entries<'a> {
    rest: btree_map::Iter<'a, String, Node>,
    current: Option<(&'a str, &'a Node)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let Some((key, node)) = self.rest.next() else { return Ok(None) };
        self.current = Some((key, node));
        seed.deserialize(key.as_str().into_deserializer())
            .map(Some)
            .map_err(|fault: Fault| fault.under(key, &node.origin))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let Some((key, node)) = self.current.take() else { return Err(Fault::custom("value asked before key")) };
        seed.deserialize(node).map_err(|fault| fault.under(key, &node.origin))
    }
}
