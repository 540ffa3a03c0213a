//! What all black-box tests stand on: a gate, a WeChat, and waiting without guessing how long.

// Only the benches need it; they share this folder.
#[allow(dead_code)]
pub(crate) mod backlog;
pub(crate) mod callbacks;
pub(crate) mod gate;
mod http;
#[cfg(feature = "sandbox")]
pub(crate) mod phones;
mod ports;
mod pty;
pub(crate) mod random;
pub(crate) mod tls;
pub(crate) mod wechat;

use std::{
    thread,
    time::{Duration, Instant},
};

pub(crate) use gate::{Cli, Gate};
pub(crate) use random::Random;
pub(crate) use wechat::{Answer, Demand, WeChat};

/// How long anything may take before a test gives up: far more than it takes on a busy machine with two cores.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

const POLL_EVERY: Duration = Duration::from_millis(10);

/// Every key of a row of `queue list --json`.
pub(crate) const QUEUE_KEYS: [&str; 20] = [
    "order",
    "state",
    "kind",
    "reason",
    "flags",
    "gate",
    "lane",
    "passenger",
    "original_fen",
    "total_fen",
    "paid_fen",
    "start_time",
    "end_time",
    "has_start_code",
    "attempts",
    "last_error",
    "created_at",
    "accepted_at",
    "settled_at",
    "transaction_id",
];

/// Asks until the condition holds; false when it does not within `deadline`.
pub(crate) fn holds_within(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(POLL_EVERY);
    }
}

/// Waits for something that concerns no gate; [`Gate::wait`] shows the daemon's log too.
pub(crate) fn wait_until(what: &str, deadline: Duration, condition: impl FnMut() -> bool) {
    assert!(holds_within(deadline, condition), "not within {deadline:?}: {what}");
}

/// A code that no other test and no other call with another number has: printable, so that it fits every framing.
pub(crate) fn code(name: &str, number: usize) -> Vec<u8> {
    format!("{name}-RIDE-CODE-{number:06}").into_bytes()
}

/// The codes of `numbers`.
pub(crate) fn codes(name: &str, numbers: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    numbers.map(|number| code(name, number)).collect()
}
