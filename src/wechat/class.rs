//! What an `errcode` means: the one place that knows WeChat's error codes (`facts`: WeChat, section 3).
//!
//! The documented codes are a table here; `wechat.errcodes` adds those that onboarding brings and may say otherwise about any
//! code but 0. A code that neither knows is [`Class::Unknown`], never guessed.

use std::{collections::BTreeMap, time::Duration};

use crate::{clock::Stamp, config::ErrorClass};

/// What an answer means for the row and for the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Taken; not yet paid.
    Accepted,
    /// The token is no longer good.
    Token,
    /// A fault that passes.
    Transient,
    /// Too many requests.
    SlowDown,
    /// Somebody must set something right at WeChat's side or here.
    Operator,
    /// This row can never succeed.
    Park,
    /// Nobody has said what this code means.
    Unknown,
}

impl From<ErrorClass> for Class {
    fn from(class: ErrorClass) -> Self {
        match class {
            ErrorClass::Accepted => Self::Accepted,
            ErrorClass::Token => Self::Token,
            ErrorClass::Transient => Self::Transient,
            ErrorClass::SlowDown => Self::SlowDown,
            ErrorClass::Operator => Self::Operator,
            ErrorClass::Park => Self::Park,
        }
    }
}

/// The documented codes together with those of the settings.
#[derive(Debug, Clone, Default)]
pub struct Classes {
    configured: BTreeMap<i64, ErrorClass>,
}

impl Classes {
    /// `configured`: `wechat.errcodes`.
    #[must_use]
    pub fn new(configured: &BTreeMap<i64, ErrorClass>) -> Self {
        Self { configured: configured.clone() }
    }

    /// The class of an `errcode`. 0 is accepted whatever the settings say.
    #[must_use]
    pub fn classify(&self, errcode: i64) -> Class {
        match self.configured.get(&errcode) {
            Some(class) if errcode != 0 => (*class).into(),
            _ => documented(errcode),
        }
    }
}

/// How long the whole queue pauses after a code of class [`Class::SlowDown`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// Too many requests at once.
    Rate(Duration),
    /// The quota of the day is used up (45009).
    DailyQuota(Duration),
}

/// The pause after `errcode`, which came at `at`: 60 s, but for the daily quota until 00:00 in Beijing and a margin, because the
/// clocks of gate and WeChat differ and all gates of an appid wait for the same moment. Where the quota may have been renewed
/// already and only the clocks say otherwise (shortly after midnight, or not synchronized), the margin alone.
/// `draw`: any number, better a different one on each gate.
#[must_use]
pub fn slow_down_pause(errcode: i64, at: &Stamp, draw: u32) -> Pause {
    if errcode != DAILY_QUOTA {
        return Pause::Rate(PER_MINUTE_PAUSE);
    }
    let (margin, until_midnight) = (quota_margin(draw), until_beijing_midnight(at.utc_ms));
    let is_unsure = !at.synchronized || DAY.saturating_sub(until_midnight) < CLOCKS_DIFFER_MAX;
    Pause::DailyQuota(if is_unsure { margin } else { until_midnight + margin })
}

fn quota_margin(draw: u32) -> Duration {
    let span_ms = QUOTA_MARGIN_MAX.saturating_sub(QUOTA_MARGIN_MIN).as_millis();
    QUOTA_MARGIN_MIN + Duration::from_millis(u64::try_from(u128::from(draw) % span_ms).unwrap_or_default())
}

const DAILY_QUOTA: i64 = 45009;
const PER_MINUTE_PAUSE: Duration = Duration::from_secs(60);
const QUOTA_MARGIN_MIN: Duration = Duration::from_secs(60);
const QUOTA_MARGIN_MAX: Duration = Duration::from_secs(5 * 60);
/// A clock that is this far ahead of WeChat's costs minutes, not a day.
const CLOCKS_DIFFER_MAX: Duration = Duration::from_secs(15 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const BEIJING_OFFSET_MS: i64 = 8 * 60 * 60 * 1000;

fn documented(errcode: i64) -> Class {
    match errcode {
        0 => Class::Accepted,
        40001 | 40014 | 41001 | 42001 => Class::Token,
        -1 => Class::Transient,
        DAILY_QUOTA | 45011 => Class::SlowDown,
        40013 | 40066 | 40125 | 40164 | 40243 | 43002 | 43003 | 45035 | 48001 | 48004 | 61004 | 89503 => Class::Operator,
        40003 | 44002 | 45002 | 47001 | 50001 | 50002 => Class::Park,
        _ => Class::Unknown,
    }
}

fn until_beijing_midnight(utc_ms: i64) -> Duration {
    let since_midnight_ms = utc_ms.saturating_add(BEIJING_OFFSET_MS).rem_euclid(DAY_MS);
    Duration::from_millis((DAY_MS - since_midnight_ms).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_code_has_its_class() {
        let table: [(Class, &[i64]); 7] = [
            (Class::Accepted, &[0]),
            (Class::Token, &[40001, 40014, 41001, 42001]),
            (Class::Transient, &[-1]),
            (Class::SlowDown, &[45009, 45011]),
            (Class::Operator, &[40013, 40066, 40125, 40164, 40243, 43002, 43003, 45035, 48001, 48004, 61004, 89503]),
            (Class::Park, &[40003, 44002, 45002, 47001, 50001, 50002]),
            (Class::Unknown, &[1, -2, 40002, 61010, 99999, i64::MAX, i64::MIN]),
        ];
        for (class, codes) in table {
            for code in codes {
                assert_eq!(Classes::default().classify(*code), class, "errcode {code}");
            }
        }
    }

    #[test]
    fn the_settings_add_codes_and_overrule_documented_ones_but_never_0() {
        let configured = BTreeMap::from([(61010, ErrorClass::Park), (-1, ErrorClass::Operator), (0, ErrorClass::Park)]);
        let classes = Classes::new(&configured);
        assert_eq!(classes.classify(61010), Class::Park);
        assert_eq!(classes.classify(-1), Class::Operator);
        assert_eq!(classes.classify(0), Class::Accepted);
        assert_eq!(classes.classify(61011), Class::Unknown);
    }

    #[test]
    fn the_daily_quota_pauses_until_shortly_after_midnight_in_beijing_and_the_rest_a_minute() {
        // 2026-11-23T05:34:30.123Z is 13:34:30.123 in Beijing.
        let (noon_utc_ms, to_midnight) = (1_795_412_070_123, Duration::from_millis(37_529_877));
        let midnight_utc_ms = noon_utc_ms + 37_529_877;
        for draw in [0, 1, 239_999, 240_000, u32::MAX] {
            let pause = |utc_ms| match slow_down_pause(45009, &stamp(utc_ms, true), draw) {
                Pause::DailyQuota(pause) => pause,
                Pause::Rate(pause) => panic!("{pause:?}"),
            };
            let minutes = Duration::from_secs(60)..=Duration::from_secs(300);
            assert!(minutes.contains(&pause(noon_utc_ms).saturating_sub(to_midnight)));
            assert!(minutes.contains(&pause(midnight_utc_ms - 1).saturating_sub(Duration::from_millis(1))));
            assert!(minutes.contains(&pause(midnight_utc_ms)), "a clock that is ahead costs minutes, not a day");
            assert!(minutes.contains(&pause(midnight_utc_ms + 14 * 60_000)));
            assert!(pause(midnight_utc_ms + 15 * 60_000) > Duration::from_secs(23 * 3600));
        }
        assert_eq!(slow_down_pause(45011, &stamp(midnight_utc_ms, true), 7), Pause::Rate(Duration::from_secs(60)));
    }

    #[test]
    fn a_clock_that_is_not_synchronized_does_not_say_when_midnight_is() {
        let Pause::DailyQuota(pause) = slow_down_pause(45009, &stamp(0, false), 0) else { panic!("the daily quota") };
        assert_eq!(pause, Duration::from_secs(60));
    }

    #[test]
    fn gates_that_share_a_quota_do_not_come_back_together() {
        let pauses: std::collections::BTreeSet<_> = (0..100).map(|n: u32| quota_margin(n.wrapping_mul(2_654_435_761))).collect();
        assert!(pauses.len() > 90, "{pauses:?}");
    }

    fn stamp(utc_ms: i64, synchronized: bool) -> Stamp {
        Stamp { utc_ms, boottime_ms: 0, synchronized }
    }
}
