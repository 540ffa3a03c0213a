//! From the bytes that a scanner read to a code that the gate may act on, or a reason why not.
//!
//! [`Checker::check`] is a function of the bytes, the settings, the trusted roots and the time it is handed; what it remembers
//! saves work and never changes an answer. What comes out as [`VerifiedCode`] has passed every check that needs no history; the
//! rest (`duplicate`, `too-soon`, …) is judged by [`crate::journey`] inside the ledger's transaction.

pub mod jtt1179;
mod numbers;
mod opaque;

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use sha2::{Digest, Sha256};

pub use numbers::{CardAccount, IssuerCode, Packed};

use self::{
    jtt1179::{Jtt1179Codes, TrustStore},
    opaque::OpaqueCodes,
};
use crate::{
    clock::Stamp,
    config::{self, OpaquePassenger, UnsynchronizedClock},
};

/// Why a scan is refused: the same word in the signal, the record, the log, the metrics and the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// The bytes are not a code.
    Format,
    /// The issuer's certificate names a root that is not trusted here.
    UnknownRoot,
    /// The issuer's certificate, or the root itself, has expired.
    CertificateExpired,
    /// The code was made in the future: the phone's or the gate's clock is wrong.
    NotYetValid,
    /// The code is too old.
    Expired,
    /// The issuer's authorization of this passenger has expired.
    AuthorizationExpired,
    /// The root did not sign the issuer's certificate.
    CertificateSignature,
    /// The issuer did not sign the passenger's authorization.
    IssuerSignature,
    /// The passenger's phone did not sign the code.
    UserSignature,
    /// This code was admitted within `duplicate_window`.
    Duplicate,
    /// This passenger was admitted within `passenger_interval`.
    TooSoon,
    /// This machine's clock is not synchronized, and the settings deny codes then.
    ClockUnsynchronized,
    /// The code's limit is below what it could be charged.
    OverLimit,
    /// The passenger is on the deny-list.
    DeniedPassenger,
    /// Too much is recorded but not yet accepted, of this passenger or of this gate.
    Exposure,
    /// An exit without an entry, where the settings deny it.
    Unmatched,
    /// The opening could not start within `open_within`.
    Late,
    /// The ledger cannot be written: no code can be admitted.
    OutOfOrder,
}

impl Refusal {
    /// Every refusal, in the order of judgement.
    pub const ALL: [Self; 18] = [
        Self::Format,
        Self::UnknownRoot,
        Self::CertificateExpired,
        Self::NotYetValid,
        Self::Expired,
        Self::AuthorizationExpired,
        Self::CertificateSignature,
        Self::IssuerSignature,
        Self::UserSignature,
        Self::Duplicate,
        Self::TooSoon,
        Self::ClockUnsynchronized,
        Self::OverLimit,
        Self::DeniedPassenger,
        Self::Exposure,
        Self::Unmatched,
        Self::Late,
        Self::OutOfOrder,
    ];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::UnknownRoot => "unknown-root",
            Self::CertificateExpired => "certificate-expired",
            Self::NotYetValid => "not-yet-valid",
            Self::Expired => "expired",
            Self::AuthorizationExpired => "authorization-expired",
            Self::CertificateSignature => "certificate-signature",
            Self::IssuerSignature => "issuer-signature",
            Self::UserSignature => "user-signature",
            Self::Duplicate => "duplicate",
            Self::TooSoon => "too-soon",
            Self::ClockUnsynchronized => "clock-unsynchronized",
            Self::OverLimit => "over-limit",
            Self::DeniedPassenger => "denied-passenger",
            Self::Exposure => "exposure",
            Self::Unmatched => "unmatched",
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
    /// What the code itself states. `None` for opaque codes, which state nothing.
    pub terms: Option<Terms>,
    /// Refuses an entry or a single tap with this code, never an exit: which of them a tap is, only the journey knows.
    pub entry_refusal: Option<Refusal>,
}

impl VerifiedCode {
    /// A code that states nothing about itself.
    #[must_use]
    pub fn opaque(bytes: Vec<u8>, passenger: PassengerId) -> Self {
        Self { digest: CodeDigest::of(&bytes), bytes: CodeBytes(bytes), passenger, terms: None, entry_refusal: None }
    }
}

/// What a ride code of JT/T 1179 states, vouched for by its issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Who issued it.
    pub issuer: IssuerCode,
    /// What the deny-list names.
    pub card: CardAccount,
    /// A fare above this must not be charged with the code, in fen.
    pub single_trip_limit_fen: i64,
    /// When validity or authorization ends, whichever is earlier; UTC seconds.
    pub effective_end_utc_s: i64,
}

/// Judges codes. One for all lanes; a check is short and takes no other lock.
pub struct Checker {
    unsynchronized_clock: UnsynchronizedClock,
    format: Format,
}

enum Format {
    Opaque(OpaqueCodes),
    Jtt1179(Box<Mutex<Jtt1179Codes>>),
}

impl Checker {
    /// For bytes of which nothing is known. `passenger`: which of them are the passenger.
    #[must_use]
    pub fn opaque(settings: &config::RideCode, passenger: OpaquePassenger) -> Self {
        Self::new(settings, Format::Opaque(OpaqueCodes::new(passenger)))
    }

    /// For codes of JT/T 1179-2018, verified against these roots.
    #[must_use]
    pub fn jtt1179(settings: &config::RideCode, roots: TrustStore) -> Self {
        Self::new(settings, Format::Jtt1179(Box::new(Mutex::new(Jtt1179Codes::new(settings, roots)))))
    }

    fn new(settings: &config::RideCode, format: Format) -> Self {
        Self { unsynchronized_clock: settings.unsynchronized_clock, format }
    }

    /// Judges the bytes of one frame at the time `now`.
    ///
    /// # Errors
    /// The reason why the gate must not act on these bytes.
    pub fn check(&self, bytes: Vec<u8>, now: &Stamp) -> Result<VerifiedCode, Refusal> {
        let code = match &self.format {
            Format::Opaque(codes) => codes.check(bytes),
            Format::Jtt1179(codes) => codes.lock().unwrap_or_else(PoisonError::into_inner).check(bytes, now),
        }?;
        Ok(VerifiedCode { entry_refusal: clock_refusal(self.unsynchronized_clock, now), ..code })
    }

    /// From now on codes are verified against these roots; nothing that was verified before is remembered. Opaque codes have no
    /// roots: for them nothing changes.
    pub fn replace_roots(&self, roots: TrustStore) {
        if let Format::Jtt1179(codes) = &self.format {
            codes.lock().unwrap_or_else(PoisonError::into_inner).replace_roots(roots);
        }
    }
}

/// What `unsynchronized_clock` says at this time.
fn clock_refusal(policy: UnsynchronizedClock, now: &Stamp) -> Option<Refusal> {
    (policy == UnsynchronizedClock::Deny && !now.synchronized).then_some(Refusal::ClockUnsynchronized)
}

#[cfg(test)]
mod test_support {
    use std::{collections::BTreeMap, path::PathBuf, time::Duration};

    use super::*;

    /// The defaults, with a tolerance of 10 s.
    pub(super) fn settings() -> config::RideCode {
        config::RideCode {
            format: config::Format::Jtt1179 { roots: PathBuf::from("roots.toml") },
            clock_tolerance: Duration::from_secs(10),
            unsynchronized_clock: UnsynchronizedClock::Accept,
            issuer_clock_offset_seconds: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::{CodeTerms, Passenger, Root};

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

    // No test may set the machine's clock, so what the kernel says of it is the same in all of them. The check knows it only from
    // the Stamp that it is handed: here both states meet both settings and both formats.
    #[test]
    fn a_clock_that_is_not_synchronized_refuses_entries_only_where_the_settings_say_so() {
        let (now, root) = (Stamp::now(), Root::from_seed(1, 1));
        let terms = CodeTerms::at(u32::try_from(now.utc_ms / 1000).unwrap());
        let code = root.certify(1, 3_664_530, 1299).issue(&Passenger::from_seed(1, 1), &terms);
        let refusal_of = |unsynchronized_clock, synchronized| {
            let settings = config::RideCode { unsynchronized_clock, ..test_support::settings() };
            let now = Stamp { synchronized, ..now };
            let opaque = Checker::opaque(&settings, OpaquePassenger::Whole).check(b"code".to_vec(), &now).unwrap();
            let roots = TrustStore::new(&[root.root_key(2099, 12)]).unwrap();
            let genuine = Checker::jtt1179(&settings, roots).check(code.clone(), &now).unwrap();
            assert_eq!(opaque.entry_refusal, genuine.entry_refusal);
            opaque.entry_refusal
        };
        assert_eq!(refusal_of(UnsynchronizedClock::Deny, false), Some(Refusal::ClockUnsynchronized));
        assert_eq!(refusal_of(UnsynchronizedClock::Deny, true), None);
        assert_eq!(refusal_of(UnsynchronizedClock::Accept, false), None);
        assert_eq!(refusal_of(UnsynchronizedClock::Accept, true), None);
    }

    #[test]
    fn every_refusal_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<_> = Refusal::ALL.iter().map(|refusal| refusal.as_str()).collect();
        assert_eq!(words.len(), Refusal::ALL.len());
    }
}
