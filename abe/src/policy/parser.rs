//! Tokens to wires and gates, by operator precedence on an explicit stack.
//!
//! ```text
//! policy := or                         or    := and ( "or" and )*       left-associative
//! and    := unary ( "and" unary )*     unary := "not" unary | primary
//! primary := "(" or ")" | WORD ":" WORD
//! ```
//!
//! Wires are numbered as they appear; a gate is made right after its right operand. A gate made while an odd number of
//! `not`s is open is flipped (De Morgan), and a wire is positive when an even number is: so the circuit has no NOT.
//!
//! Law: the whole text is the policy, or the text is refused. (The reference stops at the first complete expression
//! and drops the rest, which turns a typo into wider access.) No recursion: the depth is a limit, never the stack's.

use super::error::{PolicyError, PolicyErrorKind as Kind, Span};
use super::formula::{Formula, Gate, GateClass};
use super::lexer::{Token, TokenKind, tokens};
use super::{ConditionPlace, Places};
use super::{Policy, Wire};
use crate::hash::hash_value;
use crate::limits::{FORMAT_WIRES_MAX, Limits};

/// What waits on the stack for the text to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pending {
    Paren(Span),
    Not,
    Operator(GateClass, Span),
}

/// The result of a subexpression. Gate outputs are numbered from 0 here: inputs are not counted yet.
#[derive(Clone, Copy)]
enum Operand {
    Input(u16),
    Gate(u16),
}

struct Parser<'a> {
    text: &'a str,
    limits: &'a Limits,
    tokens: Vec<Token>,
    next: usize,
    pending: Vec<Pending>,
    /// Open parentheses and `not`s.
    depth: usize,
    /// Open `not`s.
    nots: usize,
    operands: Vec<Operand>,
    wires: Vec<Wire>,
    gates: Vec<(GateClass, Operand, Operand)>,
    places: Places,
}

/// Parses a whole text under `limits`. The size of the ciphertext is for the caller to check.
pub fn parse(text: &str, limits: &Limits) -> Result<(Policy, Places), PolicyError> {
    if text.len() > limits.policy_text_bytes {
        let start = text.floor_char_boundary(limits.policy_text_bytes);
        let hint = format!("{} bytes, the most is {}", text.len(), limits.policy_text_bytes);
        return Err(PolicyError::new(Kind::TooLong, Span { start, end: start }, text).with_hint(hint));
    }
    let mut parser = Parser {
        text,
        limits,
        tokens: tokens(text)?,
        next: 0,
        pending: Vec::new(),
        depth: 0,
        nots: 0,
        operands: Vec::new(),
        wires: Vec::new(),
        gates: Vec::new(),
        places: Places::default(),
    };
    if parser.tokens.len() == 1 {
        return Err(parser.error(Kind::Empty, Span { start: 0, end: 0 }));
    }
    loop {
        parser.operand()?;
        if parser.operator()? {
            return Ok(parser.finish());
        }
    }
}

impl Parser<'_> {
    fn error(&self, kind: Kind, span: Span) -> PolicyError {
        PolicyError::new(kind, span, self.text)
    }

    fn word(&self, token: Token) -> &str {
        &self.text[token.span.start..token.span.end]
    }

    fn advance(&mut self) -> Token {
        let token = self.tokens[self.next];
        if token.kind != TokenKind::End {
            self.next += 1;
        }
        token
    }

    fn peek(&self) -> Token {
        self.tokens[self.next]
    }

    /// Opens `not`s and parentheses up to a condition, and reads that.
    fn operand(&mut self) -> Result<(), PolicyError> {
        loop {
            let token = self.advance();
            match token.kind {
                TokenKind::Not => self.open(Pending::Not, token)?,
                TokenKind::Open => self.open(Pending::Paren(token.span), token)?,
                TokenKind::Word => return self.condition(token),
                _ => return Err(self.no_operand(token)),
            }
        }
    }

    fn open(&mut self, pending: Pending, token: Token) -> Result<(), PolicyError> {
        self.depth += 1;
        self.nots += usize::from(pending == Pending::Not);
        // The top level counts as one.
        if self.depth >= self.limits.policy_depth {
            let most = self.limits.policy_depth.saturating_sub(1);
            let hint = format!("at most {most} parentheses and `not`s can be open at one place");
            return Err(self.error(Kind::Depth, token.span).with_hint(hint));
        }
        self.pending.push(pending);
        Ok(())
    }

    fn no_operand(&self, token: Token) -> PolicyError {
        if matches!(token.kind, TokenKind::And | TokenKind::Or) && self.peek().kind == TokenKind::Colon {
            return self.error(Kind::ReservedWord, token.span);
        }
        let error = self.error(Kind::ExpectedCondition, token.span);
        match token.kind {
            TokenKind::End => error.with_hint("the text ends here: write `label: value`"),
            TokenKind::Close => error.with_hint("write `label: value` before this `)`"),
            TokenKind::Colon => error.with_hint("write a label before the colon"),
            _ => error,
        }
    }

    /// `label : value`, the label already read.
    fn condition(&mut self, label: Token) -> Result<(), PolicyError> {
        let colon = self.advance();
        if colon.kind != TokenKind::Colon {
            match keyword_in_capitals(self.word(label)) {
                Some("not") => return Err(self.error(Kind::KeywordCase, label.span).with_hint("write `not`")),
                // An operator stands between two conditions, however it is spelt.
                Some(_) => return Err(self.error(Kind::ExpectedCondition, label.span)),
                None => {}
            }
            let hint = format!("write `{}: value`", self.word(label));
            return Err(self.error(Kind::ExpectedColon, colon.span).with_hint(hint));
        }
        let value = self.advance();
        match value.kind {
            TokenKind::Word => {}
            TokenKind::And | TokenKind::Or | TokenKind::Not => return Err(self.error(Kind::ReservedWord, value.span)),
            _ => return Err(self.error(Kind::ExpectedValue, value.span)),
        }
        let most = self.limits.policy_wires.min(FORMAT_WIRES_MAX);
        if self.wires.len() >= most {
            let hint = format!("at most {most} conditions");
            let span = Span { start: label.span.start, end: value.span.end };
            return Err(self.error(Kind::TooManyConditions, span).with_hint(hint));
        }
        let number = u16::try_from(self.wires.len()).expect("the format's bound on wires is below 2^16");
        let wire = Wire {
            label: self.word(label).to_owned(),
            value: self.word(value).to_owned(),
            scalar: hash_value(self.word(value).as_bytes()),
            positive: self.nots.is_multiple_of(2),
        };
        self.wires.push(wire);
        self.places.conditions.push(ConditionPlace { label: label.span, value: value.span });
        self.operands.push(Operand::Input(number));
        self.close_nots();
        Ok(())
    }

    /// An operand is complete: so are the `not`s right before it.
    fn close_nots(&mut self) {
        while self.pending.last() == Some(&Pending::Not) {
            self.pending.pop();
            self.nots -= 1;
            self.depth -= 1;
        }
    }

    /// Closes parentheses up to an operator, and reads that; true at the end of the text.
    fn operator(&mut self) -> Result<bool, PolicyError> {
        loop {
            let token = self.advance();
            match token.kind {
                TokenKind::And => {
                    self.reduce(GateClass::And);
                    self.pending.push(Pending::Operator(GateClass::And, token.span));
                    return Ok(false);
                }
                TokenKind::Or => {
                    self.reduce(GateClass::Or);
                    self.pending.push(Pending::Operator(GateClass::Or, token.span));
                    return Ok(false);
                }
                TokenKind::Close => {
                    self.reduce(GateClass::Or);
                    if !matches!(self.pending.pop(), Some(Pending::Paren(_))) {
                        return Err(self.left_over(token));
                    }
                    self.depth -= 1;
                    self.close_nots();
                }
                TokenKind::End => {
                    self.reduce(GateClass::Or);
                    return match self.pending.pop() {
                        None => Ok(true),
                        Some(Pending::Paren(open)) => Err(self.error(Kind::ExpectedClose, open)),
                        Some(Pending::Not | Pending::Operator(..)) => {
                            unreachable!("an operand closes its nots and reduce takes every operator")
                        }
                    };
                }
                TokenKind::Open | TokenKind::Colon | TokenKind::Not | TokenKind::Word => {
                    return Err(self.left_over(token));
                }
            }
        }
    }

    /// Makes the gates of waiting operators that bind at least as tightly as `next`.
    fn reduce(&mut self, next: GateClass) {
        while let Some(Pending::Operator(class, span)) = self.pending.last().copied() {
            if next == GateClass::And && class == GateClass::Or {
                return;
            }
            self.pending.pop();
            let right = self.operands.pop().expect("an operator waits for two operands");
            let left = self.operands.pop().expect("an operator waits for two operands");
            let flipped = if class == GateClass::And { GateClass::Or } else { GateClass::And };
            let class = if self.nots.is_multiple_of(2) { class } else { flipped };
            let number = u16::try_from(self.gates.len()).expect("there are fewer gates than wires");
            self.gates.push((class, left, right));
            self.places.operators.push(span);
            self.operands.push(Operand::Gate(number));
        }
    }

    /// A token that cannot follow a complete operand.
    fn left_over(&self, token: Token) -> PolicyError {
        let word = self.word(token);
        let span = token.span;
        match token.kind {
            TokenKind::Word => match keyword_in_capitals(word) {
                Some("not") => {
                    self.error(Kind::KeywordCase, span).with_hint("write `and not` or `or not`, in lower case")
                }
                Some(keyword) => self.error(Kind::KeywordCase, span).with_hint(format!("write `{keyword}`")),
                None => self.error(Kind::LeftOver, span),
            },
            TokenKind::Not => self.error(Kind::LeftOver, span).with_hint("write `and not` or `or not`"),
            TokenKind::Close => {
                self.error(Kind::LeftOver, span).with_hint("no parenthesis is open here: remove this `)`")
            }
            TokenKind::Colon => {
                self.error(Kind::LeftOver, span).with_hint("a condition has one colon: remove this one")
            }
            TokenKind::Open => self.error(Kind::LeftOver, span),
            TokenKind::And | TokenKind::Or | TokenKind::End => {
                unreachable!("operators and the end may follow an operand")
            }
        }
    }

    fn finish(self) -> (Policy, Places) {
        let inputs = u16::try_from(self.wires.len()).expect("the format's bound on wires is below 2^16");
        let wire = |operand| match operand {
            Operand::Input(number) => number,
            Operand::Gate(number) => inputs + number,
        };
        let gates = (0..)
            .zip(&self.gates)
            .map(|(number, (class, left, right))| Gate {
                class: *class,
                in0: wire(*left),
                in1: wire(*right),
                out: inputs + number,
            })
            .collect();
        let formula = Formula::new(gates).expect("a parsed expression is a tree");
        (Policy::from_parts(self.wires, formula), self.places)
    }
}

/// The keyword that `word` would be in lower case, when it is written with capitals.
fn keyword_in_capitals(word: &str) -> Option<&'static str> {
    ["and", "or", "not"].into_iter().find(|keyword| word.eq_ignore_ascii_case(keyword))
}
