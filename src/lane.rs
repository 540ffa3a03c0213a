//! One lane: a reader's codes in, a turnstile's pulses out, and the ledger between them.
//!
//! # Promises
//! - Nothing opens for a code before the ledger has said that its record is durable.
//! - Every opening that was recorded is followed up: it opened, or the record is taken back (`late`, `not-opened`).
//! - A scan is answered one after the other; none waits for the network.
//!
//! This room knows no WeChat: what happens to a deduction after the opening is not its affair.

use std::{
    collections::BTreeMap,
    fmt,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    clock::{Stamp, monotonic_now},
    config::{Mode, NoPassage},
    journey::{Fen, Kind},
    ledger::{
        Admission, Admitted, Denial, GateLedger, GateNote, Health, LedgerError, Opened, OrderNumber, Passage, PassageOutcome,
        RecordId, Tap, Untaken,
    },
    monitor::{LaneMetrics, Opening, PassageResult},
    ride_code::{Checker, CodeDigest, Refusal, VerifiedCode},
    scanner::Reading,
    turnstile::{
        Beeps, Event, Lane as TurnstileLane, Ticket,
        passages::{Finding, Passages, Sensor, UNPASSED_MAX},
    },
};

/// What one lane is built from.
pub struct Lane {
    /// The lane's name.
    pub name: Arc<str>,
    /// The lane's station.
    pub station: Arc<str>,
    /// What a tap means here.
    pub mode: Mode,
    /// Whether passages are waited for.
    pub passage: Option<PassageRule>,
    /// `gate.open_within`.
    pub open_within: Duration,
    /// Judges codes.
    pub checker: Arc<Checker>,
    /// Records them.
    pub ledger: GateLedger,
    /// Opens.
    pub turnstile: TurnstileLane,
    /// From the scanner.
    pub readings: mpsc::Receiver<Reading>,
    /// Counts.
    pub metrics: LaneMetrics,
    /// Asked whether the lane still works.
    pub pings: mpsc::Receiver<Ping>,
}

/// How passages are waited for.
#[derive(Debug, Clone)]
pub struct PassageRule {
    /// How long after the opening's edge.
    pub timeout: Duration,
    /// What it means when nobody passes.
    pub no_passage: NoPassage,
    /// Set while the sensor is doubted; for the monitor.
    pub is_doubted: Arc<AtomicBool>,
}

/// Answered when the lane has come round to it and its turnstile's thread has answered too; not when either is stuck.
pub type Ping = oneshot::Sender<()>;

/// When a scan had come how far.
#[derive(Clone, Copy)]
struct Timeline {
    last_byte: Instant,
    checked: Instant,
    durable: Instant,
}

impl Timeline {
    /// For people: the whole way in milliseconds, and each stage of it.
    fn told(&self, opened_at: Instant) -> String {
        let ms = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
        let Self { last_byte, checked, durable } = *self;
        format!(
            "{:.2} ms after the last byte: code checked {:.2}, record durable {:.2}, turnstile open {:.2}",
            ms(last_byte, opened_at),
            ms(last_byte, checked),
            ms(checked, durable),
            ms(durable, opened_at),
        )
    }
}

/// A record whose turnstile has not answered.
struct Promised {
    record: RecordId,
    timeline: Timeline,
    digest: CodeDigest,
    told: Told,
}

/// What the log says of an admission.
enum Told {
    Charged { kind: Kind, order: OrderNumber, total: Fen },
    Entered { journey: OrderNumber },
    Again { order: OrderNumber },
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Charged { kind, order, total } => write!(f, ", {}, order {order}, {total}", kind.as_str()),
            Self::Entered { journey } => write!(f, ", journey {journey} begins"),
            Self::Again { order } => write!(f, " once more for order {order}"),
        }
    }
}

/// Whether an answer came while an opening could still start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Punctuality {
    InTime,
    Late,
}

/// A lane at work.
struct Worker {
    lane: Lane,
    promised: BTreeMap<Ticket, Promised>,
    next_ticket: u64,
    passages: Option<Passages<RecordId>>,
    /// Asked, and passed on to the turnstile.
    asking: Vec<Ping>,
}

impl Lane {
    /// Serves until the turnstile has ended, which it does after every waiting opening has got its answer. The scanner's end
    /// alone ends nothing: the fire alarm and the exit button need none.
    pub async fn run(self) {
        let mut health = self.ledger.health();
        let passages = self.passage.as_ref().map(|rule| Passages::new(rule.timeout));
        let mut worker = Worker { lane: self, promised: BTreeMap::new(), next_ticket: 1, passages, asking: Vec::new() };
        worker.show_health(&health.borrow_and_update());
        loop {
            let passage_at = worker.passages.as_ref().and_then(Passages::next_wakeup);
            let Lane { turnstile, readings, pings, .. } = &mut worker.lane;
            tokio::select! {
                biased;
                event = turnstile.events.recv() => match event {
                    Some(event) => worker.turnstile_says(event).await,
                    None => break,
                },
                Ok(()) = health.changed() => worker.show_health(&health.borrow_and_update()),
                Some(ping) = pings.recv() => worker.pass_on(ping),
                () = until(passage_at) => worker.time_passes().await,
                reading = next(readings) => worker.scanner_says(reading).await,
            }
        }
        worker.give_up().await;
    }
}

/// The scanner's next reading; never comes when the scanner has ended.
async fn next(readings: &mut mpsc::Receiver<Reading>) -> Reading {
    match readings.recv().await {
        Some(reading) => reading,
        None => pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}

impl Worker {
    // ---- the way of a scan ---------------------------------------------------------------------------------------------------

    async fn scanner_says(&mut self, reading: Reading) {
        match reading {
            Reading::Code { bytes, last_byte_at } => self.scan(bytes, last_byte_at).await,
            Reading::Unreadable { .. } => self.refuse(Refusal::Format, None, Stamp::now()),
            // The scanner's room has logged it; `status` reads it where it is counted.
            Reading::Up | Reading::Absent { .. } => {}
        }
    }

    async fn scan(&mut self, bytes: Vec<u8>, last_byte_at: Instant) {
        let scanned = Stamp::now();
        match self.lane.checker.check(bytes, &scanned) {
            Ok(code) => self.admit(code, scanned, last_byte_at).await,
            Err(refusal) => self.refuse(refusal, None, scanned),
        }
    }

    async fn admit(&mut self, code: VerifiedCode, scanned: Stamp, last_byte_at: Instant) {
        let checked = monotonic_now();
        let deadline = last_byte_at + self.lane.open_within;
        let Lane { name, station, mode, passage, .. } = &self.lane;
        let awaits_passage = passage.is_some();
        let tap = Tap { lane: name.clone(), station: station.clone(), mode: *mode, awaits_passage, code: code.clone(), scanned };
        if checked >= deadline {
            // A code that waited for a stuck disk behind another one: its passenger has gone.
            return self.refuse(Refusal::Late, Some(&code), scanned);
        }
        let (answer, punctuality) = self.ask_ledger(tap, deadline).await;
        let timeline = Timeline { last_byte: last_byte_at, checked, durable: monotonic_now() };
        let promised = |record, told| Promised { record, timeline, digest: code.digest, told };
        match answer {
            Ok(Admission::Admitted(admitted)) => {
                let Admitted { id, order, kind, total, .. } = admitted;
                let promised = promised(id.into(), Told::Charged { kind, order, total });
                self.follow(promised, punctuality, deadline).await;
            }
            Ok(Admission::Entered(entered)) => {
                let promised = promised(entered.journey.into(), Told::Entered { journey: entered.number });
                self.follow(promised, punctuality, deadline).await;
            }
            Ok(Admission::Again(again)) => {
                let record = RecordId::Again { deduction: again.deduction, mark: again.mark };
                self.follow(promised(record, Told::Again { order: again.order }), punctuality, deadline).await;
            }
            Ok(Admission::Repeat) => self.lane.metrics.scan("repeat"),
            // The passenger has been shown a refusal already.
            Ok(Admission::Refused(_)) | Err(_) if punctuality == Punctuality::Late => {
                self.note_refusal(Refusal::Late, Some(&code), scanned);
            }
            Ok(Admission::Refused(refusal)) => self.refuse(refusal, Some(&code), scanned),
            Err(error) => {
                log::debug!("lane {}: {}: {error}", self.lane.name, code.digest);
                self.refuse(Refusal::OutOfOrder, Some(&code), scanned);
            }
        }
    }

    /// The ledger's answer. Before a stuck disk the passenger is refused when the time for an opening is over, and the lane shows
    /// that it is out of order; the answer is waited for all the same, for it may be a record that must be taken back.
    async fn ask_ledger(&self, tap: Tap, deadline: Instant) -> (Result<Admission, LedgerError>, Punctuality) {
        let mut answer = std::pin::pin!(self.lane.ledger.admit(tap));
        if let Ok(answer) = tokio::time::timeout_at(deadline.into(), &mut answer).await {
            return (answer, Punctuality::InTime);
        }
        log::error!("lane {}: the ledger does not answer; the lane is out of order until it does", self.lane.name);
        self.lane.turnstile.handle.deny(Refusal::Late.as_str(), beeps(Refusal::Late));
        self.lane.turnstile.handle.out_of_order(Some(Refusal::OutOfOrder.as_str()));
        let answer = answer.await;
        self.show_health(&self.lane.ledger.health().borrow());
        (answer, Punctuality::Late)
    }

    /// What is durable is opened for, unless its time is over. The log is told when the turnstile has answered: its thread would
    /// run before the turnstile's.
    async fn follow(&mut self, promised: Promised, punctuality: Punctuality, deadline: Instant) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.lane.metrics.scan("admitted");
        self.promised.insert(ticket, promised);
        match punctuality {
            Punctuality::InTime => self.lane.turnstile.handle.open(ticket, deadline),
            Punctuality::Late => self.not_opened(ticket, Untaken::Late).await,
        }
    }

    /// What was promised of an opening that is now decided; the log is told of the admission first.
    fn decided(&mut self, ticket: Ticket) -> Option<Promised> {
        let promised = self.promised.remove(&ticket)?;
        log::info!("lane {}: {} admitted{}", self.lane.name, promised.digest, promised.told);
        Some(promised)
    }

    fn refuse(&self, refusal: Refusal, code: Option<&VerifiedCode>, scanned: Stamp) {
        self.lane.turnstile.handle.deny(refusal.as_str(), beeps(refusal));
        self.note_refusal(refusal, code, scanned);
    }

    fn note_refusal(&self, refusal: Refusal, code: Option<&VerifiedCode>, scanned: Stamp) {
        self.lane.metrics.scan(refusal.as_str());
        let digest = code.map(|code| code.digest);
        match digest {
            Some(digest) => log::info!("lane {}: {digest} refused: {refusal}", self.lane.name),
            None => log::info!("lane {}: a scan refused: {refusal}", self.lane.name),
        }
        let passenger = code.map(|code| code.passenger.clone());
        self.lane.ledger.denied(Denial { lane: self.lane.name.clone(), refusal, digest, passenger, scanned });
    }

    // ---- what became of openings ---------------------------------------------------------------------------------------------

    async fn turnstile_says(&mut self, event: Event) {
        match event {
            Event::Opened { ticket, at } => self.opened(ticket, at).await,
            Event::Late { ticket } => {
                self.lane.turnstile.handle.deny(Refusal::Late.as_str(), beeps(Refusal::Late));
                self.not_opened(ticket, Untaken::Late).await;
            }
            Event::NotOpened { ticket } => self.not_opened(ticket, Untaken::NotOpened).await,
            Event::Passage { active: true, at } => self.passed(at).await,
            Event::FireAlarm { active } => self.fire_alarm(active),
            Event::ExitButton { at } => self.opened_by_button(at),
            Event::Alive => self.asking.drain(..).for_each(answer),
            // What concerns the outputs has been logged where they are.
            Event::Passage { active: false, .. } | Event::Failed { .. } | Event::Restored => {}
        }
    }

    fn pass_on(&mut self, ping: Ping) {
        self.asking.retain(|ping| !ping.is_closed());
        self.asking.push(ping);
        self.lane.turnstile.handle.ping();
    }

    async fn opened(&mut self, ticket: Ticket, at: Instant) {
        let Some(promised) = self.decided(ticket) else { return };
        let record = promised.record;
        if let Some(passages) = &mut self.passages {
            passages.opened(Some(record), at);
        }
        let opening = Opening::Opened { scan_to_open: at.saturating_duration_since(promised.timeline.last_byte) };
        self.lane.metrics.opening(opening);
        let opened = Opened { record, at_utc_ms: utc_ms_of(at), detail: promised.timeline.told(at) };
        self.lane.ledger.opened(opened).await;
        if self.passages.is_none() && matches!(record, RecordId::Again { .. }) {
            // He passes where nobody looks: at another lane his first opening may still be waited for.
            self.lane.ledger.passage(Passage { record, outcome: PassageOutcome::Passed, at_utc_ms: utc_ms_of(at) }).await;
        }
    }

    async fn not_opened(&mut self, ticket: Ticket, why: Untaken) {
        let Some(promised) = self.decided(ticket) else { return };
        self.lane.metrics.opening(if why == Untaken::Late { Opening::Late } else { Opening::NotOpened });
        log::warn!(
            "lane {}: {} was admitted but not opened for ({}); nothing is charged",
            self.lane.name,
            promised.digest,
            why.as_str()
        );
        if let Err(error) = self.lane.ledger.take_back(promised.record, why).await {
            log::error!("lane {}: a record could not be taken back: {error}", self.lane.name);
        }
    }

    // ---- who passed ------------------------------------------------------------------------------------------------------------

    fn opened_by_button(&mut self, at: Instant) {
        log::info!("lane {}: opened by the exit button", self.lane.name);
        self.note("exit-button");
        if let Some(passages) = &mut self.passages {
            passages.opened(None, at);
        }
    }

    fn fire_alarm(&mut self, is_on: bool) {
        self.note(if is_on { "fire-alarm-on" } else { "fire-alarm-off" });
        if let Some(passages) = &mut self.passages {
            passages.fire_alarm(is_on);
        }
    }

    async fn passed(&mut self, at: Instant) {
        let findings = self.passages.as_mut().map(|passages| passages.passed(at));
        self.act_on(findings.unwrap_or_default(), utc_ms_of(at)).await;
    }

    async fn time_passes(&mut self) {
        let now = monotonic_now();
        let findings = self.passages.as_mut().map(|passages| passages.elapse(now));
        self.act_on(findings.unwrap_or_default(), utc_ms_of(now)).await;
    }

    async fn act_on(&self, findings: Vec<Finding<RecordId>>, at_utc_ms: i64) {
        for finding in findings {
            match finding {
                Finding::Passed(record) => {
                    self.lane.metrics.passage(PassageResult::Passed);
                    self.lane.ledger.passage(Passage { record, outcome: PassageOutcome::Passed, at_utc_ms }).await;
                }
                Finding::NotPassed(record, sensor) => self.not_passed(record, sensor, at_utc_ms).await,
                Finding::Tailgate => self.uninvited(PassageResult::Tailgate),
                Finding::Intrusion => self.uninvited(PassageResult::Intrusion),
                Finding::Doubted => self.doubt_sensor(true),
                Finding::Trusted => self.doubt_sensor(false),
            }
        }
    }

    async fn not_passed(&self, record: RecordId, sensor: Sensor, at_utc_ms: i64) {
        self.lane.metrics.passage(PassageResult::None);
        let rule = self.lane.passage.as_ref().map_or(NoPassage::Charge, |rule| rule.no_passage);
        let outcome = PassageOutcome::NotPassed(if sensor == Sensor::Doubted { NoPassage::Charge } else { rule });
        log::info!("lane {}: nobody passed in time", self.lane.name);
        self.lane.ledger.passage(Passage { record, outcome, at_utc_ms }).await;
    }

    /// Somebody passed whom nothing was opened for: shown and noted, charged to nobody.
    fn uninvited(&self, what: PassageResult) {
        self.lane.metrics.passage(what);
        log::warn!("lane {}: {}: somebody passed without an opening of his own", self.lane.name, what.as_str());
        self.lane.turnstile.handle.deny(what.as_str(), Beeps::ThreeShort);
        self.note(what.as_str());
    }

    fn doubt_sensor(&self, is_doubted: bool) {
        let name = &self.lane.name;
        if let Some(rule) = &self.lane.passage {
            rule.is_doubted.store(is_doubted, Ordering::Relaxed);
        }
        if is_doubted {
            log::error!(
                "lane {name}: passage-sensor: {UNPASSED_MAX} openings in a row without a passage; openings are charged all the same until one is seen, look at the sensor"
            );
            self.note("passage-sensor-doubted");
        } else {
            log::warn!("lane {name}: passage-sensor: a passage is seen again");
            self.note("passage-sensor-trusted");
        }
    }

    fn note(&self, event: &'static str) {
        self.lane.ledger.note(GateNote { lane: self.lane.name.clone(), event, at: Stamp::now() });
    }

    fn show_health(&self, health: &Health) {
        let is_down = *health != Health::Up;
        self.lane.turnstile.handle.out_of_order(is_down.then_some(Refusal::OutOfOrder.as_str()));
    }

    /// The turnstile has ended: what it has not answered for did not open.
    async fn give_up(&mut self) {
        let unanswered: Vec<_> = self.promised.keys().copied().collect();
        for id in unanswered {
            self.not_opened(id, Untaken::NotOpened).await;
        }
    }
}

/// When something on the monotonic clock was, UTC milliseconds.
fn utc_ms_of(at: Instant) -> i64 {
    Stamp::now().utc_ms - i64::try_from(monotonic_now().saturating_duration_since(at).as_millis()).unwrap_or(0)
}

fn answer(ping: Ping) {
    // Whoever has given up waiting is not there to hear it.
    let _ = ping.send(());
}

/// What a refusal sounds like (docs/ride-codes.md): by what the passenger can do about it.
fn beeps(refusal: Refusal) -> Beeps {
    use Refusal as R;
    match refusal {
        R::Format | R::NotYetValid | R::Expired | R::Duplicate | R::TooSoon | R::Late => Beeps::TwoShort,
        R::UnknownRoot | R::CertificateExpired | R::CertificateSignature | R::IssuerSignature | R::UserSignature => Beeps::OneLong,
        R::AuthorizationExpired
        | R::ClockUnsynchronized
        | R::OverLimit
        | R::DeniedPassenger
        | R::Exposure
        | R::Unmatched
        | R::OutOfOrder => Beeps::ThreeShort,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_sounds_as_its_page_says() {
        let page = include_str!("../docs/ride-codes.md");
        for refusal in Refusal::ALL {
            let begins = format!("| `{refusal}` |");
            let row = page.lines().find(|line| line.starts_with(&begins)).expect("a row of its own");
            let sound = match beeps(refusal) {
                Beeps::TwoShort => "two short",
                Beeps::ThreeShort => "three short",
                Beeps::OneLong => "one long",
            };
            assert!(row.ends_with(&format!("| {sound} |")), "{sound}: {row}");
        }
    }
}
