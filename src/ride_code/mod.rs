//! From the bytes that a scanner read to a code that the gate may act on, or a reason why not.
//!
//! [`Checker::check`] is a pure function of the bytes, the settings and the time it is handed. What comes out as
//! [`VerifiedCode`] has passed every check that needs no history; the rest (`duplicate`, `too-soon`, …) is judged by
//! [`crate::journey`] inside the ledger's transaction.

mod opaque;

use std::fmt;

use sha2::{Digest, Sha256};

pub use opaque::OpaqueCodes;

use crate::clock::Stamp;

/// Why a scan is refused: the same word in the signal, the record, the log, the metrics and the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// The bytes are not a code.
    Format,
    /// This code was admitted within `duplicate_window`.
    Duplicate,
    /// This passenger was admitted within `passenger_interval`.
    TooSoon,
    /// The opening could not start within `open_within`.
    Late,
    /// The ledger cannot be written: no code can be admitted.
    OutOfOrder,
}

impl Refusal {
    /// Every refusal, in the order of judgement.
    pub const ALL: [Self; 5] = [Self::Format, Self::Duplicate, Self::TooSoon, Self::Late, Self::OutOfOrder];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Duplicate => "duplicate",
            Self::TooSoon => "too-soon",
            Self::Late => "late",
            Self::OutOfOrder => "out-of-order",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The SHA-256 of a code's bytes, shortened to 16: names a code without being one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CodeDigest(pub [u8; 16]);

impl CodeDigest {
    /// Of the decoded frame.
    #[must_use]
    pub fn of(code: &[u8]) -> Self {
        let mut digest = [0; 16];
        digest.copy_from_slice(&Sha256::digest(code)[..16]);
        Self(digest)
    }
}

impl fmt::Display for CodeDigest {
    /// The first 8 hex digits: enough to find a scan again in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CodeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The bytes of a ride code. Its `Debug` shows the length only: whoever holds them can ride.
#[derive(Clone, PartialEq, Eq)]
pub struct CodeBytes(pub Vec<u8>);

impl fmt::Debug for CodeBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

/// Who rides: the same in every code of one passenger. `Debug` and `Display` show 16 `*` and the last 4 characters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PassengerId {
    key: Vec<u8>,
    tail: String,
}

impl PassengerId {
    /// At most this many bytes are kept as they are; more are replaced by their SHA-256.
    pub const KEY_BYTES_MAX: usize = 32;

    /// `identity`: what is the same in every code of the passenger. `tail`: its last 4 digits, for people.
    #[must_use]
    pub fn new(identity: &[u8], tail: &str) -> Self {
        let key = if identity.len() <= Self::KEY_BYTES_MAX { identity.to_vec() } else { Sha256::digest(identity).to_vec() };
        Self { key, tail: tail.to_owned() }
    }

    /// What the ledger compares.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The last 4 characters.
    #[must_use]
    pub fn tail(&self) -> &str {
        &self.tail
    }
}

/// 16 `*` and the last 4 characters: how a passenger is shown everywhere.
#[must_use]
pub fn masked(tail: &str) -> String {
    format!("{}{tail}", "*".repeat(16))
}

impl fmt::Display for PassengerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(&self.tail))
    }
}

impl fmt::Debug for PassengerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A code that has passed every check that needs no history.
#[derive(Debug, Clone)]
pub struct VerifiedCode {
    /// The code as read, decoded from the reader's encoding: what WeChat is sent, in base64.
    pub bytes: CodeBytes,
    /// Names the code.
    pub digest: CodeDigest,
    /// Who rides.
    pub passenger: PassengerId,
}

/// The formats of ride codes. JT/T 1179 joins here beside the opaque one.
#[derive(Debug, Clone)]
pub enum Checker {
    /// Bytes that nothing is known of.
    Opaque(OpaqueCodes),
}

impl Checker {
    /// Judges the bytes of one frame at the time `now`.
    ///
    /// # Errors
    /// The reason why the gate must not act on these bytes.
    pub fn check(&self, bytes: Vec<u8>, now: &Stamp) -> Result<VerifiedCode, Refusal> {
        let _ = now;
        match self {
            Self::Opaque(codes) => codes.check(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_printed_holds_a_code_or_a_passenger_number() {
        let passenger = PassengerId::new(b"91237654321001000042", "0042");
        assert_eq!(format!("{passenger} {passenger:?}"), "****************0042 ****************0042");
        assert_eq!(format!("{:?}", CodeBytes(b"secret".to_vec())), "<6 bytes>");
        assert_eq!(CodeDigest::of(b"abc").to_string(), "ba7816bf");
    }

    #[test]
    fn long_identities_are_kept_as_digests() {
        assert_eq!(PassengerId::new(&[7; 33], "").key().len(), 32);
        assert_ne!(PassengerId::new(&[7; 33], "").key(), PassengerId::new(&[7; 34], "").key());
    }
}
