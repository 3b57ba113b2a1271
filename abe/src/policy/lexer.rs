//! Policy text to tokens with spans.
//!
//! Bytes: `(` `)` `:` are tokens; space, tab, carriage return and line feed separate; runs of `[A-Za-z0-9_]` are words,
//! of which exactly `and`, `or` and `not` are keywords; everything else is refused. Source: `docs/policy.md`.

use super::error::{PolicyError, PolicyErrorKind, Span};

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    Open,
    Close,
    Colon,
    And,
    Or,
    Not,
    Word,
    /// Behind the last byte.
    End,
}

/// A token and the bytes of the text it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub kind: TokenKind,
    pub span: Span,
}

/// Whether `bytes` can be a label or a value of a policy text.
pub fn is_word(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_word_byte(*byte)) && !matches!(bytes, b"and" | b"or" | b"not")
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The tokens of `text`, an `End` last.
pub fn tokens(text: &str) -> Result<Vec<Token>, PolicyError> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let mut end = at + 1;
        let kind = match bytes[at] {
            b' ' | b'\t' | b'\r' | b'\n' => {
                at = end;
                continue;
            }
            b'(' => TokenKind::Open,
            b')' => TokenKind::Close,
            b':' => TokenKind::Colon,
            byte if is_word_byte(byte) => {
                while end < bytes.len() && is_word_byte(bytes[end]) {
                    end += 1;
                }
                match &bytes[at..end] {
                    b"and" => TokenKind::And,
                    b"or" => TokenKind::Or,
                    b"not" => TokenKind::Not,
                    _ => TokenKind::Word,
                }
            }
            _ => {
                let found = text[at..].chars().next().expect("`at` stands before a character");
                let span = Span { start: at, end: at + found.len_utf8() };
                let error = PolicyError::new(PolicyErrorKind::BadCharacter, span, text);
                if found.is_ascii_graphic() || found.is_alphanumeric() {
                    return Err(error);
                }
                // Named by number, since it may show as nothing.
                let hint = format!("U+{:04X}: {}", u32::from(found), error.hint());
                return Err(error.with_hint(hint));
            }
        };
        tokens.push(Token { kind, span: Span { start: at, end } });
        at = end;
    }
    tokens.push(Token { kind: TokenKind::End, span: Span { start: at, end: at } });
    Ok(tokens)
}
