//! The fields of a request's body, taken one by one, so that nothing in it goes unseen.
//!
//! Law: a field that nobody took is an error, as is one that stands there twice: a mistyped `policy` would otherwise store
//! a key under no policy at all. `null` is the same as absence. Every error points at its field. Texts that nobody took are
//! wiped; what the JSON parser itself copied while it removed escapes is not, since it gives no access to that.

use std::fmt;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::{Map, Value};
use zeroize::{Zeroize, Zeroizing};

use crate::limits::JSON_FIELDS_MAX;
use crate::problem::{Code, Problem, echo, pointer};

/// A text that must not be shown, wiped when it is dropped.
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes over a text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself. Do not copy it into anything that is not wiped.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(redacted)")
    }
}

/// The fields of one JSON object that nobody has taken yet.
pub struct Fields {
    /// The JSON pointer of the object; empty for the body itself.
    pointer: String,
    left: Vec<(String, Value)>,
}

impl Fields {
    /// Reads a body, which must be one JSON object.
    ///
    /// # Errors
    /// `malformed-json`.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let refused = |detail: String| Problem::new(Code::MalformedJson, detail);
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let left = deserializer.deserialize_map(ObjectVisitor).map_err(|error| refused(said(&error)))?;
        let fields = Self { pointer: String::new(), left };
        deserializer.end().map_err(|error| refused(said(&error)))?;
        Ok(fields)
    }

    /// Takes a text.
    ///
    /// # Errors
    /// `invalid-field` if it is something else.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "a text")),
        }
    }

    /// Takes a text that must be there.
    ///
    /// # Errors
    /// `missing-field`, `invalid-field`.
    pub fn required_text(&mut self, name: &str) -> Result<String, Problem> {
        self.text(name)?.ok_or_else(|| self.missing(name))
    }

    /// Takes a secret text.
    ///
    /// # Errors
    /// `invalid-field` if it is something else.
    pub fn secret(&mut self, name: &str) -> Result<Option<SecretText>, Problem> {
        Ok(self.text(name)?.map(SecretText::new))
    }

    /// Takes a list of texts; an absent one is empty.
    ///
    /// # Errors
    /// `invalid-field` if it is something else.
    pub fn texts(&mut self, name: &str) -> Result<Vec<String>, Problem> {
        let Some(value) = self.take(name) else { return Ok(Vec::new()) };
        let texts: Option<Vec<String>> = match value {
            Value::Array(values) => values.into_iter().map(into_text).collect(),
            _ => None,
        };
        texts.ok_or_else(|| self.wrong(name, "a list of texts"))
    }

    /// Takes a whole number within bounds.
    ///
    /// # Errors
    /// `invalid-field` if it is something else.
    pub fn number(&mut self, name: &str, least: u64, most: u64) -> Result<Option<u64>, Problem> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_u64().filter(|number| (least..=most).contains(number));
        number.map(Some).ok_or_else(|| self.wrong(name, &format!("a whole number from {least} to {most}")))
    }

    /// Takes a truth value; an absent one is false.
    ///
    /// # Errors
    /// `invalid-field` if it is something else.
    pub fn flag(&mut self, name: &str) -> Result<bool, Problem> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    /// Takes an object.
    ///
    /// # Errors
    /// `invalid-field` if it is something else.
    pub fn object(&mut self, name: &str) -> Result<Option<Self>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Self { pointer: self.pointer_to(name), left: map.into_iter().collect() }))
            }
            Some(_) => Err(self.wrong(name, "an object")),
        }
    }

    /// Takes a field whatever it holds; says whether it was there and not `null`.
    pub fn ignore(&mut self, name: &str) -> bool {
        self.take(name).is_some()
    }

    /// Says that nothing else may be here.
    ///
    /// # Errors
    /// `unknown-field`, for the first field that nobody took.
    pub fn finish(self) -> Result<(), Problem> {
        match self.left.first() {
            None => Ok(()),
            Some((name, _)) => {
                Err(Problem::new(Code::UnknownField, format!("There is no field `{}` here.", echo(name)))
                    .at(self.pointer_to(name)))
            }
        }
    }

    /// The problem that a field is missing.
    #[must_use]
    pub fn missing(&self, name: &str) -> Problem {
        Problem::new(Code::MissingField, format!("`{name}` is missing.")).at(self.pointer_to(name))
    }

    /// The JSON pointer of a field of this object.
    #[must_use]
    pub fn pointer_to(&self, name: &str) -> String {
        format!("{}{}", self.pointer, pointer(name))
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.left.iter().position(|(field, _)| field == name)?;
        Some(self.left.remove(at).1).filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, expected: &str) -> Problem {
        Problem::new(Code::InvalidField, format!("`{name}` must be {expected}.")).at(self.pointer_to(name))
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        for (_, value) in &mut self.left {
            if let Value::String(text) = value {
                text.zeroize();
            }
        }
    }
}

fn into_text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// What the parser says, without what it quotes: that could be part of a key.
fn said(error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    let what = match error.classify() {
        Category::Eof => "The JSON ends too early",
        Category::Data => "The body is not one JSON object with each field once",
        Category::Io | Category::Syntax => "The body is not JSON",
    };
    format!("{what}, at line {}, column {}.", error.line(), error.column())
}

/// Reads one object into its fields, each of them once.
struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Vec<(String, Value)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        // In the wrapper from the start, so that an error on the way wipes what is here already.
        let mut fields = Fields { pointer: String::new(), left: Vec::new() };
        while let Some(name) = map.next_key::<String>()? {
            if fields.left.len() == JSON_FIELDS_MAX || fields.left.iter().any(|(earlier, _)| *earlier == name) {
                return Err(serde::de::Error::custom("a field too many"));
            }
            fields.left.push((name, map.next_value()?));
        }
        Ok(std::mem::take(&mut fields.left))
    }
}

/// One object as fields, for values that were read elsewhere.
impl From<Map<String, Value>> for Fields {
    fn from(map: Map<String, Value>) -> Self {
        Self { pointer: String::new(), left: map.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(body: &str) -> Fields {
        Fields::parse(body.as_bytes()).unwrap_or_else(|problem| panic!("{problem:?}"))
    }

    fn code<T>(result: Result<T, Problem>) -> (Code, Option<String>) {
        let problem = result.err().unwrap();
        (problem.code(), problem.pointer().map(str::to_owned))
    }

    #[test]
    fn fields_are_taken_by_name_and_kind() {
        let mut body = fields(r#"{"a":"x","b":["y","z"],"c":{"d":"w"},"e":null,"k":"secret","n":1}"#);
        assert_eq!(body.text("a").unwrap().unwrap(), "x");
        assert_eq!(body.texts("b").unwrap(), ["y", "z"]);
        assert_eq!(body.object("c").unwrap().unwrap().required_text("d").unwrap(), "w");
        assert!(body.text("e").unwrap().is_none());
        assert_eq!(body.secret("k").unwrap().unwrap().expose(), "secret");
        assert!(body.ignore("n") && !body.ignore("absent"));
        body.finish().unwrap();
    }

    #[test]
    fn a_number_is_whole_and_within_its_bounds() {
        let mut body = fields(r#"{"a":3,"b":11,"c":-1,"d":1.5,"e":"3"}"#);
        assert_eq!(body.number("a", 1, 10).unwrap(), Some(3));
        assert_eq!(body.number("z", 1, 10).unwrap(), None);
        for name in ["b", "c", "d", "e"] {
            assert_eq!(code(body.number(name, 1, 10)), (Code::InvalidField, Some(format!("/{name}"))));
        }
    }

    #[test]
    fn a_field_that_nobody_takes_is_an_error_that_names_it() {
        let body = fields(r#"{"polciy":"region: EU"}"#);
        assert_eq!(code(body.finish()), (Code::UnknownField, Some("/polciy".to_owned())));
        let mut body = fields(r#"{"geo":{"a/b":1}}"#);
        let inner = body.object("geo").unwrap().unwrap();
        assert_eq!(code(inner.finish()), (Code::UnknownField, Some("/geo/a~1b".to_owned())));
    }

    #[test]
    fn wrong_kinds_and_missing_fields_are_named() {
        let mut body = fields(r#"{"a":1,"b":"x","c":["x",1],"d":[]}"#);
        assert_eq!(code(body.text("a")), (Code::InvalidField, Some("/a".to_owned())));
        assert_eq!(code(body.object("b")), (Code::InvalidField, Some("/b".to_owned())));
        assert_eq!(code(body.texts("c")), (Code::InvalidField, Some("/c".to_owned())));
        assert_eq!(code(body.required_text("d")), (Code::InvalidField, Some("/d".to_owned())));
        assert_eq!(code(body.required_text("e")), (Code::MissingField, Some("/e".to_owned())));
    }

    #[test]
    fn a_body_is_one_object_with_each_field_once() {
        let many: Vec<String> = (0..=JSON_FIELDS_MAX).map(|n| format!("\"f{n}\":1")).collect();
        let many = format!("{{{}}}", many.join(","));
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        for body in ["", "{", "[]", "1", "null", "{}{}", "{} x", r#"{"a":1,"a":2}"#, r#"{"a":"\ud800"}"#, &many, &deep]
        {
            assert_eq!(code(Fields::parse(body.as_bytes())).0, Code::MalformedJson, "{:.40}", body);
        }
        assert_eq!(code(Fields::parse(b"{\"a\":\"\xff\"}")).0, Code::MalformedJson);
    }

    #[test]
    fn no_error_repeats_what_was_sent() {
        for body in [r#"{"private_key":"c4nary"#, r#"{"private_key":"c4nary" x}"#, r#""c4nary""#, r#"{"k":c4nary}"#] {
            let problem = Fields::parse(body.as_bytes()).err().unwrap();
            assert!(!format!("{problem:?}").contains("c4nary"), "{problem:?}");
        }
        assert!(!format!("{:?}", SecretText::new("c4nary".to_owned())).contains("c4nary"));
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Fields::parse(&body);
        }
    }
}
