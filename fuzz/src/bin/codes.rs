//! Ride codes: no bytes make parsing, checking or explaining panic, the gate and `faregate code show` agree on every one of them, and
//! nothing verifies but what the issuer has made.
//!
//! The first byte says what the rest is: a code as it is; a code whose length fields are put right, so that the search is not for two
//! lengths that agree; or changes of a good code, each a place and a byte.

#![no_main]

use std::{collections::BTreeMap, path::PathBuf, sync::LazyLock, time::Duration};

use faregate::{
    clock::Stamp,
    config::{Format, RideCode as Settings, UnsynchronizedClock},
    issuer::{CodeTerms, Passenger, Root},
    ride_code::{
        Checker,
        jtt1179::{Masking, RideCode, TrustStore, Verdict, decode_capture, explain},
    },
};
use libfuzzer_sys::fuzz_target;

const NOW_S: u32 = 1_795_412_070;
const NOW: Stamp = Stamp { utc_ms: NOW_S as i64 * 1000, boottime_ms: 0, synchronized: true };
const CODE_BYTES_MIN: usize = 332;
const CODE_BYTES_MAX: usize = 364;

/// A gate that trusts one root, and the good codes of a passenger under it.
struct World {
    settings: Settings,
    roots: TrustStore,
    checker: Checker,
    good: Vec<Vec<u8>>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let (root, passenger) = (Root::from_seed(1, 1), Passenger::from_seed(1, 91_237_654_321_001_000_042));
    let issuer = root.certify(1, 3_664_530, 1235);
    let terms = |custom_bytes| CodeTerms { custom: vec![0xc5; custom_bytes], ..CodeTerms::at(NOW_S) };
    let settings = Settings {
        format: Format::Jtt1179 { roots: PathBuf::new() },
        clock_tolerance: Duration::from_secs(10),
        unsynchronized_clock: UnsynchronizedClock::Accept,
        issuer_clock_offset_seconds: BTreeMap::new(),
    };
    let roots = TrustStore::new(&[root.root_key(2035, 12)]).expect("a root of the issuer's own is good");
    World {
        checker: Checker::jtt1179(&settings, roots.clone()),
        good: [0, 7, 32].into_iter().map(|custom_bytes| issuer.issue(&passenger, &terms(custom_bytes))).collect(),
        settings,
        roots,
    }
});

fuzz_target!(|input: &[u8]| {
    let Some((how, rest)) = input.split_first() else { return };
    match how % 3 {
        0 => WORLD.judge(rest),
        1 => WORLD.judge(&with_lengths_that_fit(rest)),
        _ => WORLD.judge(&WORLD.changed(usize::from(how / 3), rest)),
    }
    let _ = decode_capture(rest);
});

impl World {
    fn judge(&self, code: &[u8]) {
        let verdict = self.checker.check(code.to_vec(), &NOW);
        assert_eq!(verdict.is_ok(), self.good.iter().any(|good| good == code), "{verdict:?}");
        let explanation = explain(code, Some(&self.roots), &self.settings, &NOW, Masking::Masked);
        let expected = verdict.map_or_else(Verdict::Refused, |_| Verdict::Good);
        assert_eq!(explanation.verdict, expected, "{explanation}");
        if let Ok(parsed) = RideCode::parse(code) {
            assert_eq!(parsed.signed_by_user().len() + 65, code.len());
            assert_eq!(parsed.authorization().len() + 72, code.len());
        }
    }

    /// A good code with bytes in other places put to other values.
    fn changed(&self, which: usize, changes: &[u8]) -> Vec<u8> {
        let mut code = self.good[which % self.good.len()].clone();
        for change in changes.chunks_exact(3) {
            let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % code.len();
            code[at] = change[2];
        }
        code
    }
}

fn with_lengths_that_fit(bytes: &[u8]) -> Vec<u8> {
    let mut code = bytes.to_vec();
    code.resize(bytes.len().clamp(CODE_BYTES_MIN, CODE_BYTES_MAX), 0);
    let follow = u16::try_from(code.len() - 3).expect("at most 361");
    code[1..3].copy_from_slice(&follow.to_be_bytes());
    code[197] = u8::try_from(code.len() - CODE_BYTES_MIN).expect("at most 32");
    code
}
