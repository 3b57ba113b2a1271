//! Why a policy text is refused, with the place and the fix.
//!
//! Law: an error points into the text as it was written and never changes what the text means; a caller that prints it
//! shows the line, a caret under the fault and what to write instead.

use std::fmt;

/// Bytes `start..end` of the policy text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset behind the last byte; equal to `start` at the end of the text.
    pub end: usize,
}

/// What is wrong. [`PolicyErrorKind::code`] is stable and is what programs compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyErrorKind {
    /// Nothing but white space.
    Empty,
    /// A byte outside the language.
    BadCharacter,
    /// A condition, `not` or `(` was expected.
    ExpectedCondition,
    /// A label without the colon that must follow it.
    ExpectedColon,
    /// A colon without a value behind it.
    ExpectedValue,
    /// `and`, `or` or `not` in the place of a label or a value.
    ReservedWord,
    /// A keyword in capitals, where it would be read as a word.
    KeywordCase,
    /// A `(` without its `)`.
    ExpectedClose,
    /// The policy is complete, but the text goes on.
    LeftOver,
    /// More open parentheses and `not`s than the limit.
    Depth,
    /// The text has more bytes than the limit.
    TooLong,
    /// More conditions than the limit.
    TooManyConditions,
    /// The ciphertext would have more bytes than the limit.
    TooLarge,
}

impl PolicyErrorKind {
    /// The stable name of this kind, for programs: lower-case words joined by hyphens.
    pub fn code(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::BadCharacter => "bad-character",
            Self::ExpectedCondition => "expected-condition",
            Self::ExpectedColon => "expected-colon",
            Self::ExpectedValue => "expected-value",
            Self::ReservedWord => "reserved-word",
            Self::KeywordCase => "keyword-case",
            Self::ExpectedClose => "expected-close",
            Self::LeftOver => "left-over",
            Self::Depth => "depth",
            Self::TooLong => "too-long",
            Self::TooManyConditions => "too-many-conditions",
            Self::TooLarge => "too-large",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Empty => "the policy is empty",
            Self::BadCharacter => "this character is not part of the policy language",
            Self::ExpectedCondition => "a condition was expected here",
            Self::ExpectedColon => "a label must be followed by `:` and a value",
            Self::ExpectedValue => "a value was expected after the colon",
            Self::ReservedWord => "`and`, `or` and `not` cannot be labels or values",
            Self::KeywordCase => "operators are written in lower case",
            Self::ExpectedClose => "this parenthesis is never closed",
            Self::LeftOver => "this part would be ignored, so the policy is refused",
            Self::Depth => "the policy is nested too deeply",
            Self::TooLong => "the policy text is too long",
            Self::TooManyConditions => "the policy has too many conditions",
            Self::TooLarge => "a ciphertext under this policy would be too large",
        }
    }

    fn default_hint(self) -> &'static str {
        match self {
            Self::Empty => "write a condition such as `region: EU`",
            Self::BadCharacter => "labels and values are letters, digits and `_`",
            Self::ExpectedCondition => "write `label: value`, `not` or `(`",
            Self::ExpectedColon => "write it as `label: value`",
            Self::ExpectedValue => "write the value, such as `EU`",
            Self::ReservedWord => "choose another word",
            Self::KeywordCase => "write it in lower case",
            Self::ExpectedClose => "add `)`",
            Self::LeftOver => "join the two parts with `and` or `or`",
            Self::Depth | Self::TooLong | Self::TooManyConditions | Self::TooLarge => "make the policy simpler",
        }
    }
}

/// A refused policy. `Display` prints several lines: the code, the message, the line of the text and a caret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyError {
    kind: PolicyErrorKind,
    span: Span,
    text: String,
    hint: String,
}

impl PolicyError {
    pub(crate) fn new(kind: PolicyErrorKind, span: Span, text: &str) -> Self {
        Self { kind, span, text: text.to_owned(), hint: kind.default_hint().to_owned() }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// What is wrong.
    pub fn kind(&self) -> PolicyErrorKind {
        self.kind
    }

    /// Where it is wrong: byte offsets into the policy text.
    pub fn span(&self) -> Span {
        self.span
    }

    /// One sentence about what is wrong, without the place.
    pub fn message(&self) -> &'static str {
        self.kind.message()
    }

    /// What to do about it.
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error[{}]: {}", self.kind.code(), self.message())?;
        f.write_str(&caret(&self.text, self.span, &self.hint))
    }
}

/// The line of `text` with a caret under `span`, and the hint beside it: two lines, indented by two.
pub fn caret(text: &str, span: Span, hint: &str) -> String {
    let start = text.floor_char_boundary(span.start);
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
    let window = window(text, line_start, line_end, start);
    let end = text.floor_char_boundary(span.end).clamp(start, window.1);
    let column = text[window.0..start].chars().count();
    let width = text[start..end].chars().count().max(1);
    let line: String = text[window.0..window.1].chars().map(shown).collect();
    format!("  {line}\n  {:column$}{:^<width$} {hint}", "", "")
}

/// One column for each character, so that the caret stands where the fault is: white space and controls as blanks, and
/// what might show as nothing, or turn the line round, as a mark.
fn shown(c: char) -> char {
    match c {
        _ if c.is_ascii_graphic() || c.is_alphanumeric() => c,
        _ if c.is_ascii() || c.is_control() => ' ',
        _ => '\u{fffd}',
    }
}

/// The part of a long line that is shown around `at`, cut at character boundaries.
fn window(text: &str, line_start: usize, line_end: usize, at: usize) -> (usize, usize) {
    const BEFORE: usize = 80;
    const AFTER: usize = 120;
    let start = text.floor_char_boundary(at.saturating_sub(BEFORE)).max(line_start);
    let end = text.floor_char_boundary((at + AFTER).min(line_end)).max(at);
    (start, end)
}

impl std::error::Error for PolicyError {}
