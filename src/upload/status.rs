//! What the uploader shows of itself: its state for people, its counters for machines.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::deduct::Verdict;

/// What the uploader is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UploadState {
    /// Nothing is pending.
    #[default]
    Idle,
    /// Rows are being sent.
    Sending,
    /// Rows wait for a try that is due later: WeChat or the ledger is away, or the rows themselves back off.
    Waiting,
    /// WeChat wants the queue to pause, or a person must act first.
    Paused,
}

impl UploadState {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Sending => "sending",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
        }
    }
}

/// How the upload is doing now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UploadStatus {
    /// What it is doing.
    pub state: UploadState,
    /// Why it waits or pauses: a sentence for people, without secrets.
    pub reason: Option<String>,
    /// Sends since the last one that brought its row to an end.
    pub failures_in_a_row: u32,
    /// Whether a person should look: `alarm_after` failures in a row, or only a person can set it right.
    pub alarm: bool,
    /// Rows that back off alone: again and again they got no answer about themselves while others did.
    pub alone: usize,
}

/// How many sends ended in which way since the program started.
#[derive(Debug, Default)]
pub struct AttemptCounts {
    accepted: AtomicU64,
    parked: AtomicU64,
    unknown: AtomicU64,
    no_answer: AtomicU64,
    slow_down: AtomicU64,
    operator: AtomicU64,
    token: AtomicU64,
}

impl AttemptCounts {
    /// Each way with its count, for metrics.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = [
            ("accepted", &self.accepted),
            ("park", &self.parked),
            ("unknown", &self.unknown),
            ("no-answer", &self.no_answer),
            ("slow-down", &self.slow_down),
            ("operator", &self.operator),
            ("token", &self.token),
        ];
        counts.map(|(class, count)| (class, count.load(Ordering::Relaxed))).into_iter()
    }

    fn count(&self, verdict: &Verdict) {
        let counter = match verdict {
            Verdict::Accepted => &self.accepted,
            Verdict::Park => &self.parked,
            Verdict::Unknown => &self.unknown,
            Verdict::NoAnswer { .. } => &self.no_answer,
            Verdict::SlowDown { .. } | Verdict::DailyQuota { .. } => &self.slow_down,
            Verdict::Operator { .. } => &self.operator,
            Verdict::TokenTrouble { .. } => &self.token,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where the uploader leaves its status and counters, and others read them.
#[derive(Debug, Default)]
pub struct UploadMonitor {
    status: watch::Sender<UploadStatus>,
    attempts: AttemptCounts,
}

impl UploadMonitor {
    /// The status now.
    #[must_use]
    pub fn status(&self) -> UploadStatus {
        self.status.borrow().clone()
    }

    /// Follows the status.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<UploadStatus> {
        self.status.subscribe()
    }

    /// The counters.
    #[must_use]
    pub fn attempts(&self) -> &AttemptCounts {
        &self.attempts
    }

    pub(super) fn show(&self, status: UploadStatus) {
        self.status.send_if_modified(|shown| {
            let is_news = *shown != status;
            *shown = status;
            is_news
        });
    }

    pub(super) fn count(&self, verdict: &Verdict) {
        self.attempts.count(verdict);
    }
}
