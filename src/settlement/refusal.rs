//! Why callbacks are refused: told to people, by counters and now and then by the log, never to whoever called.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    clock::monotonic_now,
    monitor::{Metrics, Turned},
    wechat::NotOpened,
};

/// The log tells of each cause once in this time, whoever calls however often.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Why a callback was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Cause {
    /// Nothing is taken at this path.
    Path,
    /// Only POST is taken.
    Method,
    /// Longer than a callback.
    TooLarge,
    /// It took longer than it may.
    TooSlow,
    /// All places were taken.
    TooMany,
    /// No HTTP, or cut.
    Unreadable,
    /// The envelope.
    NotOpened(NotOpened),
    /// What is in the envelope.
    Content,
    /// For an order of another gate.
    UnknownOrder,
    /// It could not be made durable.
    Ledger,
}

impl Cause {
    pub(super) const ALL: [Self; 14] = [
        Self::Path,
        Self::Method,
        Self::TooLarge,
        Self::TooSlow,
        Self::TooMany,
        Self::Unreadable,
        Self::NotOpened(NotOpened::Envelope),
        Self::NotOpened(NotOpened::AppId),
        Self::NotOpened(NotOpened::Merchant),
        Self::NotOpened(NotOpened::Sign),
        Self::NotOpened(NotOpened::Cipher),
        Self::Content,
        Self::UnknownOrder,
        Self::Ledger,
    ];

    /// The label of its counter.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Method => "method",
            Self::TooLarge => "too-large",
            Self::TooSlow => "too-slow",
            Self::TooMany => "too-many",
            Self::Unreadable => "unreadable",
            Self::NotOpened(why) => why.as_str(),
            Self::Content => "content",
            Self::UnknownOrder => "unknown-order",
            Self::Ledger => "ledger",
        }
    }

    /// What happened and what to do, for the log.
    fn sentence(self) -> &'static str {
        match self {
            Self::Path => "nothing is taken at its path; compare the paths in [callback] with those at WeChat",
            Self::Method => "it was no POST",
            Self::TooLarge => "it was longer than 64 KiB",
            Self::TooSlow => "it took longer than 5 s to come",
            Self::TooMany => "64 others were being taken; look at who calls",
            Self::Unreadable => "it was no HTTP, or was cut",
            Self::NotOpened(NotOpened::Envelope) => "it was no envelope of WeChat's",
            Self::NotOpened(NotOpened::AppId) => "it was for another appid; compare [wechat] appid",
            Self::NotOpened(NotOpened::Merchant) => "it was for another merchant; compare [wechat] mch_id",
            Self::NotOpened(NotOpened::Sign) => {
                "its signature is wrong; compare [callback] sign, sign_fields and the key with those at WeChat"
            }
            Self::NotOpened(NotOpened::Cipher) => "it cannot be decrypted; compare the AES key with that at WeChat",
            Self::Content => "its content is not what WeChat documents",
            Self::UnknownOrder => "its order is not in this ledger",
            Self::Ledger => "the ledger did not take it",
        }
    }
}

impl From<Turned> for Cause {
    fn from(why: Turned) -> Self {
        match why {
            Turned::TooMany => Self::TooMany,
            Turned::TooSlow => Self::TooSlow,
            Turned::Unreadable => Self::Unreadable,
        }
    }
}

/// Counts refusals, and tells the log now and then.
pub(super) struct Refusals {
    metrics: Metrics,
    told_at: Mutex<HashMap<Cause, Instant>>,
}

impl Refusals {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics, told_at: Mutex::default() }
    }

    pub(super) fn note(&self, cause: Cause) {
        self.metrics.callback_refused(cause.as_str());
        if self.is_time_to_tell(cause) {
            log::warn!("a callback was refused: {}", cause.sentence());
        }
    }

    /// A callback was taken although its order is unknown; such ones are never refused, so the cause is free to stand for them.
    pub(super) fn tell_of_unknown(&self) {
        if self.is_time_to_tell(Cause::UnknownOrder) {
            log::warn!(
                "a callback was for an order that is not in this ledger; it is kept as evidence in the table unknown_callback"
            );
        }
    }

    fn is_time_to_tell(&self, cause: Cause) -> bool {
        let mut told_at = self.told_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = told_at.get(&cause).is_none_or(|at| monotonic_now() >= *at + TELL_EVERY);
        if is_time {
            told_at.insert(cause, monotonic_now());
        }
        is_time
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_cause_has_a_word_and_a_sentence_of_its_own() {
        let words: HashSet<_> = Cause::ALL.map(Cause::as_str).into();
        let sentences: HashSet<_> = Cause::ALL.map(Cause::sentence).into();
        assert_eq!((words.len(), sentences.len()), (Cause::ALL.len(), Cause::ALL.len()));
    }
}
