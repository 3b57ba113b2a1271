//! Patterns as Redis matches them: `*`, `?`, `[abc]`, `[^a-z]`, and `\` before a byte that stands for itself.
//!
//! A star is tried again from the place after the last one only, so a match costs at most the product of both lengths,
//! where Redis's own recursion is exponential in the stars. Source: `stringmatchlen` of Redis's `util.c`; a class that
//! is not closed ends with the pattern, a `\` at the end stands for itself.

use bytes::Bytes;

/// A pattern of at most [`super::limits::PATTERN_BYTES_MAX`] bytes.
#[derive(Debug, Clone)]
pub struct Glob {
    pattern: Bytes,
    prefix: Bytes,
}

impl Glob {
    /// Takes a pattern; every one is valid.
    pub fn new(pattern: &[u8]) -> Self {
        Self { pattern: Bytes::copy_from_slice(pattern), prefix: Bytes::from(literal_prefix(pattern)) }
    }

    /// What everything that matches begins with.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Does all of `text` match?
    pub fn matches(&self, text: &[u8]) -> bool {
        let pattern = &self.pattern[..];
        let (mut p, mut t) = (0, 0);
        // Where to go on when what follows the last star does not fit: the pattern after it, the text it reached.
        let mut star: Option<(usize, usize)> = None;
        loop {
            if pattern.get(p) == Some(&b'*') {
                p += 1;
                star = Some((p, t));
                continue;
            }
            let Some(byte) = text.get(t) else { return p == pattern.len() };
            if let Some(next) = step(pattern, p, *byte) {
                (p, t) = (next, t + 1);
            } else if let Some((after, reached)) = star {
                (p, t) = (after, reached + 1);
                star = Some((after, reached + 1));
            } else {
                return false;
            }
        }
    }
}

fn literal_prefix(pattern: &[u8]) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(pattern.len());
    let mut bytes = pattern.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => break,
            b'\\' => prefix.push(*bytes.next().unwrap_or(byte)),
            _ => prefix.push(*byte),
        }
    }
    prefix
}

/// Matches one byte with the element at `p`, which is not a star; the place after the element when it does.
fn step(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => class(pattern, p + 1, byte),
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == byte).then_some(p + 2),
        literal => (literal == byte).then_some(p + 1),
    }
}

/// Matches one byte with the class whose `[` stands before `p`.
fn class(pattern: &[u8], mut p: usize, byte: u8) -> Option<usize> {
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let mut found = false;
    loop {
        match pattern[p..] {
            [] => break,
            [b'\\', literal, ..] => {
                found |= literal == byte;
                p += 2;
            }
            [b']', ..] => {
                p += 1;
                break;
            }
            [from, b'-', to, ..] => {
                found |= (from.min(to)..=from.max(to)).contains(&byte);
                p += 3;
            }
            [literal, ..] => {
                found |= literal == byte;
                p += 1;
            }
        }
    }
    (found != negated).then_some(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Glob::new(pattern.as_bytes()).matches(text.as_bytes())
    }

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "a"),
            ("a*", "a"),
            ("*.example", "x.example"),
            ("h?llo", "hello"),
            ("h[ae]llo", "hallo"),
            ("h[^e]llo", "hallo"),
            ("h[a-c]llo", "hbllo"),
            ("h[c-a]llo", "hbllo"),
            ("a[b", "ab"),
            ("a[\\]]", "a]"),
            ("a[^", "ab"),
            ("[a-]x", "^"),
            ("\\*", "*"),
            ("a\\", "a\\"),
            ("*a*b*c*", "xxaxxbxxcxx"),
            ("a**b", "ab"),
            ("**", "x"),
            ("*aab", "aaaab"),
        ] {
            assert!(matches(pattern, text), "{pattern} should match {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("a", ""),
            ("?", ""),
            ("a", "ab"),
            ("h[^e]llo", "hello"),
            ("h[a-c]llo", "hdllo"),
            ("a[]b", "ab"),
            ("\\*", "x"),
            ("*a*b", "ba"),
            ("a*b?", "ab"),
            ("A", "a"),
        ] {
            assert!(!matches(pattern, text), "{pattern} should not match {text}");
        }
    }

    #[test]
    fn the_literal_prefix_bounds_what_matches() {
        for (pattern, prefix) in
            [("cert/*", "cert/"), ("a\\*b*", "a*b"), ("abc", "abc"), ("[a]", ""), ("a?", "a"), ("a\\", "a\\")]
        {
            assert_eq!(Glob::new(pattern.as_bytes()).prefix(), prefix.as_bytes());
        }
    }

    proptest::proptest! {
        #[test]
        fn any_pattern_ends_and_keeps_to_its_prefix(pattern in "[ab*?\\[\\]^\\\\-]{0,12}", text in "[ab*\\]^-]{0,12}") {
            let glob = Glob::new(pattern.as_bytes());
            if glob.matches(text.as_bytes()) {
                proptest::prop_assert!(text.as_bytes().starts_with(glob.prefix()));
            }
        }

        #[test]
        fn an_escaped_text_matches_only_itself(text in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            let escaped: Vec<u8> = text.iter().flat_map(|byte| [b'\\', *byte]).collect();
            let glob = Glob::new(&escaped);
            proptest::prop_assert!(glob.matches(&text));
            proptest::prop_assert_eq!(glob.prefix(), &text[..]);
            proptest::prop_assert!(!glob.matches(&[&text[..], b"x"].concat()));
        }
    }
}
