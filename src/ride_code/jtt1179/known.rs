//! What has been verified lately, so that it is not verified again: issuer certificates, and passengers' authorizations.
//!
//! An entry is named by the SHA-256 of the root key and of every byte that the verification looked at, so one bit more or less is
//! another entry. Only what verified is kept; times are never part of it. Memory is bounded, the least recently used goes first.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::{
    super::Refusal,
    parse::{Certificate, RideCode},
    signature::VerifyKey,
    trust::Root,
    verify,
};

/// Certificates kept at most: a city has a handful of issuers.
const CERTIFICATES_MAX: usize = 64;
/// Authorizations kept at most: those who ride here within some days. About 220 bytes each.
const AUTHORIZATIONS_MAX: usize = 4096;

type Name = [u8; 32];

/// What has been verified lately.
pub(super) struct Known {
    issuers: Recent,
    users: Recent,
}

impl Known {
    pub(super) fn new() -> Self {
        Self { issuers: Recent::new(CERTIFICATES_MAX), users: Recent::new(AUTHORIZATIONS_MAX) }
    }

    /// The passenger's key, once the chain from the root to it has been verified, now or lately.
    pub(super) fn user_key(&mut self, root: &Root, code: &RideCode<'_>) -> Result<VerifyKey, Refusal> {
        self.users.get_or(name(root, code.authorization()), || {
            let issuer_key = self.issuers.get_or(name(root, code.certificate.bytes()), || issuer_key(root, &code.certificate))?;
            verify::check_authorization(&issuer_key, code)?;
            VerifyKey::from_point(&code.user_key).ok_or(Refusal::UserSignature)
        })
    }
}

fn issuer_key(root: &Root, certificate: &Certificate<'_>) -> Result<VerifyKey, Refusal> {
    verify::check_certificate(root, certificate)?;
    VerifyKey::from_point(&certificate.public_key).ok_or(Refusal::IssuerSignature)
}

fn name(root: &Root, bytes: &[u8]) -> Name {
    Sha256::new_with_prefix(root.point).chain_update(bytes).finalize().into()
}

/// Two generations of entries: when the young one is full it becomes the old one, and the old one goes. What is used again moves
/// to the young one, so it stays.
struct Recent {
    young: HashMap<Name, VerifyKey>,
    old: HashMap<Name, VerifyKey>,
    generation_max: usize,
}

impl Recent {
    fn new(entries_max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), generation_max: entries_max / 2 }
    }

    fn get_or(&mut self, name: Name, verified: impl FnOnce() -> Result<VerifyKey, Refusal>) -> Result<VerifyKey, Refusal> {
        if let Some(key) = self.young.get(&name) {
            return Ok(*key);
        }
        let key = self.old.remove(&name).map_or_else(verified, Ok)?;
        if self.young.len() >= self.generation_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name, key);
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::Root as Signer;

    fn a_key() -> VerifyKey {
        VerifyKey::from_point(&Signer::from_seed(1, 1).root_key(2035, 12).public_key).unwrap()
    }

    fn number(number: u16) -> Name {
        let mut name = [0; 32];
        name[..2].copy_from_slice(&number.to_be_bytes());
        name
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let (key, mut recent) = (a_key(), Recent::new(8));
        for stranger in 1..100 {
            assert!(recent.get_or(number(stranger), || Ok(key)).is_ok());
            let regular = recent.get_or(number(0), || if stranger == 1 { Ok(key) } else { Err(Refusal::UserSignature) });
            assert!(regular.is_ok(), "forgotten after {stranger}");
            assert!(recent.young.len() + recent.old.len() <= 8);
        }
        assert!(recent.get_or(number(1), || Err(Refusal::Expired)).is_err());
    }

    #[test]
    fn what_did_not_verify_is_not_kept() {
        let mut recent = Recent::new(8);
        assert!(recent.get_or(number(1), || Err(Refusal::IssuerSignature)).is_err());
        assert!(recent.get_or(number(1), || Err(Refusal::UserSignature)).is_err());
        assert!(recent.young.is_empty());
    }
}
