//! The part of the protobuf wire format that dag-pb and UnixFS use: varints, byte strings and
//! fixed32, read without copying.

/// Why bytes are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtobufError {
    /// The bytes end inside a field.
    #[error("the message ends inside a field")]
    Truncated,
    /// A varint does not fit 64 bits.
    #[error("a varint is longer than 64 bits")]
    Overflow,
    /// A field has a wire type that no message here uses.
    #[error("field {number} has the wrong wire type {wire_type}")]
    WireType {
        /// Number of the field.
        number: u64,
        /// The wire type found.
        wire_type: u8,
    },
}

/// The value of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
    /// A value that is skipped: none of the messages here has one.
    Fixed64,
}

impl<'a> Field<'a> {
    pub(crate) fn varint(self, number: u64) -> Result<u64, ProtobufError> {
        match self {
            Field::Varint(value) => Ok(value),
            _ => Err(self.mismatch(number)),
        }
    }

    pub(crate) fn bytes(self, number: u64) -> Result<&'a [u8], ProtobufError> {
        match self {
            Field::Bytes(value) => Ok(value),
            _ => Err(self.mismatch(number)),
        }
    }

    pub(crate) fn fixed32(self, number: u64) -> Result<u32, ProtobufError> {
        match self {
            Field::Fixed32(value) => Ok(value),
            _ => Err(self.mismatch(number)),
        }
    }

    fn mismatch(self, number: u64) -> ProtobufError {
        let wire_type = match self {
            Field::Varint(_) => 0,
            Field::Fixed64 => 1,
            Field::Bytes(_) => 2,
            Field::Fixed32(_) => 5,
        };
        ProtobufError::WireType { number, wire_type }
    }
}

/// Iterates over the fields of a message.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Fields<'a> {
        Fields { rest: message }
    }

    /// Reads a bare varint: what packed repeated fields are made of.
    pub(crate) fn read_varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte, rest @ ..] = self.rest else {
                return Err(ProtobufError::Truncated);
            };
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(ProtobufError::Overflow);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Overflow)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], ProtobufError> {
        let length = usize::try_from(length).map_err(|_| ProtobufError::Truncated)?;
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(ProtobufError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn read_field(&mut self) -> Result<(u64, Field<'a>), ProtobufError> {
        let tag = self.read_varint()?;
        let number = tag >> 3;
        let value = match (tag & 7) as u8 {
            0 => Field::Varint(self.read_varint()?),
            1 => {
                self.take(8)?;
                Field::Fixed64
            }
            2 => {
                let length = self.read_varint()?;
                Field::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?.try_into().expect("took four bytes");
                Field::Fixed32(u32::from_le_bytes(bytes))
            }
            wire_type => return Err(ProtobufError::WireType { number, wire_type }),
        };
        Ok((number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Field<'a>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read_field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// Appends `value` as a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a byte string with its tag and length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// How many bytes `value` takes as a varint.
pub(crate) fn varint_length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip() {
        for value in [
            0,
            1,
            127,
            128,
            300,
            u64::from(u32::MAX),
            u64::MAX - 1,
            u64::MAX,
        ] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(bytes.len(), varint_length(value), "{value}");
            assert_eq!(Fields::new(&bytes).read_varint(), Ok(value));
        }
    }

    #[test]
    fn overlong_varints_are_refused() {
        assert_eq!(
            Fields::new(&[0xff; 10]).read_varint(),
            Err(ProtobufError::Overflow)
        );
        assert_eq!(
            Fields::new(&[0x80; 3]).read_varint(),
            Err(ProtobufError::Truncated)
        );
    }
}
