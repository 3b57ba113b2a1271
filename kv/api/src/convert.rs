//! Between generated messages and values; the one place where a message's field becomes a checked type.

use bytes::Bytes;

use crate::proto;
use crate::{ClientId, Condition, Error, Key, Op, Write};

impl TryFrom<proto::Op> for Op {
    type Error = Error;

    fn try_from(op: proto::Op) -> Result<Self, Error> {
        let key = Key::new(op.key)?;
        match proto::op::Kind::try_from(op.kind) {
            Ok(proto::op::Kind::Put) => Ok(Self::Put { key, value: op.value }),
            Ok(proto::op::Kind::Delete) if op.value.is_empty() => Ok(Self::Delete { key }),
            Ok(proto::op::Kind::Delete) => {
                Err(Error::Malformed { what: "operation", problem: "a delete with a value".to_owned() })
            }
            _ => Err(Error::Malformed { what: "operation", problem: format!("kind {}", op.kind) }),
        }
    }
}

impl From<Op> for proto::Op {
    fn from(op: Op) -> Self {
        match op {
            Op::Put { key, value } => Self { kind: proto::op::Kind::Put.into(), key: key.to_bytes(), value },
            Op::Delete { key } => {
                Self { kind: proto::op::Kind::Delete.into(), key: key.to_bytes(), value: Bytes::new() }
            }
        }
    }
}

impl TryFrom<proto::WriteRequest> for Write {
    type Error = Error;

    fn try_from(request: proto::WriteRequest) -> Result<Self, Error> {
        let client = ClientId(request.client_id.as_ref().try_into().map_err(|_| Error::OutOfBounds {
            what: "client_id bytes",
            least: 16,
            most: 16,
            actual: request.client_id.len(),
        })?);
        let condition = |condition: proto::Condition| {
            Ok::<_, Error>(Condition { key: Key::new(condition.key)?, mod_index: condition.mod_index })
        };
        let write = Self {
            client,
            sequence: request.sequence,
            answered_below: request.answered_below,
            conditions: request.conditions.into_iter().map(condition).collect::<Result<_, _>>()?,
            ops: request.ops.into_iter().map(Op::try_from).collect::<Result<_, _>>()?,
        };
        write.check()?;
        Ok(write)
    }
}

impl From<Write> for proto::WriteRequest {
    fn from(write: Write) -> Self {
        let condition =
            |condition: Condition| proto::Condition { key: condition.key.to_bytes(), mod_index: condition.mod_index };
        Self {
            client_id: Bytes::copy_from_slice(&write.client.0),
            sequence: write.sequence,
            answered_below: write.answered_below,
            conditions: write.conditions.into_iter().map(condition).collect(),
            ops: write.ops.into_iter().map(proto::Op::from).collect(),
        }
    }
}
