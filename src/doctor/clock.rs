//! This machine's clock, and the one that lasts while it is off.

use std::fs;

use super::Look;
use crate::clock::{self, Stamp};

/// Before this there was no such program: 2026-01-01T00:00:00Z, in milliseconds.
const BUILT_UTC_MS: i64 = 1_767_225_600_000;
/// So far the two clocks may be apart.
const APART_S_MAX: i64 = 5;

/// `daemon`: whether the clock is synchronized as far as the running daemon knows, which is confined.
pub(super) fn look(daemon: Option<bool>) -> [Look; 2] {
    let now = Stamp::now();
    let rtc = fs::read_to_string("/sys/class/rtc/rtc0/since_epoch").ok();
    [system(&now, daemon), battery(now.utc_ms / 1000, rtc.as_deref())]
}

fn system(now: &Stamp, daemon: Option<bool>) -> Look {
    let time = clock::rfc3339_ms(now.utc_ms);
    let mend = "set up a time server that the gate reaches: timedatectl; systemctl enable --now systemd-timesyncd";
    if now.utc_ms < BUILT_UTC_MS {
        return Look::bad("clock", format!("{time} is in the past: good codes are refused"), mend);
    }
    match (now.synchronized, daemon) {
        (true, Some(false)) => {
            let mend = "wait for 10 s and look again, then: systemctl status faregate-clock";
            Look::doubtful("clock", format!("{time}, synchronized, but the daemon does not know it"), mend)
        }
        (true, _) => Look::good("clock", format!("{time}, synchronized")),
        (false, _) => Look::doubtful("clock", format!("{time}, not synchronized"), mend),
    }
}

/// `rtc`: what the kernel tells of the real-time clock, seconds since 1970.
fn battery(now_s: i64, rtc: Option<&str>) -> Look {
    let mend = "fit one with a battery: after a power cut without a network codes are judged by it";
    let Some(rtc) = rtc else { return Look::doubtful("rtc", "there is no real-time clock", mend) };
    match rtc.trim().parse::<i64>() {
        Ok(rtc_s) if (rtc_s - now_s).abs() <= APART_S_MAX => Look::good("rtc", "agrees with the clock"),
        Ok(rtc_s) => Look::doubtful(
            "rtc",
            format!("is {} s apart from the clock", (rtc_s - now_s).abs()),
            "once the clock is synchronized: hwclock --systohc; if it comes back, the battery is empty",
        ),
        Err(_) => Look::doubtful("rtc", "the real-time clock cannot be read", mend),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_clock_that_stands_in_the_past_is_an_error_and_one_that_nobody_synchronizes_a_warning() {
        let at = |utc_ms, synchronized| system(&Stamp { utc_ms, boottime_ms: 1, synchronized }, None).verdict;
        assert_eq!(at(0, true), Verdict::Bad);
        assert_eq!(at(BUILT_UTC_MS, false), Verdict::Doubtful);
        assert_eq!(at(BUILT_UTC_MS, true), Verdict::Good);
    }

    #[test]
    fn a_daemon_that_is_not_told_that_the_clock_is_synchronized_is_a_warning() {
        let beside = |daemon| system(&Stamp { utc_ms: BUILT_UTC_MS, boottime_ms: 1, synchronized: true }, daemon);
        assert_eq!(beside(Some(true)).verdict, Verdict::Good);
        let look = beside(Some(false));
        assert!(look.verdict == Verdict::Doubtful && look.mend.contains("faregate-clock"), "{look}");
    }

    #[test]
    fn a_missing_or_disagreeing_real_time_clock_is_a_warning() {
        for (rtc, verdict) in [
            (None, Verdict::Doubtful),
            (Some("1005\n"), Verdict::Good),
            (Some("994"), Verdict::Doubtful),
            (Some("?"), Verdict::Doubtful),
        ] {
            assert_eq!(battery(1000, rtc).verdict, verdict, "{rtc:?}");
        }
    }
}
