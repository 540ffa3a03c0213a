//! The ride code of JT/T 1179-2018, checked offline: a binary QR payload, signed by the passenger's phone, whose key an issuer
//! signed, whose key a root signed.
//!
//! [`RideCode::parse`] says what the bytes mean, the private `verify` whether they are genuine and in time, [`explain`] tells a
//! technician both.

mod known;
mod parse;
mod sample;
mod show;
mod signature;
mod trust;
mod verify;

use self::{known::Known, verify::Rules};
pub use self::{
    parse::{Certificate, CompressedKey, Malformed, Month, RawSignature, RideCode},
    sample::Sample,
    show::{Explanation, Masking, Verdict, decode_capture, explain},
    signature::USER_ID,
    trust::{RootsError, TrustError, TrustStore},
};
use super::{CodeBytes, CodeDigest, PassengerId, Refusal, Terms, VerifiedCode};
use crate::{clock::Stamp, config};

/// Judges codes against one trust store.
pub(super) struct Jtt1179Codes {
    rules: Rules,
    roots: TrustStore,
    known: Known,
}

impl Jtt1179Codes {
    pub(super) fn new(settings: &config::RideCode, roots: TrustStore) -> Self {
        Self { rules: Rules::new(settings), roots, known: Known::new() }
    }

    /// # Errors
    /// The first refusal that applies.
    pub(super) fn check(&mut self, bytes: Vec<u8>, now: &Stamp) -> Result<VerifiedCode, Refusal> {
        let code = RideCode::parse(&bytes).map_err(|_| Refusal::Format)?;
        let effective_end_utc_s = verify::verify(&code, &self.roots, &self.rules, &mut self.known, now)?;
        let terms =
            Terms { issuer: code.issuer, card: code.card, single_trip_limit_fen: code.single_trip_limit_fen, effective_end_utc_s };
        Ok(VerifiedCode {
            digest: CodeDigest::of(&bytes),
            passenger: passenger(&terms),
            terms: Some(terms),
            entry_refusal: None,
            bytes: CodeBytes(bytes),
        })
    }

    pub(super) fn replace_roots(&mut self, roots: TrustStore) {
        self.roots = roots;
        self.known = Known::new();
    }
}

/// Issuer code ‖ card account number: one issuer's numbers say nothing about another's.
fn passenger(terms: &Terms) -> PassengerId {
    let identity = [terms.issuer.0.as_bytes().as_slice(), terms.card.0.as_bytes()].concat();
    PassengerId::new(&identity, &terms.card.tail())
}

#[cfg(test)]
mod tests;
