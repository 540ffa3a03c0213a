//! The machine's clocks, read in one place.
//!
//! Intervals, pulses and time-outs use [`std::time::Instant`] (monotonic, [`monotonic_now`]). The ledger keeps [`Stamp`]s: UTC for people, and time
//! since boot together with the boot's ID, so that the age of a record survives a clock that jumps from 1970 to now.

#[cfg(test)]
#[cfg(feature = "sandbox")]
pub(crate) mod simulated;
mod sync;
pub mod watch;

use std::{fmt, time::Instant};

use jiff::{Timestamp, tz::Offset};
use rustix::time::{ClockId, clock_gettime};

pub use sync::{is_synchronized, watcher_trouble};

/// A point in time as the ledger keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Milliseconds since 1970-01-01T00:00:00Z by the machine's real-time clock; may be wrong or jump.
    pub utc_ms: i64,
    /// Milliseconds since this boot, suspended time included; never jumps within one boot.
    pub boottime_ms: i64,
    /// Whether the kernel held the real-time clock to be synchronized.
    pub synchronized: bool,
}

impl Stamp {
    /// Reads the clocks now.
    #[must_use]
    pub fn now() -> Self {
        #[cfg(test)]
        #[cfg(feature = "sandbox")]
        if let Some(stamp) = simulated::stamp() {
            return stamp;
        }
        Self { utc_ms: clock_ms(ClockId::Realtime), boottime_ms: clock_ms(ClockId::Boottime), synchronized: is_synchronized() }
    }
}

/// The monotonic clock now. In a test whose runtime has paused its time, that time.
#[must_use]
pub fn monotonic_now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn clock_ms(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    // tv_nsec and tv_sec are narrower than 64 bits on some 32-bit targets.
    #[allow(clippy::useless_conversion)]
    let (seconds, nanoseconds) = (i64::from(time.tv_sec), i64::from(time.tv_nsec));
    seconds * 1000 + nanoseconds / 1_000_000
}

/// The identity of this boot of the machine: `/proc/sys/kernel/random/boot_id`, or `FAREGATE_BOOT_ID` where the service manager
/// hides that file and passes the ID instead. `None` when neither is to be had: then every start counts as a boot of its own.
#[must_use]
pub fn boot_id() -> Option<String> {
    #[cfg(test)]
    #[cfg(feature = "sandbox")]
    if let Some(boot_id) = simulated::boot_id() {
        return Some(boot_id);
    }
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").or_else(|_| std::env::var("FAREGATE_BOOT_ID")).ok()?;
    Some(id.trim().replace('-', "")).filter(|id| !id.is_empty())
}

/// UTC milliseconds as RFC 3339 with milliseconds, `2026-11-23T05:34:30.123Z`.
#[must_use]
pub fn rfc3339_ms(utc_ms: i64) -> String {
    timestamp(utc_ms).map_or_else(|| utc_ms.to_string(), |time| format!("{time:.3}"))
}

/// UTC milliseconds as Beijing time (UTC+8, no daylight saving), `yyyyMMddHHmmss`: the form of every time that WeChat is told.
#[must_use]
pub fn beijing_compact(utc_ms: i64) -> String {
    timestamp(utc_ms)
        .map_or_else(|| utc_ms.to_string(), |time| Offset::constant(8).to_datetime(time).strftime("%Y%m%d%H%M%S").to_string())
}

/// The Beijing day of UTC milliseconds, `2026-11-23`.
#[must_use]
pub fn beijing_day(utc_ms: i64) -> String {
    timestamp(utc_ms)
        .map_or_else(|| utc_ms.to_string(), |time| Offset::constant(8).to_datetime(time).strftime("%Y-%m-%d").to_string())
}

fn timestamp(utc_ms: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(utc_ms).ok()
}

/// The current time as RFC 3339 with microseconds, for traces.
#[must_use]
pub fn rfc3339_us_now() -> impl fmt::Display {
    format!("{:.6}", Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_for_people_are_utc_and_times_for_wechat_are_beijing() {
        let utc_ms = 1_795_412_070_123;
        assert_eq!(rfc3339_ms(utc_ms), "2026-11-23T05:34:30.123Z");
        assert_eq!(beijing_compact(utc_ms), "20261123133430");
        assert_eq!(beijing_compact(0), "19700101080000");
        assert_eq!((beijing_day(1_795_449_599_999), beijing_day(1_795_449_600_000)), ("2026-11-23".into(), "2026-11-24".into()));
    }

    #[test]
    fn time_since_boot_never_runs_backwards() {
        let first = Stamp::now();
        assert!(Stamp::now().boottime_ms >= first.boottime_ms);
    }
}
