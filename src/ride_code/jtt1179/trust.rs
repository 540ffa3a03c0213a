//! The root keys that a gate trusts.
//!
//! A [`TrustStore`] that exists holds at least one key, and every key in it is a point of the curve: a bad file is an error when
//! it is loaded, never a refused passenger later.

use std::{collections::BTreeMap, path::Path};

use super::{parse::Month, signature::VerifyKey};
use crate::config;

/// The root keys that a gate trusts, by index.
#[derive(Clone)]
pub struct TrustStore {
    roots: BTreeMap<u8, Root>,
}

impl TrustStore {
    /// # Errors
    /// No key, two keys under one index, a key that is not on the curve, or an expiry that is no month.
    pub fn new(keys: &[config::Root]) -> Result<Self, TrustError> {
        let mut roots = BTreeMap::new();
        for key in keys {
            if roots.insert(key.index, Root::new(key)?).is_some() {
                return Err(TrustError::Twice { index: key.index });
            }
        }
        if roots.is_empty() { Err(TrustError::Empty) } else { Ok(Self { roots }) }
    }

    /// Reads `roots.toml`.
    ///
    /// # Errors
    /// Everything that is wrong with the file, or with a key in it.
    pub fn read(path: &Path) -> Result<Self, RootsError> {
        let keys = config::read_roots(path)
            .map_err(|findings| RootsError { messages: findings.iter().map(ToString::to_string).collect() })?;
        Self::new(&keys).map_err(|error| RootsError { messages: vec![format!("{}: error: {error}", path.display())] })
    }

    /// Every index, lowest first, with the last month (year, month) in which its key is valid.
    pub fn expiries(&self) -> impl Iterator<Item = (u8, (u16, u8))> {
        self.roots.iter().map(|(index, root)| (*index, (root.expires.year, root.expires.month)))
    }

    pub(super) fn root(&self, index: u8) -> Option<&Root> {
        self.roots.get(&index)
    }
}

/// What is wrong with a file of root keys: a sentence each, with file and line where there is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", messages.join("; "))]
pub struct RootsError {
    /// At least one.
    pub messages: Vec<String>,
}

/// Why root keys cannot be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// There is no key.
    #[error("there is no root key, so every code would be refused; add a [[root]]")]
    Empty,
    /// An index is there twice.
    #[error("there are two root keys with index {index}; remove one")]
    Twice {
        /// Which.
        index: u8,
    },
    /// The key is no point of the curve.
    #[error("the public key of root {index} is not on the SM2 curve; copy it again from the issuer's papers")]
    NotOnCurve {
        /// Which.
        index: u8,
    },
    /// The expiry is no month.
    #[error("root {index} expires in a month that does not exist; write it as \"2030-12\"")]
    Expiry {
        /// Which.
        index: u8,
    },
}

/// A root key that is on the curve.
#[derive(Clone)]
pub(super) struct Root {
    pub(super) key: VerifyKey,
    /// The key again, as it came: part of the name of whatever was verified with it.
    pub(super) point: [u8; 65],
    pub(super) expires: Month,
}

impl Root {
    fn new(key: &config::Root) -> Result<Self, TrustError> {
        Ok(Self {
            key: VerifyKey::from_point(&key.public_key).ok_or(TrustError::NotOnCurve { index: key.index })?,
            point: key.public_key,
            expires: Month::new(key.expires_year, key.expires_month).ok_or(TrustError::Expiry { index: key.index })?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::Root as Signer;

    fn key(index: u8) -> config::Root {
        Signer::from_seed(1, index).root_key(2035, 12)
    }

    fn error(keys: &[config::Root]) -> TrustError {
        TrustStore::new(keys).err().unwrap()
    }

    #[test]
    fn several_roots_stand_side_by_side() {
        let store = TrustStore::new(&[key(2), key(1)]).unwrap();
        assert_eq!(store.expiries().collect::<Vec<_>>(), [(1, (2035, 12)), (2, (2035, 12))]);
        assert!(store.root(3).is_none());
    }

    #[test]
    fn keys_that_cannot_be_trusted_are_an_error_when_loaded() {
        let mut off_curve = key(7);
        off_curve.public_key[64] ^= 1;
        assert_eq!(error(&[key(1), off_curve]), TrustError::NotOnCurve { index: 7 });
        assert_eq!(error(&[config::Root { public_key: [0; 65], ..key(7) }]), TrustError::NotOnCurve { index: 7 });
        assert_eq!(error(&[config::Root { expires_month: 13, ..key(7) }]), TrustError::Expiry { index: 7 });
        assert_eq!(error(&[key(1), key(1)]), TrustError::Twice { index: 1 });
        assert_eq!(error(&[]), TrustError::Empty);
    }
}
