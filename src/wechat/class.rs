//! What an `errcode` means: the one place that knows WeChat's error codes (`facts`: WeChat, section 3).
//!
//! The documented codes are a table here; `wechat.errcodes` adds those that onboarding brings and may say otherwise about any
//! code but 0. A code that neither knows is [`Class::Unknown`], never guessed.

use std::{collections::BTreeMap, time::Duration};

use crate::config::ErrorClass;

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

/// How long the whole queue pauses after a code of class [`Class::SlowDown`] that came at `utc_ms`: the daily quota (45009) until
/// 00:00 in Beijing, any other 60 s.
#[must_use]
pub fn slow_down_pause(errcode: i64, utc_ms: i64) -> Duration {
    if errcode == DAILY_QUOTA { until_beijing_midnight(utc_ms) } else { PER_MINUTE_PAUSE }
}

const DAILY_QUOTA: i64 = 45009;
const PER_MINUTE_PAUSE: Duration = Duration::from_secs(60);
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
    fn the_daily_quota_pauses_until_midnight_in_beijing_and_the_rest_a_minute() {
        // 2026-11-23T05:34:30.123Z is 13:34:30.123 in Beijing.
        assert_eq!(slow_down_pause(45009, 1_795_412_070_123), Duration::from_millis(37_529_877));
        let midnight_utc_ms = 1_795_412_070_123 + 37_529_877;
        assert_eq!(slow_down_pause(45009, midnight_utc_ms), Duration::from_secs(86_400));
        assert_eq!(slow_down_pause(45009, midnight_utc_ms - 1), Duration::from_millis(1));
        assert_eq!(slow_down_pause(45011, midnight_utc_ms - 1), Duration::from_secs(60));
    }
}
