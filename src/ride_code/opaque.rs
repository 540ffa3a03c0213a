//! Codes of which nothing is known but which bytes are the passenger. Anybody can make one: for trials and closed sites only.

use data_encoding::HEXLOWER;

use super::{PassengerId, Refusal, VerifiedCode};
use crate::config::OpaquePassenger;

/// Judges opaque codes.
#[derive(Debug, Clone)]
pub(super) struct OpaqueCodes {
    passenger: OpaquePassenger,
}

impl OpaqueCodes {
    /// `passenger`: which bytes of a code are the passenger.
    pub(super) fn new(passenger: OpaquePassenger) -> Self {
        Self { passenger }
    }

    /// # Errors
    /// [`Refusal::Format`] when the code is empty or too short to hold its passenger.
    pub(super) fn check(&self, bytes: Vec<u8>) -> Result<VerifiedCode, Refusal> {
        let identity = match self.passenger {
            OpaquePassenger::Whole => bytes.get(..).filter(|all| !all.is_empty()),
            OpaquePassenger::Slice { offset, length } => offset.checked_add(length).and_then(|end| bytes.get(offset..end)),
        }
        .ok_or(Refusal::Format)?;
        let passenger = PassengerId::new(identity, &tail(identity));
        Ok(VerifiedCode::opaque(bytes, passenger))
    }
}

/// The last 4 characters where they are letters or digits, else the last 4 hex digits.
fn tail(identity: &[u8]) -> String {
    let last = &identity[identity.len().saturating_sub(4)..];
    if last.iter().all(u8::is_ascii_alphanumeric) {
        last.iter().map(|&byte| char::from(byte)).collect()
    } else {
        HEXLOWER.encode(&last[last.len().saturating_sub(2)..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(passenger: OpaquePassenger, bytes: &[u8]) -> Result<VerifiedCode, Refusal> {
        OpaqueCodes::new(passenger).check(bytes.to_vec())
    }

    #[test]
    fn the_whole_code_or_a_part_of_it_is_the_passenger() {
        let whole = check(OpaquePassenger::Whole, b"CODE-0042").unwrap();
        assert_eq!(whole.passenger.to_string(), "****************0042");
        let slice = OpaquePassenger::Slice { offset: 2, length: 3 };
        let (one, other) = (check(slice, b"..abc..1").unwrap(), check(slice, b"..abc..2").unwrap());
        assert_eq!(one.passenger, other.passenger);
        assert_ne!(one.digest, other.digest);
    }

    #[test]
    fn a_code_that_cannot_hold_its_passenger_is_no_code() {
        assert_eq!(check(OpaquePassenger::Whole, b"").unwrap_err(), Refusal::Format);
        assert_eq!(check(OpaquePassenger::Slice { offset: 2, length: 3 }, b"..ab").unwrap_err(), Refusal::Format);
        let absurd = OpaquePassenger::Slice { offset: usize::MAX, length: 2 };
        assert_eq!(check(absurd, b"..ab").unwrap_err(), Refusal::Format);
    }

    #[test]
    fn binary_passengers_have_a_hex_tail() {
        assert_eq!(tail(&[0, 1, 2, 0xfe, 0x0f]), "fe0f");
        assert_eq!(tail(b"A"), "A");
        assert_eq!(tail(&[9]), "09");
    }
}
