//! A ride code with its root and its time, for measurements: nobody's key, and no gate trusts its root.

use data_encoding::HEXLOWER;

use super::{TrustError, TrustStore};
use crate::{clock::Stamp, config};

/// Made by `issuer` from seeds; a test holds it against that.
const CODE: &str = include_str!("sample-code.hex");
const ROOT_KEY: &str = include_str!("sample-root.hex");
const ROOT_INDEX: u8 = 1;
/// 2026-01-01T00:00:00Z.
const MADE_UTC_S: i64 = 1_767_225_600;

/// See the head of this file.
#[derive(Debug, Clone)]
pub struct Sample {
    code: Vec<u8>,
    root: config::Root,
}

impl Sample {
    /// The one sample.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let bytes = |text: &str| HEXLOWER.decode(text.trim_end().as_bytes()).unwrap_or_default();
        let mut public_key = [0; 65];
        for (to, from) in public_key.iter_mut().zip(bytes(ROOT_KEY)) {
            *to = from;
        }
        let root = config::Root { index: ROOT_INDEX, public_key, expires_year: 2099, expires_month: 12 };
        Self { code: bytes(CODE), root }
    }

    /// Its bytes.
    #[must_use]
    pub fn code(&self) -> Vec<u8> {
        self.code.clone()
    }

    /// A trust store with its root alone.
    ///
    /// # Errors
    /// The sample is damaged, which a test rules out.
    pub fn roots(&self) -> Result<TrustStore, TrustError> {
        TrustStore::new(std::slice::from_ref(&self.root))
    }

    /// A time at which it is good.
    #[must_use]
    pub fn at(&self) -> Stamp {
        Stamp { utc_ms: MADE_UTC_S * 1000, boottime_ms: 0, synchronized: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::{CodeTerms, Passenger, Root};

    #[test]
    fn the_sample_is_what_its_seeds_make_of_it() {
        let root = Root::from_seed(1, ROOT_INDEX);
        let terms = CodeTerms::at(MADE_UTC_S.try_into().unwrap());
        let code = root.certify(1, 3_664_530, 1299).issue(&Passenger::from_seed(1, 1), &terms);
        let key = root.root_key(2099, 12).public_key;
        assert_eq!((HEXLOWER.encode(&code), HEXLOWER.encode(&key)), (CODE.trim_end().to_owned(), ROOT_KEY.trim_end().to_owned()));
    }

    #[test]
    fn the_sample_is_a_good_code_at_its_time() {
        let sample = Sample::new();
        let settings = config::RideCode {
            format: config::Format::Jtt1179 { roots: std::path::PathBuf::new() },
            clock_tolerance: std::time::Duration::ZERO,
            unsynchronized_clock: config::UnsynchronizedClock::Accept,
            issuer_clock_offset_seconds: std::collections::BTreeMap::new(),
        };
        let checker = crate::ride_code::Checker::jtt1179(&settings, sample.roots().unwrap());
        checker.check(sample.code(), &sample.at()).unwrap();
    }
}
