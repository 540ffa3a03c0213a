//! The clocks and the random source of a simulated machine: one for each thread, under the test's command.
//!
//! What runs elsewhere knows nothing of it: a thread that has none reads the real clocks.

use std::cell::RefCell;

use tokio::time::Instant;

use super::Stamp;
use crate::sandbox::Random;

thread_local! {
    static MACHINE: RefCell<Option<Machine>> = const { RefCell::new(None) };
}

/// A machine's clocks.
#[derive(Debug, Clone)]
struct Machine {
    booted_at: Instant,
    boot: u64,
    /// What the real-time clock shows beyond the time since boot, milliseconds.
    utc_ahead_ms: i64,
    is_synchronized: bool,
    random: Random,
}

/// Gives this thread a machine that boots now, at this UTC time; its random source begins at `seed`.
pub(crate) fn install(seed: u64, utc_ms: i64) {
    let machine =
        Machine { booted_at: Instant::now(), boot: 0, utc_ahead_ms: utc_ms, is_synchronized: true, random: Random::new(seed) };
    MACHINE.set(Some(machine));
}

/// Takes this thread's machine away.
pub(crate) fn remove() {
    MACHINE.set(None);
}

/// The machine boots anew, with its real-time clock at `utc_ms` and not synchronized.
pub(crate) fn reboot(utc_ms: i64) {
    with(|machine| {
        (machine.booted_at, machine.boot) = (Instant::now(), machine.boot + 1);
        (machine.utc_ahead_ms, machine.is_synchronized) = (utc_ms, false);
    });
}

/// Sets the real-time clock, and whether it is held to be synchronized.
pub(crate) fn set_utc(utc_ms: i64, is_synchronized: bool) {
    with(|machine| {
        machine.utc_ahead_ms = utc_ms - since_boot_ms(machine);
        machine.is_synchronized = is_synchronized;
    });
}

/// The clocks of this thread's machine, if it has one.
pub(super) fn stamp() -> Option<Stamp> {
    with(|machine| {
        let boottime_ms = since_boot_ms(machine);
        Stamp { utc_ms: boottime_ms + machine.utc_ahead_ms, boottime_ms, synchronized: machine.is_synchronized }
    })
}

/// The identity of the machine's boot, if this thread has one.
pub(super) fn boot_id() -> Option<String> {
    with(|machine| format!("{:032x}", machine.boot + 1))
}

/// Random bytes that follow from the seed alone; `false` on a thread without a machine.
pub(crate) fn fill_random(bytes: &mut [u8]) -> bool {
    let filled = with(|machine| bytes.fill_with(|| machine.random.next().to_le_bytes()[0]));
    filled.is_some()
}

/// Whether this thread has a machine.
pub(crate) fn is_installed() -> bool {
    with(|_| ()).is_some()
}

fn with<T>(work: impl FnOnce(&mut Machine) -> T) -> Option<T> {
    MACHINE.with_borrow_mut(|machine| machine.as_mut().map(work))
}

fn since_boot_ms(machine: &Machine) -> i64 {
    i64::try_from(machine.booted_at.elapsed().as_millis()).unwrap_or(i64::MAX)
}
