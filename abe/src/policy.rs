//! Policies: who may open a ciphertext, as text, as a circuit and as bytes.
//!
//! The road: text -> [`lexer`] -> [`parser`] -> [`Policy`] -> a ciphertext's header, and back by [`Policy::extract`].
//! A policy is immutable and well-formed from the moment it exists.
//!
//! Law: [`Policy::is_satisfied_by`] is a convenience (previews, routing, skipping work that must fail). What keeps a key
//! out is the algebra in [`crate::tkn20`], whatever this module answers.
//!
//! Grammar and layout: `docs/policy.md`, `docs/formats.md#policy`.

mod error;
pub(crate) mod formula;
mod id;
mod lexer;
mod parser;
pub(crate) mod size;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

pub use error::{PolicyError, PolicyErrorKind, Span, caret};
pub use id::PolicyId;
pub use lexer::is_word;

use crate::attributes::{Attributes, BONEH_KATZ_LABEL, Value, printable};
use crate::ciphertext::Ciphertext;
use crate::codec::{Reader, Writer};
use crate::curve::Scalar;
use crate::error::Error;
use crate::hash::{hash_value, hash_values};
use crate::limits::{FORMAT_WIRES_MAX, Limits};
use formula::{Formula, GateClass};

/// A condition of a policy: an input of its circuit.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Wire {
    pub label: String,
    pub value: String,
    /// `H(value)`.
    pub scalar: Scalar,
    pub positive: bool,
}

/// A boolean formula over attributes, such as `region: EU and not country: FR`.
///
/// Made from text by [`Policy::parse`] (or `str::parse`), or read from a ciphertext by [`Policy::extract`].
/// `Display` prints the reference's form: `(region:EU and not country:FR)`, every gate in parentheses, negation at the
/// conditions. That form parses to the same policy as long as it stays under the limits, which its parentheses may
/// break where the writer's text did not: a chain of more than 63 operators nests too deeply, and a long text may grow
/// past 4 KiB. Raise [`Limits::policy_depth`] and [`Limits::policy_text_bytes`] to read such a text back.
///
/// Equality is structural, in the writer's order; [`Policy::id`] is equal for policies that differ only in order,
/// parentheses, double negation or repetition.
#[derive(Clone)]
pub struct Policy {
    pub(crate) wires: Vec<Wire>,
    pub(crate) formula: Formula,
    pub(crate) indexes: RepetitionIndexes,
}

/// For every wire, how many earlier wires have its label.
#[derive(Clone)]
pub(crate) struct RepetitionIndexes {
    pub of_wire: Vec<usize>,
    /// One more than the highest index.
    pub depth: usize,
}

impl RepetitionIndexes {
    fn of(wires: &[Wire]) -> Self {
        let mut seen: HashMap<&str, usize> = HashMap::with_capacity(wires.len());
        let mut depth = 0;
        let of_wire = wires
            .iter()
            .map(|wire| {
                let count = seen.entry(&wire.label).or_default();
                *count += 1;
                depth = depth.max(*count);
                *count - 1
            })
            .collect();
        Self { of_wire, depth }
    }
}

/// Where the parts of a policy stand in its text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Each condition, in the policy's order.
    pub conditions: Vec<ConditionPlace>,
    /// The word of each operator, inner ones before those around them; one fewer than conditions.
    pub operators: Vec<Span>,
}

/// Where a condition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConditionPlace {
    /// Its label.
    pub label: Span,
    /// Its value.
    pub value: Span,
}

/// A part of a policy: a condition, or an operator with all that it joins. Numbered as in [`Places`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A condition.
    Condition(usize),
    /// An operator.
    Operator(usize),
}

/// What [`Policy::truth`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truth {
    /// The answer of each condition, its negation counted in.
    pub conditions: Vec<bool>,
    /// The answer of each operator.
    pub operators: Vec<bool>,
    /// The answer of the whole policy.
    pub whole: bool,
}

impl Truth {
    /// Adds what another key satisfies of the same policy.
    pub fn join(&mut self, other: &Self) {
        let join = |ours: &mut [bool], theirs: &[bool]| {
            for (ours, theirs) in ours.iter_mut().zip(theirs) {
                *ours |= theirs;
            }
        };
        join(&mut self.conditions, &other.conditions);
        join(&mut self.operators, &other.operators);
        self.whole |= other.whole;
    }

    /// The answer of a part; false for a part that there is not.
    pub fn of(&self, part: Part) -> bool {
        match part {
            Part::Condition(n) => self.conditions.get(n).copied().unwrap_or(false),
            Part::Operator(n) => self.operators.get(n).copied().unwrap_or(false),
        }
    }
}

impl Wire {
    /// Does a key whose value of this wire's label is this one satisfy it? A missing label never does.
    fn is_true(&self, value: Option<&Value>) -> bool {
        match value {
            None => false,
            Some(Value::Wild) => true,
            Some(Value::Is(scalar)) => (*scalar == self.scalar) == self.positive,
        }
    }
}

impl Policy {
    /// Parses a policy text under the default [`Limits`].
    ///
    /// # Errors
    /// A [`PolicyError`] with the place and the fix; it covers the size of an empty ciphertext too
    /// ([`PolicyErrorKind::TooLarge`]), so that a policy that parses can be encrypted under.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        Self::parse_with(text, &Limits::default())
    }

    /// Parses a policy text under the caller's limits.
    ///
    /// # Errors
    /// As [`Policy::parse`].
    pub fn parse_with(text: &str, limits: &Limits) -> Result<Self, PolicyError> {
        let (policy, _) = parser::parse(text, limits)?;
        size::check(&policy, 0, limits, text)?;
        Ok(policy)
    }

    /// Parses a policy text whose conditions will be replaced ([`Policy::try_map_conditions`]), and tells where each of
    /// them and each operator stands. The size of a ciphertext is not looked at: [`Policy::check_size`] does that for
    /// the policy that comes out.
    ///
    /// # Errors
    /// As [`Policy::parse_with`], [`PolicyErrorKind::TooLarge`] excepted.
    pub fn parse_with_places(text: &str, limits: &Limits) -> Result<(Self, Places), PolicyError> {
        parser::parse(text, limits)
    }

    /// Refuses a policy under which an empty ciphertext would pass `limits`. `text` is what the error shows.
    ///
    /// # Errors
    /// [`PolicyErrorKind::TooLarge`].
    pub fn check_size(&self, limits: &Limits, text: &str) -> Result<(), PolicyError> {
        size::check(self, 0, limits, text)
    }

    /// The same formula over other conditions: `map` takes the number, label and value of each, in the policy's order,
    /// and gives the label and value that stand there instead. Negation stays.
    ///
    /// # Errors
    /// The first that `map` gives; [`Error::Attribute`] for a label or value that is no word of the language.
    pub fn try_map_conditions<E: From<Error>>(
        &self,
        mut map: impl FnMut(usize, &str, &str) -> Result<(String, String), E>,
    ) -> Result<Self, E> {
        let mut wires = Vec::with_capacity(self.wires.len());
        for (n, wire) in self.wires.iter().enumerate() {
            let (label, value) = map(n, &wire.label, &wire.value)?;
            if let Some(word) = [&label, &value].into_iter().find(|word| !is_word(word.as_bytes())) {
                let problem = "a label or value is letters, digits and `_`, and not `and`, `or` or `not`";
                return Err(Error::Attribute { label: printable(word.as_bytes()), problem }.into());
            }
            let scalar = hash_value(value.as_bytes());
            wires.push(Wire { label, value, scalar, positive: wire.positive });
        }
        Ok(Self::from_parts(wires, self.formula.clone()))
    }

    /// Which parts of the policy a key with these attributes satisfies: the answer of every condition and of every
    /// operator, numbered as in [`Places`]. The last operator, or the only condition, is the whole policy.
    pub fn truth(&self, attributes: &Attributes) -> Truth {
        let mut parts = vec![false; self.formula.output() + 1];
        for (wire, part) in self.wires.iter().zip(&mut parts) {
            *part = wire.is_true(attributes.get(wire.label.as_bytes()));
        }
        for gate in self.formula.in_order() {
            let (left, right) = (parts[usize::from(gate.in0)], parts[usize::from(gate.in1)]);
            parts[usize::from(gate.out)] = if gate.class == GateClass::And { left && right } else { left || right };
        }
        let whole = parts[self.formula.output()];
        let operators = self.formula.gates().iter().map(|gate| parts[usize::from(gate.out)]).collect();
        parts.truncate(self.wires.len());
        Truth { conditions: parts, operators, whole }
    }

    /// Is a condition, numbered as in [`Places`], under an odd number of `not`s? False for one that there is not.
    pub fn is_negated(&self, condition: usize) -> bool {
        self.wires.get(condition).is_some_and(|wire| !wire.positive)
    }

    /// The two sides of an operator, numbered as in [`Places`], and whether both are needed (an operator under an odd
    /// number of `not`s counts as what it becomes: `not (a or b)` needs both).
    pub fn sides(&self, operator: usize) -> Option<(bool, [Part; 2])> {
        let gate = self.formula.gates().get(operator)?;
        let part = |wire: u16| match usize::from(wire).checked_sub(self.wires.len()) {
            None => Part::Condition(usize::from(wire)),
            Some(_) => {
                Part::Operator(self.formula.gates().iter().position(|gate| gate.out == wire).unwrap_or(operator))
            }
        };
        Some((gate.class == GateClass::And, [part(gate.in0), part(gate.in1)]))
    }

    /// Reads the policy out of a ciphertext's bytes, without a key and without any group operation.
    ///
    /// The policy is **not authenticated**: anybody can put any policy before any bytes. Only a decryption that
    /// succeeds vouches for it.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the bytes are not a ciphertext.
    pub fn extract(ciphertext: &[u8]) -> Result<Self, Error> {
        Ok(Ciphertext::from_bytes(ciphertext)?.into_policy())
    }

    /// The name shared by all policies equal to this one up to order, parentheses, double negation and repetition, in
    /// the cluster named by `cluster` (any bytes).
    pub fn id(&self, cluster: &[u8]) -> PolicyId {
        PolicyId::of(self, cluster)
    }

    /// Whether a key with these attributes satisfies the policy. A missing label never satisfies a condition, not even
    /// a negated one. Variable time; not the security boundary.
    pub fn is_satisfied_by(&self, attributes: &Attributes) -> bool {
        self.satisfying_wires(|label| attributes.get(label.as_bytes())).is_some()
    }

    /// Number of conditions, at least 1.
    pub fn conditions(&self) -> usize {
        self.wires.len()
    }

    /// The values that the policy names, by label and in the policy's order. Negation is not told.
    pub fn attribute_value_pairs(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut pairs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for wire in &self.wires {
            pairs.entry(&wire.label).or_default().push(&wire.value);
        }
        pairs
    }

    /// Bytes of a ciphertext of `plaintext_bytes` under this policy, exactly; `None` past the machine's range.
    pub fn ciphertext_bytes(&self, plaintext_bytes: usize) -> Option<usize> {
        size::ciphertext_bytes(self, plaintext_bytes)
    }

    /// `wires` are the inputs of `formula`.
    pub(crate) fn from_parts(wires: Vec<Wire>, formula: Formula) -> Self {
        assert_eq!(wires.len(), formula.inputs(), "one wire per input");
        let indexes = RepetitionIndexes::of(&wires);
        Self { wires, formula, indexes }
    }

    /// A set of wires that makes the policy true, every AND giving both sides and every OR one: in wire order, or
    /// `None`. Of two sides of an OR it takes the one that needs fewer pairings, then fewer negations, then wires.
    pub(crate) fn satisfying_wires<'a>(&self, value_of: impl Fn(&str) -> Option<&'a Value>) -> Option<Vec<usize>> {
        let mut costs: Vec<Option<Cost>> = vec![None; self.formula.output() + 1];
        for (i, wire) in self.wires.iter().enumerate() {
            costs[i] = wire.is_true(value_of(&wire.label)).then(|| Cost::of(self.indexes.of_wire[i], wire.positive));
        }
        for gate in self.formula.in_order() {
            let (left, right) = (costs[usize::from(gate.in0)], costs[usize::from(gate.in1)]);
            costs[usize::from(gate.out)] = match (gate.class, left, right) {
                (GateClass::And, Some(left), Some(right)) => Some(left.and(right)),
                (GateClass::And, ..) => None,
                (GateClass::Or, Some(left), Some(right)) => {
                    Some(if right.order() < left.order() { right } else { left })
                }
                (GateClass::Or, left, right) => left.or(right),
            };
        }
        costs[self.formula.output()]?;
        Some(self.collect_wires(&costs))
    }

    /// Walks from the output down the chosen sides.
    fn collect_wires(&self, costs: &[Option<Cost>]) -> Vec<usize> {
        let writers = self.formula.writers();
        let mut wires = Vec::new();
        let mut pending = vec![self.formula.output()];
        while let Some(wire) = pending.pop() {
            let Some(gate) = writers[wire] else {
                wires.push(wire);
                continue;
            };
            let (in0, in1) = (usize::from(gate.in0), usize::from(gate.in1));
            match (gate.class, costs[in0], costs[in1]) {
                (GateClass::And, ..) => pending.extend([in0, in1]),
                (GateClass::Or, Some(left), Some(right)) => {
                    pending.push(if right.order() < left.order() { in1 } else { in0 });
                }
                (GateClass::Or, Some(_), None) => pending.push(in0),
                (GateClass::Or, None, _) => pending.push(in1),
            }
        }
        wires.sort_unstable();
        wires
    }

    /// `L16(formula) || u16 wires || wires x L16(L16(label) || L16(value) || L16(scalar) || u8 positive)`.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut out = Writer::default();
        self.formula.encode(&mut out)?;
        out.count(self.wires.len(), "policy wires")?;
        for wire in &self.wires {
            let mut field = Writer::default();
            field.field16(wire.label.as_bytes(), "policy label")?;
            field.field16(wire.value.as_bytes(), "policy value")?;
            field.field16(&wire.scalar.to_be_bytes(), "policy scalar")?;
            field.bytes(&[u8::from(wire.positive)]);
            out.field16(&field.0, "policy wire")?;
        }
        Ok(out.0)
    }

    /// Reads what [`Policy::encode`] writes and uses up the reader.
    ///
    /// Stricter than the reference where honest writers never go: labels and values are words of the language, the
    /// scalar is the hash of the written value (else the text could lie about what is enforced), the polarity is 0 or 1,
    /// the reserved label does not appear, and nothing is left over.
    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, Error> {
        let formula = Formula::decode(reader.field16("policy formula")?)?;
        let at = reader.clone();
        let count = usize::from(reader.u16()?);
        if count != formula.inputs() {
            return Err(at.malformed("the number of wires is not the number of the formula's inputs"));
        }
        if count > FORMAT_WIRES_MAX {
            return Err(at.malformed("more wires than an encoded policy has room for"));
        }
        let fields =
            (0..count).map(|_| decode_wire(reader.field16("policy wire")?)).collect::<Result<Vec<_>, Error>>()?;
        reader.finish()?;
        let scalars = hash_values(fields.iter().map(|(_, wire)| wire.value.as_bytes()));
        let mut wires = Vec::with_capacity(count);
        for ((written, wire), scalar) in fields.into_iter().zip(scalars) {
            if scalar.to_be_bytes() != *written.clone().array::<32>()? {
                return Err(written.malformed("the scalar is not the hash of the written value"));
            }
            wires.push(Wire { scalar, ..wire });
        }
        Ok(Self::from_parts(wires, formula))
    }
}

/// A wire and the place of its scalar, which is not in the wire yet.
fn decode_wire(mut reader: Reader<'_>) -> Result<(Reader<'_>, Wire), Error> {
    let label = word(reader.field16("policy label")?)?;
    let value = word(reader.field16("policy value")?)?;
    let mut field = reader.field16("policy scalar")?;
    let written = field.clone();
    field.array::<32>()?;
    field.finish()?;
    let at = reader.clone();
    let positive = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return Err(at.malformed("the polarity is neither 0 nor 1")),
    };
    reader.finish()?;
    Ok((written, Wire { label, value, scalar: Scalar::ZERO, positive }))
}

fn word(mut reader: Reader<'_>) -> Result<String, Error> {
    let at = reader.clone();
    let bytes = reader.rest();
    if bytes == BONEH_KATZ_LABEL {
        return Err(at.malformed("the transform's reserved label stands in a policy"));
    }
    if !is_word(bytes) {
        return Err(at.malformed("not a word of the policy language"));
    }
    Ok(String::from_utf8(bytes.to_vec()).expect("words are ASCII"))
}

/// What a set of wires costs a decryption.
#[derive(Clone, Copy)]
struct Cost {
    /// Repetition indexes in use, one bit each, the last bit for all that are higher. The Boneh-Katz wire always uses
    /// index 0.
    indexes: u64,
    negations: u32,
    wires: u32,
}

impl Cost {
    fn of(index: usize, positive: bool) -> Self {
        Self { indexes: 1 | 1 << index.min(63), negations: u32::from(!positive), wires: 1 }
    }

    fn and(self, other: Self) -> Self {
        Self {
            indexes: self.indexes | other.indexes,
            negations: self.negations + other.negations,
            wires: self.wires + other.wires,
        }
    }

    fn order(self) -> (u32, u32, u32) {
        (self.indexes.count_ones(), self.negations, self.wires)
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        Self::parse(text)
    }
}

impl PartialEq for Policy {
    /// Same wires in the same order and same gates in the same order, a gate's two inputs in either order.
    fn eq(&self, other: &Self) -> bool {
        let gates = |policy: &Self| -> Vec<_> {
            let sorted = |gate: &formula::Gate| (gate.in0.min(gate.in1), gate.in0.max(gate.in1));
            policy.formula.gates().iter().map(|gate| (gate.class as u8, sorted(gate), gate.out)).collect()
        };
        self.wires == other.wires && gates(self) == gates(other)
    }
}

impl Eq for Policy {}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        enum Piece {
            Wire(usize),
            Text(&'static str),
        }
        let writers = self.formula.writers();
        let mut pending = vec![Piece::Wire(self.formula.output())];
        while let Some(piece) = pending.pop() {
            match piece {
                Piece::Text(text) => f.write_str(text)?,
                Piece::Wire(number) => match writers[number] {
                    None => {
                        let wire = &self.wires[number];
                        let sign = if wire.positive { "" } else { "not " };
                        write!(f, "{sign}{}:{}", wire.label, wire.value)?;
                    }
                    Some(gate) => {
                        let word = if gate.class == GateClass::And { " and " } else { " or " };
                        // A stack: what is printed first goes on last.
                        pending.push(Piece::Text(")"));
                        pending.push(Piece::Wire(gate.in1.into()));
                        pending.push(Piece::Text(word));
                        pending.push(Piece::Wire(gate.in0.into()));
                        pending.push(Piece::Text("("));
                    }
                },
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Policy({self})")
    }
}
