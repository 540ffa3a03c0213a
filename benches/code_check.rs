//! What the check of one ride code costs, beside the 300 ms that a scan may take: `cargo bench --bench code_check`.
//!
//! Cold: nothing is known, three signatures. Known issuer: two. Known passenger: one, which is the rule at a gate. For this machine,
//! and for one 15 times slower.

// A bench is a program of its own; it ends where something fails.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use faregate::{
    clock::Stamp,
    config::{self, UnsynchronizedClock},
    issuer::{CodeTerms, Passenger, Root},
    ride_code::{Checker, jtt1179::TrustStore},
};

/// Below the number of passengers that are remembered.
const SAMPLES: u64 = 2000;
const SLOWER: f64 = 15.0;
const ALLOWED_MS: f64 = 300.0;

fn main() {
    let (now, root) = (Stamp::now(), Root::from_seed(1, 1));
    let issuer = root.certify(1, 3_664_530, 1299);
    let terms = CodeTerms::at((now.utc_ms / 1000).try_into().unwrap());
    let codes: Vec<_> = (0..SAMPLES).map(|who| issuer.issue(&Passenger::from_seed(who, who.into()), &terms)).collect();
    let checker = || Checker::jtt1179(&settings(), TrustStore::new(&[root.root_key(2099, 12)]).unwrap());
    let warm = checker();
    warm.check(issuer.issue(&Passenger::from_seed(SAMPLES, 0), &terms), &now).unwrap();
    println!("{:<18}{:>12}{:>12}{:>16}{:>16}", "", "p50 ms", "p99 ms", "p99 ms x 15", "of 300 ms");
    show("cold", codes.iter().map(|code| time(&checker(), code, &now)).collect());
    show("known issuer", codes.iter().map(|code| time(&warm, code, &now)).collect());
    show("known passenger", codes.iter().map(|code| time(&warm, code, &now)).collect());
}

fn time(checker: &Checker, code: &[u8], now: &Stamp) -> Duration {
    let bytes = code.to_vec();
    let began = Instant::now();
    let verdict = checker.check(bytes, now);
    let took = began.elapsed();
    assert!(verdict.is_ok());
    took
}

fn show(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let ms = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e3;
    let slow_ms = ms(99) * SLOWER;
    println!("{name:<18}{:>12.3}{:>12.3}{slow_ms:>16.2}{:>14.1} %", ms(50), ms(99), 100.0 * slow_ms / ALLOWED_MS);
}

/// The defaults.
fn settings() -> config::RideCode {
    config::RideCode {
        format: config::Format::Jtt1179 { roots: PathBuf::new() },
        clock_tolerance: Duration::from_secs(10),
        unsynchronized_clock: UnsynchronizedClock::Accept,
        issuer_clock_offset_seconds: BTreeMap::new(),
    }
}
