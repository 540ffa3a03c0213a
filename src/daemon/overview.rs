//! What the monitor tells of the whole gate, gathered from the rooms that know.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::{
    clock::{is_synchronized, watcher_trouble},
    journal::DroppedRecords,
    ledger::{Health, NetworkLedger, Totals},
    monitor::{
        ClockStatus, Facts, LaneFacts, LaneMetrics, LaneStatus, Metrics, QueueAnswer, QueueStatus, ScannerState, Source,
        TurnstileState, UploadState, UploadStatus,
    },
    scanner::ScannerStats,
    settlement::SettlementMonitor,
    turnstile::{self, LaneHandle},
    upload::{self, UploadMonitor},
};

/// Where one lane's state is read.
pub(super) struct LaneView {
    pub(super) name: String,
    pub(super) scanner: Arc<ScannerStats>,
    pub(super) turnstile: LaneHandle,
    pub(super) metrics: LaneMetrics,
    /// Set while the passage sensor is doubted, where there is one.
    pub(super) is_passage_doubted: Option<Arc<AtomicBool>>,
}

/// Where everything is read.
pub(super) struct Overview {
    pub(super) lanes: Vec<LaneView>,
    pub(super) ledger: NetworkLedger,
    pub(super) upload: Arc<UploadMonitor>,
    pub(super) settlement: Arc<SettlementMonitor>,
    pub(super) metrics: Metrics,
    pub(super) log: DroppedRecords,
    /// What is to be done about logs of the ledger that were found damaged at this start or one before.
    pub(super) damaged_logs: Vec<String>,
}

impl Source for Overview {
    fn facts(&self) -> Facts {
        let health = self.ledger.health().borrow().clone();
        let upload = self.upload.status();
        for (class, count) in self.upload.attempts().iter() {
            self.metrics.upload_attempts(class, count);
        }
        let mut alarms = Vec::new();
        if let Health::Down { reason } = &health {
            alarms.push(format!("no code can be admitted: {reason}"));
        }
        let ledger_up = health == Health::Up;
        let lanes = self.lanes.iter().map(|lane| lane.facts(ledger_up, &mut alarms)).collect();
        if upload.alarm {
            let failures = upload.failures_in_a_row;
            let reason =
                upload.reason.clone().unwrap_or_else(|| format!("{failures} sends in a row have failed; look at the queue"));
            alarms.push(format!("upload: {reason}"));
        }
        if upload.alone > 0 {
            alarms.push(format!(
                "upload: deductions that get no answer about themselves while others are taken: {}; look at `faregate queue list --state pending`",
                upload.alone
            ));
        }
        alarms.extend(self.damaged_logs.iter().cloned());
        alarms.extend(self.settlement.alarm());
        alarms.extend(self.ledger.alarms().borrow().iter().map(ToString::to_string));
        let clock = ClockStatus { synchronized: is_synchronized() };
        alarms.extend(watcher_trouble().map(str::to_owned));
        Facts { lanes, upload: shown(upload), clock, ledger_up, log_records_dropped: self.log.total(), alarms }
    }

    fn queue(&self) -> QueueAnswer {
        let ledger = self.ledger.clone();
        Box::pin(async move { ledger.totals().await.ok().map(|totals| queue_status(&totals)) })
    }
}

impl LaneView {
    fn facts(&self, ledger_up: bool, alarms: &mut Vec<String>) -> LaneFacts {
        let name = &self.name;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let scanner = &self.scanner;
        self.metrics.scanner(
            count(&scanner.frames),
            count(&scanner.undecodable),
            count(&scanner.dropped_bytes),
            count(&scanner.reopens),
        );
        let is_scanner_up = self.scanner.up.load(Ordering::Relaxed);
        if !is_scanner_up {
            alarms.push(format!("lane {name}: the scanner is absent; look at its plug and at [lane.scanner] device"));
        }
        let turnstile = match self.turnstile.state() {
            turnstile::TurnstileState::Ok => TurnstileState::Ok,
            turnstile::TurnstileState::AlarmOpen => {
                alarms.push(format!("lane {name}: held open by the fire alarm"));
                TurnstileState::AlarmOpen
            }
            turnstile::TurnstileState::Failed => {
                alarms.push(format!("lane {name}: the turnstile does not obey; look at its wiring and at the log"));
                TurnstileState::Failed
            }
        };
        if self.is_passage_doubted.as_ref().is_some_and(|doubted| doubted.load(Ordering::Relaxed)) {
            alarms.push(format!(
                "lane {name}: passage-sensor: many openings in a row without a passage; openings are charged all the same, look at the sensor"
            ));
        }
        alarms.extend(self.turnstile.input_faults().map(|fault| format!("lane {name}: {fault}")));
        let scanner = if is_scanner_up { ScannerState::Up } else { ScannerState::Absent };
        let ready = ledger_up && is_scanner_up && turnstile != TurnstileState::Failed;
        LaneFacts { status: LaneStatus { name: name.clone(), scanner, turnstile }, ready }
    }
}

fn queue_status(totals: &Totals) -> QueueStatus {
    let [held, pending, accepted, paid, unpaid, parked, void] = totals.deductions;
    let oldest_pending_s = totals.oldest_pending.map(|recorded| u64::try_from(recorded.age_ms / 1000).unwrap_or(0));
    QueueStatus {
        held,
        pending,
        accepted,
        paid,
        unpaid,
        parked,
        void,
        oldest_pending_s,
        pending_fen: totals.pending_fen,
        at_risk_fen: totals.at_risk_fen,
    }
}

fn shown(status: upload::UploadStatus) -> UploadStatus {
    let state = match status.state {
        upload::UploadState::Idle => UploadState::Idle,
        upload::UploadState::Sending => UploadState::Sending,
        upload::UploadState::Waiting => UploadState::Waiting,
        upload::UploadState::Paused => UploadState::Paused,
    };
    UploadStatus { state, reason: status.reason }
}
