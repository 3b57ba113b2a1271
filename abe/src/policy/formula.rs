//! A policy as a circuit of two-input gates: well-formedness, order, satisfaction and sharing.
//!
//! Wires `0..=n` are inputs, gate outputs are `n+1..=2n`, the last of them the circuit's output; with no gate the one
//! input is the output. Every wire but the output feeds exactly one gate, so the circuit is a tree. There is no NOT
//! gate: negation lives on the input wires.
//!
//! Law of sharing: an AND gives one input a fresh vector and the other the rest, an OR gives both the whole. A gate
//! that gave one input the whole and the other nothing would hand the secret to whoever holds the first alone; with the
//! transform's wildcard wire that is every key holder (that defect shipped in the reference until v1.6.4).

use zeroize::{Zeroize, Zeroizing};

use crate::codec::{Reader, Writer};
use crate::curve::Scalar;
use crate::error::Error;

/// What a gate computes. The discriminant is the byte on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum GateClass {
    And = 0,
    Or = 1,
}

/// A two-input gate; the fields are wire numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    pub class: GateClass,
    pub in0: u16,
    pub in1: u16,
    pub out: u16,
}

/// A well-formed circuit. The gates keep the order they were written in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Formula {
    gates: Vec<Gate>,
    /// Positions in `gates`, every gate after the gates that feed it.
    order: Vec<u16>,
}

/// Bytes of an encoded gate: class, two inputs, output.
pub const GATE_BYTES: usize = 7;

/// A share of the ciphertext's randomness r: a vector of two scalars.
pub type Share = [Scalar; 2];

impl Formula {
    /// Checks the circuit; the error says what is wrong with it.
    pub fn new(gates: Vec<Gate>) -> Result<Self, &'static str> {
        let n = gates.len();
        let wires = 2 * n + 1;
        if wires > usize::from(u16::MAX) {
            return Err("the formula has more gates than wire numbers can name");
        }
        let mut used = vec![false; wires];
        let mut made = vec![false; wires];
        for gate in &gates {
            for input in [gate.in0, gate.in1].map(usize::from) {
                if input >= 2 * n {
                    return Err("a gate reads a wire that is not an input or the output of another gate");
                }
                if std::mem::replace(&mut used[input], true) {
                    return Err("a wire feeds two gates");
                }
            }
            let out = usize::from(gate.out);
            if out <= n || out > 2 * n {
                return Err("a gate writes to a wire that is not a gate output");
            }
            if std::mem::replace(&mut made[out], true) {
                return Err("two gates write to one wire");
            }
        }
        let order = topological_order(&gates);
        if order.len() != n {
            return Err("the gates form a cycle");
        }
        Ok(Self { gates, order })
    }

    /// The gates in the order they were written.
    pub fn gates(&self) -> &[Gate] {
        &self.gates
    }

    /// Number of input wires.
    pub fn inputs(&self) -> usize {
        self.gates.len() + 1
    }

    /// Number of the wire that carries the result.
    pub fn output(&self) -> usize {
        2 * self.gates.len()
    }

    /// The gates, every one after the gates that feed it.
    pub fn in_order(&self) -> impl DoubleEndedIterator<Item = &Gate> {
        self.order.iter().map(|position| &self.gates[usize::from(*position)])
    }

    /// The gate that writes each wire, by wire number; inputs have none.
    pub fn writers(&self) -> Vec<Option<&Gate>> {
        let mut writers = vec![None; self.output() + 1];
        for gate in &self.gates {
            writers[usize::from(gate.out)] = Some(gate);
        }
        writers
    }

    /// The circuit with one more input, and-ed to the output: the place of the Boneh-Katz wire.
    ///
    /// The new input is number n+1, so every gate output moves up by one. For a circuit without gates the new gate has
    /// the user's wire first, for all others the new wire first; this only fixes whose share is drawn.
    pub fn augmented(&self) -> Self {
        let n = self.gates.len();
        let shift = |wire: u16| if usize::from(wire) > n { wire + 1 } else { wire };
        let mut gates: Vec<Gate> = self
            .gates
            .iter()
            .map(|gate| Gate { class: gate.class, in0: shift(gate.in0), in1: shift(gate.in1), out: gate.out + 1 })
            .collect();
        let number = |wire: usize| u16::try_from(wire).expect("a formula behind a 16-bit length has few wires");
        let (in0, in1) = if n == 0 { (0, 1) } else { (number(n + 1), number(2 * n + 1)) };
        gates.push(Gate { class: GateClass::And, in0, in1, out: number(2 * n + 2) });
        // Well-formed by construction, so only the order is to be found.
        let order = topological_order(&gates);
        Self { gates, order }
    }

    /// The shares of all input wires, `secret` at the output. `fresh` is asked once per AND gate, outermost first.
    pub fn share(
        &self,
        secret: &Share,
        fresh: impl FnMut() -> Result<Zeroizing<Share>, Error>,
    ) -> Result<Zeroizing<Vec<Share>>, Error> {
        let mut shares = self.share_all(secret, fresh)?;
        shares[self.inputs()..].iter_mut().for_each(Zeroize::zeroize);
        shares.truncate(self.inputs());
        Ok(shares)
    }

    /// The shares of every wire, gate outputs too.
    pub fn share_all(
        &self,
        secret: &Share,
        mut fresh: impl FnMut() -> Result<Zeroizing<Share>, Error>,
    ) -> Result<Zeroizing<Vec<Share>>, Error> {
        let mut shares = Zeroizing::new(vec![Share::default(); self.output() + 1]);
        shares[self.output()] = *secret;
        for gate in self.in_order().rev() {
            let out = shares[usize::from(gate.out)];
            let (first, second) = match gate.class {
                GateClass::Or => (out, out),
                GateClass::And => {
                    let drawn = fresh()?;
                    split_and(&out, &drawn)
                }
            };
            shares[usize::from(gate.in0)] = first;
            shares[usize::from(gate.in1)] = second;
        }
        Ok(shares)
    }

    /// `u16 n || n x (u8 class || u16 in0 || u16 in1 || u16 out)`.
    pub fn encode(&self, out: &mut Writer) -> Result<(), Error> {
        let mut formula = Writer::default();
        formula.count(self.gates.len(), "policy gates")?;
        for gate in &self.gates {
            formula.bytes(&[gate.class as u8]);
            for wire in [gate.in0, gate.in1, gate.out] {
                formula.u16(wire);
            }
        }
        out.field16(&formula.0, "policy formula")
    }

    /// Reads what [`Formula::encode`] writes and uses up the reader.
    pub fn decode(mut reader: Reader<'_>) -> Result<Self, Error> {
        let start = reader.clone();
        let n = usize::from(reader.u16()?);
        let mut gates = Vec::new();
        for _ in 0..n {
            let at = reader.clone();
            let class = match reader.u8()? {
                0 => GateClass::And,
                1 => GateClass::Or,
                _ => return Err(at.malformed("a gate is neither `and` (0) nor `or` (1)")),
            };
            gates.push(Gate { class, in0: reader.u16()?, in1: reader.u16()?, out: reader.u16()? });
        }
        reader.finish()?;
        Self::new(gates).map_err(|problem| start.malformed(problem))
    }
}

/// The two shares of an AND gate: they add up to the parent's, and neither is the parent's or zero.
#[cfg(not(cinnabar_planted = "and_share"))]
fn split_and(out: &Share, drawn: &Share) -> (Share, Share) {
    (*drawn, [out[0].sub(drawn[0]), out[1].sub(drawn[1])])
}

/// The planted defect that `make test-planted` expects the attack tests to find.
#[cfg(cinnabar_planted = "and_share")]
fn split_and(out: &Share, _drawn: &Share) -> (Share, Share) {
    (*out, Share::default())
}

/// Kahn's algorithm with a first-in first-out queue. Gates in a cycle are left out.
fn topological_order(gates: &[Gate]) -> Vec<u16> {
    let n = gates.len();
    let mut reader_of = vec![None; 2 * n + 1];
    for (position, gate) in gates.iter().enumerate() {
        reader_of[usize::from(gate.in0)] = Some(position);
        reader_of[usize::from(gate.in1)] = Some(position);
    }
    let is_gate_output = |wire: u16| usize::from(wire) > n;
    let mut pending: Vec<usize> = gates
        .iter()
        .map(|gate| [gate.in0, gate.in1].into_iter().filter(|wire| is_gate_output(*wire)).count())
        .collect();
    let mut order: Vec<u16> = Vec::with_capacity(n);
    let push = |order: &mut Vec<u16>, position: usize| {
        order.push(u16::try_from(position).expect("positions are checked against wire numbers"));
    };
    for (position, count) in pending.iter().enumerate() {
        if *count == 0 {
            push(&mut order, position);
        }
    }
    // The part of `order` not yet looked at is the queue.
    let mut done = 0;
    while let Some(position) = order.get(done).copied() {
        done += 1;
        if let Some(reader) = reader_of[usize::from(gates[usize::from(position)].out)] {
            pending[reader] -= 1;
            if pending[reader] == 0 {
                push(&mut order, reader);
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(class: GateClass, in0: u16, in1: u16, out: u16) -> Gate {
        Gate { class, in0, in1, out }
    }

    #[test]
    fn only_trees_are_well_formed() {
        use GateClass::And;
        assert!(Formula::new(vec![]).is_ok());
        assert!(Formula::new(vec![gate(And, 0, 1, 2)]).is_ok());
        assert!(Formula::new(vec![gate(And, 2, 3, 4), gate(And, 0, 1, 3)]).is_ok());
        for bad in [
            vec![gate(And, 0, 0, 2)],
            vec![gate(And, 0, 2, 2)],
            vec![gate(And, 0, 1, 1)],
            vec![gate(And, 0, 1, 3)],
            vec![gate(And, 0, 1, 3), gate(And, 2, 3, 3)],
            vec![gate(And, 0, 1, 4), gate(And, 2, 3, 3)],
            vec![gate(And, 0, 4, 3), gate(And, 1, 3, 4)],
            vec![gate(And, 0, u16::MAX, 2)],
        ] {
            assert!(Formula::new(bad.clone()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_order_is_first_in_first_out() {
        use GateClass::{And, Or};
        // Gate 0 waits for gate 2; gates 1 and 2 are ready at once.
        let formula =
            Formula::new(vec![gate(Or, 4, 6, 7), gate(And, 0, 1, 5), gate(And, 2, 3, 6), gate(And, 5, 7, 8)]).unwrap();
        assert_eq!(formula.order, [1, 2, 0, 3]);
    }
}
