//! The SQL of the project, as functions over one connection. Whoever calls them has begun the transaction.

mod adopt;
mod decisions;
mod deny;
mod export;
mod exposure;
pub(super) mod fsck;
mod journeys;
mod recording;
pub(super) mod salvage;
mod settlement;
mod settlement_alarm;
mod upkeep;

pub(super) use adopt::Adopted;
pub(super) use upkeep::Step;

#[cfg(test)]
pub(super) use {
    deny::{IS_LISTED, OWES},
    exposure::OF_PASSENGER,
    settlement::BY_CODE,
};

use std::{
    cell::Cell,
    ffi::OsString,
    fs::{DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, named_params, params, types::ValueRef};

use exposure::Unsure;

use super::{
    order::OrderNumber,
    salvage::{LogDamage, log_damage},
    types::{
        Admission, Attempt, BodyMaker, DeductionId, Denial, JourneyId, LedgerError, Opened, Outcome, Page, PageRequest,
        PendingDeduction, QueueEvent, QueueRow, QueueStory, RecordId, Recorded, STATES, Tap, Totals, Unpaid, Untaken,
    },
};
use crate::{
    clock::{Stamp, rfc3339_ms},
    config::Mode,
    journey::{Age, Decision, Fen, History, Limits, Past, Place, Reached, Rules, Stated},
    ride_code::{PassengerId, masked},
};

/// Major × 1000 + minor. A minor step only adds, and every program of that major opens it.
const VERSION: i64 = 1000;
/// "FARE": tells `file(1)` and us that this SQLite file is a ledger.
const APPLICATION_ID: i64 = 0x4641_5245;
/// Older ones can corrupt a write-ahead log when it is reset.
const SQLITE_VERSION_MIN: i32 = 3_051_003;
/// Attempts of one deduction that are kept as events; later ones are only counted.
const ATTEMPT_EVENTS_MAX: u32 = 50;
/// A disk with less is called full, whatever SQLite calls its error.
const FULL_BELOW_BYTES: u64 = 1 << 20;
/// The log beside a file that is really new; a longer one belonged to a ledger that is gone.
const EMPTY_LOG_BYTES: u64 = 32;
/// The log is rewritten in pieces of this length.
const REWRITE_BYTES: usize = 64 << 10;
/// Of a new ledger: a scan changes a row here and a key there, and its sync takes as long as all pages with a change are big.
pub(super) const PAGE_BYTES: u32 = 1024;
/// A longer file that was found damaged is not looked through as a whole: on a slow card the watchdog would end the program meanwhile.
const LOOKED_THROUGH_BYTES_MAX: u64 = 256 << 20;
/// Rows of `incident` that are kept.
const INCIDENTS_MAX: i64 = 1000;
/// Rows that one page of a listing looks at; stands in the statement, too.
const PAGE_ROWS_SEEN_MAX: u16 = 500;
/// Rows of `seen` that one call of [`Store::prune_seen`] removes at most.
const PRUNE_ROWS_MAX: i64 = 64;

/// What recording needs beside the tap.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) rules: Rules,
    pub(super) gate: String,
    pub(super) line: String,
    /// `[deny] unpaid`
    pub(super) unpaid: Unpaid,
    pub(super) body_maker: Arc<BodyMaker>,
}

/// Whether a missing ledger is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfMissing {
    Create,
    Fail,
}

/// Who had the file open before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastRun {
    /// Another run: what it handed out is known only if it ended cleanly.
    MayHaveCrashed,
    /// This one, which remembers what it handed out.
    IsThis,
}

/// Which boot of the machine this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BootName {
    pub(super) id: String,
    /// Whether it is the machine's own; else every start counts as a boot, and nothing follows from the time since boot.
    pub(super) is_machines: bool,
}

/// A pending row that is about to be handed out.
pub(super) struct Claim {
    pub(super) row: PendingDeduction,
    /// What `upload.max_age` holds for; `None` when a person had it sent again.
    pub(super) age: Option<Age>,
}

/// When a deduction was made, as [`Store::age`] reads it.
const CREATED: &str =
    "created_boot AS boot, created_boottime_ms AS at_boottime_ms, created_utc_ms AS at_utc_ms, clock_synchronized";

/// An open ledger file.
pub(super) struct Store {
    connection: Connection,
    path: PathBuf,
    /// Device and inode: a file of the same name may be another one.
    identity: (u64, u64),
    boot: i64,
    is_boot_machines: bool,
    /// The boot of rows that were brought over: they may be of this very boot.
    recovered_boot: Option<i64>,
    unsure: Cell<Unsure>,
    /// The lowest row that has become due by a passage or an entry, since this was last taken.
    due: Cell<Option<DeductionId>>,
}

impl Store {
    pub(super) fn open(path: &Path, boot: &BootName, if_missing: IfMissing, last_run: LastRun) -> Result<Self, LedgerError> {
        if rusqlite::version_number() < SQLITE_VERSION_MIN {
            let version = rusqlite::version();
            return Err(LedgerError::unavailable(format!(
                "this program was built with SQLite {version}, older than 3.51.3; rebuild it"
            )));
        }
        prepare_file(path, if_missing)?;
        let damage = if last_run == LastRun::MayHaveCrashed { keep_damaged_log(path)? } else { None };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let explain = |error| explain(path, &error);
        let connection = Connection::open_with_flags(path, flags).map_err(explain)?;
        configure(&connection).map_err(explain)?;
        let identity = identity(path).map_err(|error| LedgerError::unavailable(format!("{}: {error}", path.display())))?;
        let is_boot_machines = boot.is_machines;
        let mut store = Self {
            connection,
            path: path.to_owned(),
            identity,
            boot: 0,
            is_boot_machines,
            recovered_boot: None,
            unsure: Cell::default(),
            due: Cell::default(),
        };
        store.migrate(if_missing)?;
        store.boot = store.begin(&boot.id, last_run).map_err(explain)?;
        store.recovered_boot = store.boot_if_known(adopt::BOOT).map_err(explain)?;
        if let Some(damage) = damage {
            log::error!("{damage}");
            store.transact(|store| store.note_incident(Stamp::now().utc_ms, &damage)).map_err(explain)?;
            // What stands behind the damage must not be found, and told, once more.
            store.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(explain)?;
        }
        Ok(store)
    }

    /// Whether the name still leads to the file that is open: one that was removed or replaced takes no records.
    pub(super) fn is_in_place(&self) -> bool {
        identity(&self.path).is_ok_and(|identity| identity == self.identity)
    }

    /// Makes sure after an error that the file can be written, before anything new is recorded. What was read back from the log
    /// may be in memory only: a write that failed is not tried again by the system, though a later sync succeeds. So all of it is
    /// written to the file anew, or, while somebody else reads the file (a check, a backup), to the log itself. The file as a whole is
    /// read only after it was found damaged: that takes minutes on a slow card.
    pub(super) fn prove(&mut self, after: &LedgerError, at_utc_ms: i64) -> rusqlite::Result<()> {
        let fail = |code, words: String| Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(words)));
        if self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0))? {
            self.rewrite_log().or_else(|error| fail(rusqlite::ffi::SQLITE_IOERR, error.to_string()))?;
        }
        if matches!(after, LedgerError::Damaged { .. }) {
            if std::fs::metadata(&self.path).map_or(0, |file| file.len()) > LOOKED_THROUGH_BYTES_MAX {
                return fail(rusqlite::ffi::SQLITE_CORRUPT, "it is too long to be looked through beside a gate at work".to_owned());
            }
            let verdict: String = self.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if verdict != "ok" {
                return fail(rusqlite::ffi::SQLITE_CORRUPT, verdict);
            }
        }
        self.transact(|store| store.note_incident(at_utc_ms, &format!("opened again after: {after}")))
    }

    fn note_incident(&self, at_utc_ms: i64, detail: &str) -> rusqlite::Result<()> {
        self.connection.execute("INSERT INTO incident (at_utc_ms, detail) VALUES (?, ?)", params![at_utc_ms, detail])?;
        let keep = self.connection.last_insert_rowid() - INCIDENTS_MAX;
        self.connection.execute("DELETE FROM incident WHERE id <= ?", [keep]).map(drop)
    }

    /// Writes the log's own bytes over themselves and syncs them. Whoever reads it meanwhile reads the same; nobody else writes. SQLite
    /// holds no lock on this file that closing it here would drop.
    fn rewrite_log(&self) -> io::Result<()> {
        let log = OpenOptions::new().read(true).write(true).open(self.log_path())?;
        let mut bytes = vec![0; REWRITE_BYTES];
        let mut at = 0;
        loop {
            let length = log.read_at(&mut bytes, at)?;
            if length == 0 {
                return log.sync_data();
            }
            log.write_all_at(&bytes[..length], at)?;
            at += length as u64;
        }
    }

    fn log_path(&self) -> PathBuf {
        log_path(&self.path)
    }

    /// Runs `work` in one transaction and makes it durable: one sync.
    pub(super) fn transact<T>(&mut self, work: impl FnOnce(&Self) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        self.run("BEGIN IMMEDIATE")?;
        let result = work(self).and_then(|value| self.run("COMMIT").map(|()| value));
        if result.is_err() && !self.connection.is_autocommit() {
            // The connection is closed after this error in any case; what it says now adds nothing.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        result
    }

    /// A statement without parameters, parsed once.
    fn run(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(drop)
    }

    /// Runs `work` so that its failure undoes only itself. An error that concerns the file ends the whole transaction.
    pub(super) fn step<T>(&self, work: impl FnOnce(&Self) -> rusqlite::Result<T>) -> rusqlite::Result<Result<T, rusqlite::Error>> {
        self.run("SAVEPOINT step")?;
        let result = work(self);
        match result {
            Err(error) if concerns_file(&error) => return Err(error),
            Err(_) => self.run("ROLLBACK TO step")?,
            Ok(_) => {}
        }
        self.run("RELEASE step")?;
        Ok(result)
    }

    /// As [`Self::step`], for what is alone in its transaction: a savepoint keeps a copy of every page that it changes, which
    /// somebody waits for.
    pub(super) fn only_step<T>(
        &self,
        work: impl FnOnce(&Self) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Result<T, rusqlite::Error>> {
        match work(self) {
            Err(error) if concerns_file(&error) => Err(error),
            Err(error) => {
                self.run("ROLLBACK")?;
                self.run("BEGIN IMMEDIATE")?;
                Ok(Err(error))
            }
            done => Ok(done),
        }
    }

    /// Rows changed since the file was opened: tells a commit that wrote something from one that did not.
    pub(super) fn changes(&self) -> u64 {
        self.connection.total_changes()
    }

    pub(super) fn explain(&self, error: &rusqlite::Error) -> LedgerError {
        explain(&self.path, error)
    }

    // ---- scans -------------------------------------------------------------------------------------------------------------

    /// Judges a tap by what the ledger holds and records what follows from it. Beside it the limit on exposure that it met.
    pub(super) fn admit(&self, tap: &Tap, context: &Context) -> rusqlite::Result<(Admission, Option<Reached>)> {
        let rules = &context.rules;
        let limit = tap.code.terms.map(|terms| Fen(terms.single_trip_limit_fen));
        let stated = Stated { entry_refusal: tap.code.entry_refusal, limit };
        let place = Place { mode: tap.mode, station: &tap.station };
        let mut history = self.history(tap, rules.exposure.as_ref())?;
        history.is_denied = self.is_denied(&tap.code, context.unpaid)?;
        let decision = rules.decide(place, &stated, &history);
        let admission = match &decision {
            Decision::Repeat => Admission::Repeat,
            Decision::Refuse(refusal) => Admission::Refused(*refusal),
            Decision::Admit(plan) => self.record(tap, plan, history.journey.as_ref(), context)?,
        };
        Ok((admission, rules.reached(place, &decision, &history)))
    }

    fn history(&self, tap: &Tap, limits: Option<&Limits>) -> rusqlite::Result<History> {
        let latest = |sql, key: &[u8]| {
            let mut statement = self.connection.prepare_cached(sql)?;
            statement
                .query_row([key], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, self.age(row, &tap.scanned)?)))
                .optional()
        };
        let same_code = latest(
            "SELECT seq, lane, boot, at_boottime_ms, at_utc_ms, clock_synchronized FROM seen WHERE code_digest = ? ORDER BY seq DESC LIMIT 1",
            &tap.code.digest.0,
        )?;
        let same_passenger = latest(
            "SELECT seq, lane, boot, at_boottime_ms, at_utc_ms, clock_synchronized FROM seen WHERE passenger = ? ORDER BY seq DESC LIMIT 1",
            tap.code.passenger.key(),
        )?;
        let is_latest_of_lane = match &same_code {
            Some((seq, lane, _)) if **lane == *tap.lane => !self.lane_admitted_after(*seq, lane)?,
            _ => false,
        };
        let past = |(_, _, age)| Past { age };
        let exposed = limits.map(|limits| self.exposed(tap.code.passenger.key(), limits, &tap.scanned)).transpose()?;
        let journey = if tap.mode == Mode::Single { None } else { self.past_journey(tap)? };
        Ok(History {
            same_code: same_code.map(past),
            is_latest_of_lane,
            same_passenger: same_passenger.map(past),
            exposed,
            journey,
            ..History::default()
        })
    }

    fn lane_admitted_after(&self, seq: i64, lane: &str) -> rusqlite::Result<bool> {
        self.connection.prepare_cached("SELECT 1 FROM seen WHERE seq > ? AND lane = ? LIMIT 1")?.exists(params![seq, lane])
    }

    /// How long before `now` a row was made, by its columns `boot`, `at_boottime_ms`, `at_utc_ms` and `clock_synchronized`.
    fn age(&self, row: &Row<'_>, now: &Stamp) -> rusqlite::Result<Age> {
        let boot: i64 = row.get("boot")?;
        Ok(if boot == self.boot {
            Age::ThisBoot { ms: now.boottime_ms - row.get::<_, i64>("at_boottime_ms")? }
        } else {
            Age::OtherBoot {
                ms: now.utc_ms - row.get::<_, i64>("at_utc_ms")?,
                is_reliable: now.synchronized && row.get("clock_synchronized")?,
                at_least_ms: if self.is_boot_machines && Some(boot) != self.recovered_boot { now.boottime_ms } else { 0 },
                is_settled: now.synchronized,
            }
        })
    }

    pub(super) fn opened(&self, opened: &Opened) -> rusqlite::Result<()> {
        let id = match opened.record {
            RecordId::Journey(id) => return self.journey_opened(id, opened.at_utc_ms),
            RecordId::Again { deduction, .. } => {
                return self.event(deduction, opened.at_utc_ms, "opened-again", Some(&opened.detail));
            }
            RecordId::Deduction(id) => id,
        };
        let changed = self
            .connection
            .prepare_cached("UPDATE deduction SET opening = 'opened' WHERE id = ? AND opening = 'waiting'")?
            .execute([id])?;
        if changed == 0 {
            return Ok(());
        }
        self.event(id, opened.at_utc_ms, "opened", Some(&opened.detail))?;
        self.exit_is_made(id, opened.at_utc_ms)
    }

    /// See [`Self::due`].
    pub(super) fn take_due(&self) -> Option<DeductionId> {
        self.due.take()
    }

    /// The opening did not happen: nothing is charged, and the code may be used again.
    pub(super) fn take_back(&self, record: RecordId, why: Untaken, at_utc_ms: i64) -> rusqlite::Result<()> {
        match record {
            RecordId::Deduction(id) => self.take_back_deduction(id, why, at_utc_ms),
            RecordId::Journey(id) => self.take_back_journey(id, why, at_utc_ms),
            RecordId::Again { deduction, mark } => self.take_back_again(deduction, mark, at_utc_ms),
        }
    }

    fn take_back_deduction(&self, id: DeductionId, why: Untaken, at_utc_ms: i64) -> rusqlite::Result<()> {
        let changed = self
            .connection
            .prepare_cached(
                "UPDATE deduction SET state = 'void', reason = ?2, opening = ?2, after_passage = NULL, awaits = 0, settled_utc_ms = ?3
                 WHERE id = ?1 AND opening = 'waiting' AND state IN ('held', 'pending', 'parked', 'void')",
            )?
            .execute(params![id, why.as_str(), at_utc_ms])?;
        if changed == 0 {
            return Ok(());
        }
        self.connection
            .prepare_cached(
                "DELETE FROM seen WHERE code_digest = (SELECT code_digest FROM deduction WHERE id = ?1) AND deduction = ?1",
            )?
            .execute([id])?;
        self.event(id, at_utc_ms, "void", Some(why.as_str()))?;
        self.reenter(id, at_utc_ms)
    }

    /// Takes back a scan whose commit failed so that nobody knows whether it is in the file.
    pub(super) fn take_back_doubtful(&self, tap: &Tap, at_utc_ms: i64) -> rusqlite::Result<()> {
        let records = self
            .connection
            .prepare_cached(
                "SELECT seq, journey, deduction, (SELECT code_digest <> seen.code_digest FROM deduction WHERE id = seen.deduction)
                 FROM seen WHERE code_digest = ? AND boot = ? AND at_boottime_ms = ? AND lane = ?",
            )?
            .query_map(params![tap.code.digest.0, self.boot, tap.scanned.boottime_ms, tap.lane], |row| {
                let (mark, journey, deduction, is_again): (i64, Option<i64>, Option<DeductionId>, Option<bool>) = row.try_into()?;
                let of_deduction = deduction
                    .map(|deduction| if is_again == Some(true) { RecordId::Again { deduction, mark } } else { deduction.into() });
                Ok(of_deduction.or(journey.map(|id| JourneyId(id).into())))
            })?
            .collect::<rusqlite::Result<Vec<Option<RecordId>>>>()?;
        records.into_iter().flatten().try_for_each(|record| self.take_back(record, Untaken::NotOpened, at_utc_ms))
    }

    pub(super) fn deny(&self, denial: &Denial, uncounted_before: u64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "INSERT INTO denied (at_utc_ms, boot, at_boottime_ms, clock_synchronized, lane, reason, code_digest, passenger_tail,
                     uncounted_before) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                denial.scanned.utc_ms,
                self.boot,
                denial.scanned.boottime_ms,
                denial.scanned.synchronized,
                denial.lane,
                denial.refusal.as_str(),
                denial.digest.map(|digest| digest.0),
                denial.passenger.as_ref().map(PassengerId::tail),
                i64::try_from(uncounted_before).unwrap_or(i64::MAX),
            ])
            .map(drop)
    }

    /// Removes the oldest admissions that block nothing any more.
    pub(super) fn prune_seen(&self, now: &Stamp, keep_ms: i64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "DELETE FROM seen WHERE seq IN (SELECT seq FROM seen ORDER BY seq LIMIT :rows) AND CASE
                     WHEN boot = :boot THEN :boottime - at_boottime_ms > :keep
                     ELSE (:machines AND :boottime > :keep) OR (clock_synchronized AND :synchronized AND abs(:utc - at_utc_ms) > :keep) END",
            )?
            .execute(named_params! {
                ":rows": PRUNE_ROWS_MAX, ":boot": self.boot, ":boottime": now.boottime_ms, ":utc": now.utc_ms,
                ":machines": self.is_boot_machines, ":synchronized": now.synchronized, ":keep": keep_ms,
            })
            .map(drop)
    }

    /// After a start: openings that the last run did not confirm may or may not have happened; they are charged, and say so.
    pub(super) fn settle_unconfirmed(&self, at_utc_ms: i64) -> rusqlite::Result<usize> {
        self.connection.execute(
            &format!(
                "INSERT INTO event (deduction, at_utc_ms, event)
                 SELECT id, ?, 'opening-unconfirmed' FROM deduction WHERE opening = 'waiting' AND {}",
                from_first_waiting("deduction")
            ),
            [at_utc_ms],
        )?;
        self.connection.execute(
            &format!(
                "UPDATE deduction SET opening = 'unconfirmed', flags = ltrim(flags || ' opening-unconfirmed')
                 WHERE opening = 'waiting' AND {}",
                from_first_waiting("deduction")
            ),
            [],
        )
    }

    // ---- deliveries --------------------------------------------------------------------------------------------------------

    /// Pending rows above `after_id`, ascending. `is_ready` leaves out those that must not be sent now.
    pub(super) fn pending(
        &self,
        after_id: DeductionId,
        limit: usize,
        is_ready: impl Fn(DeductionId) -> bool,
    ) -> rusqlite::Result<Vec<DeductionId>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id FROM deduction WHERE state = 'pending' AND state IN ('held', 'pending', 'unpaid', 'parked') AND id > ? ORDER BY id",
        )?;
        let ids = statement.query_map([after_id], |row| row.get(0))?;
        ids.filter(|id| id.as_ref().map_or(true, |id| is_ready(*id))).take(limit).collect()
    }

    pub(super) fn claim(&self, id: DeductionId, now: &Stamp) -> rusqlite::Result<Option<Claim>> {
        self.connection
            .prepare_cached(&format!(
                "SELECT order_number, body, unknown_answers, retried, {CREATED} FROM deduction WHERE id = ? AND state = 'pending'"
            ))?
            .query_row([id], |row| {
                let order = row.get("order_number")?;
                let row_to_send =
                    PendingDeduction { id, order, body: row.get("body")?, unknown_answers: row.get("unknown_answers")? };
                let age = if row.get("retried")? { None } else { Some(self.age(row, now)?) };
                Ok(Claim { row: row_to_send, age })
            })
            .optional()
    }

    /// A row that cannot be read cannot be sent: a person must look at it, and the others go on.
    pub(super) fn park_unreadable(&self, id: DeductionId, detail: &str, at_utc_ms: i64) -> rusqlite::Result<()> {
        let park =
            "UPDATE deduction SET state = 'parked', reason = 'unreadable', last_error = ? WHERE id = ? AND state = 'pending'";
        self.connection.execute(park, params![detail, id])?;
        self.event(id, at_utc_ms, "parked", Some(detail))
    }

    /// Whether a deferred attempt is in the file already, by a commit that failed only to say so.
    pub(super) fn has_attempt(&self, attempt: &Attempt) -> rusqlite::Result<bool> {
        self.connection
            .prepare_cached("SELECT 1 FROM event WHERE deduction = ? AND at_utc_ms = ? AND detail IS ?")?
            .exists(params![attempt.id, attempt.at_utc_ms, attempt.answer])
    }

    /// Whether an attempt of the same kind and with the same answer is in the file.
    pub(super) fn has_like_attempt(&self, attempt: &Attempt) -> rusqlite::Result<bool> {
        self.connection
            .prepare_cached(
                "SELECT 1 FROM deduction WHERE id = ?1 AND state = 'pending' AND attempts > 0 AND (sent OR NOT ?2)
                 AND (?3 IS NULL OR last_error IS ?3)",
            )?
            .exists(params![attempt.id, attempt.is_doubtful, attempt.answer])
    }

    /// Whether a deferred refusal is in the file already.
    pub(super) fn has_denial(&self, denial: &Denial) -> rusqlite::Result<bool> {
        self.connection
            .prepare_cached(
                "SELECT 1 FROM (SELECT * FROM denied ORDER BY id DESC LIMIT 64) WHERE boot = ? AND at_boottime_ms = ? AND lane = ?",
            )?
            .exists(params![self.boot, denial.scanned.boottime_ms, denial.lane])
    }

    /// Records what came of an attempt. A row that has left `pending` meanwhile keeps its state; of one that a person has made
    /// void, or that a callback has settled, the answer is kept as evidence.
    pub(super) fn attempt(&self, attempt: &Attempt) -> rusqlite::Result<()> {
        let Some((attempts, last_error)) = self.attempts_so_far(attempt.id)? else { return self.late_answer(attempt) };
        let answer = attempt.answer.as_deref();
        let is_news = answer.is_some() && last_error.as_deref() != answer;
        let (state, reason, accepted, event) = match attempt.outcome {
            Outcome::Accepted => ("accepted", None, Some(attempt.at_utc_ms), "accepted"),
            Outcome::Parked { reason } => ("parked", Some(reason), None, "parked"),
            // A probe of a network that is away says the same every time: it is written once.
            Outcome::StillPending if !is_news && !attempt.is_counted => return Ok(()),
            Outcome::StillPending => ("pending", None, None, "attempt"),
        };
        let last_error = if accepted.is_some() || answer.is_none() { last_error.as_deref() } else { answer };
        self.connection
            .prepare_cached(
                "UPDATE deduction SET state = ?2, reason = ?3, accepted_utc_ms = ?4, last_error = ?5, attempts = attempts + ?6,
                     unknown_answers = unknown_answers + ?7, sent = sent OR ?8 WHERE id = ?1",
            )?
            .execute(params![
                attempt.id,
                state,
                reason,
                accepted,
                last_error,
                attempt.is_counted,
                attempt.is_unknown,
                attempt.is_doubtful
            ])?;
        if attempts >= ATTEMPT_EVENTS_MAX && event == "attempt" {
            return Ok(());
        }
        self.event(attempt.id, attempt.at_utc_ms, event, answer)
    }

    fn late_answer(&self, attempt: &Attempt) -> rusqlite::Result<()> {
        let state: Option<String> = self
            .connection
            .prepare_cached("SELECT state FROM deduction WHERE id = ?")?
            .query_row([attempt.id], |row| row.get(0))
            .optional()?;
        let event = match (state.as_deref(), attempt.outcome == Outcome::Accepted) {
            (Some("void"), true) => "accepted-after-void",
            (Some("void"), false) => "answered-after-void",
            (Some("paid" | "unpaid"), true) => "accepted-after-callback",
            (Some("paid" | "unpaid"), false) => "answered-after-callback",
            _ => return Ok(()),
        };
        self.event(attempt.id, attempt.at_utc_ms, event, attempt.answer.as_deref())
    }

    fn attempts_so_far(&self, id: DeductionId) -> rusqlite::Result<Option<(u32, Option<String>)>> {
        self.connection
            .prepare_cached("SELECT attempts, last_error FROM deduction WHERE id = ? AND state = 'pending'")?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
    }

    fn event(&self, id: DeductionId, at_utc_ms: i64, event: &str, detail: Option<&str>) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("INSERT INTO event (deduction, at_utc_ms, event, detail) VALUES (?, ?, ?, ?)")?
            .execute(params![id, at_utc_ms, event, detail])
            .map(drop)
    }

    // ---- for people --------------------------------------------------------------------------------------------------------

    pub(super) fn totals(&self, now: &Stamp) -> rusqlite::Result<Totals> {
        let mut totals = Totals::default();
        let mut statement = self.connection.prepare_cached("SELECT state, deductions, fen FROM tally")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let state: String = row.get(0)?;
            if let Some(place) = STATES.iter().position(|known| *known == state) {
                totals.deductions[place] = row.get::<_, i64>(1)?.try_into().unwrap_or(0);
            }
            if state == "pending" {
                totals.pending_fen = row.get(2)?;
            }
        }
        totals.at_risk_fen = self.at_risk_fen()?;
        totals.oldest_pending = self.oldest_pending(now)?;
        Ok(totals)
    }

    fn oldest_pending(&self, now: &Stamp) -> rusqlite::Result<Option<Recorded>> {
        self.connection
            .prepare_cached(&format!(
                "SELECT {CREATED} FROM deduction
                 WHERE state = 'pending' AND state IN ('held', 'pending', 'unpaid', 'parked') ORDER BY id LIMIT 1"
            ))?
            .query_row([], |row| Ok(Recorded { age_ms: self.age(row, now)?.known_ms() }))
            .optional()
    }

    /// A page of rows. Looks at [`PAGE_ROWS_SEEN_MAX`] rows at most, since the gate waits meanwhile: a page may be short or empty
    /// although there are more.
    pub(super) fn page(&self, request: &PageRequest) -> rusqlite::Result<Page> {
        let limit = request.limit.min(usize::from(PAGE_ROWS_SEEN_MAX));
        let after_id = request.after_id;
        let rows = match request.state.as_deref() {
            None => self.rows("id > ?1 AND ?2 IS NULL", after_id, None, limit)?,
            Some(state) if is_open(state) => self.rows(
                "id > ?1 AND state = ?2 AND state IN ('held', 'pending', 'unpaid', 'parked')",
                after_id,
                Some(state),
                limit,
            )?,
            Some(state) => {
                let rows = self.rows("id > ?1 AND state = ?2 AND id <= ?1 + 500", after_id, Some(state), limit)?;
                let seen_to = after_id.saturating_add(DeductionId::from(PAGE_ROWS_SEEN_MAX));
                if rows.len() < limit {
                    return Ok(Page {
                        rows,
                        next_after_id: Some(seen_to).filter(|seen_to| *seen_to < self.last_id().unwrap_or(0)),
                    });
                }
                rows
            }
        };
        let next_after_id = rows.last().filter(|_| rows.len() == limit).map(|row| row.id);
        Ok(Page { rows, next_after_id })
    }

    fn rows(&self, condition: &str, after_id: DeductionId, state: Option<&str>, limit: usize) -> rusqlite::Result<Vec<QueueRow>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = format!("SELECT * FROM deduction WHERE {condition} ORDER BY id LIMIT ?3");
        self.connection.prepare_cached(&sql)?.query_map(params![after_id, state, limit], queue_row)?.collect()
    }

    fn last_id(&self) -> rusqlite::Result<DeductionId> {
        self.connection.prepare_cached("SELECT ifnull(max(id), 0) FROM deduction")?.query_row([], |row| row.get(0))
    }

    pub(super) fn story(&self, order: &OrderNumber) -> rusqlite::Result<Option<QueueStory>> {
        let found = self
            .connection
            .prepare_cached("SELECT * FROM deduction WHERE order_number = ?")?
            .query_row([order.as_str()], |row| Ok((queue_row(row)?, recorded_event(row)?, row.get("journey")?)))
            .optional()?;
        let Some((row, recorded, journey)) = found else { return Ok(None) };
        let journey: Option<i64> = journey;
        let mut events = journey.map(|journey| self.entry_events(journey)).transpose()?.unwrap_or_default();
        events.push(recorded);
        let mut statement =
            self.connection.prepare_cached("SELECT at_utc_ms, event, detail FROM event WHERE deduction = ? ORDER BY id")?;
        let later = statement.query_map([row.id], |event| {
            Ok(QueueEvent {
                at: rfc3339_ms(event.get(0)?),
                event: text(event, "event")?.unwrap_or_default(),
                detail: text(event, "detail")?,
            })
        })?;
        for event in later {
            events.push(event?);
        }
        Ok(Some(QueueStory { row, events }))
    }

    // ---- the file ----------------------------------------------------------------------------------------------------------

    /// Makes the write-ahead log longer. Two commits, since pages that are freed in the commit that took them are not written.
    pub(super) fn grow_log(&mut self, bytes: u32) -> rusqlite::Result<()> {
        self.transact(|store| store.connection.execute("INSERT INTO growth (filler) VALUES (zeroblob(?))", [bytes]))?;
        self.transact(|store| store.connection.execute("DELETE FROM growth", [])).map(drop)
    }

    /// The length of the write-ahead log in bytes.
    pub(super) fn log_bytes(&self) -> u64 {
        std::fs::metadata(self.log_path()).map_or(0, |log| log.len())
    }

    /// Moves what is left of the log back into the file.
    pub(super) fn checkpoint(&self) -> rusqlite::Result<()> {
        self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
    }

    fn migrate(&mut self, if_missing: IfMissing) -> Result<(), LedgerError> {
        let path = self.path.clone();
        let explain = |error| explain(&path, &error);
        let pragma = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(explain);
        let (version, application_id) = (pragma("user_version")?, pragma("application_id")?);
        let tables: i64 = self.connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(explain)?;
        match (version, application_id, tables) {
            (0, 0, 0) if if_missing == IfMissing::Create => self.transact(Self::create_tables).map_err(explain),
            // A first start that was cut short has made the file and nothing in it.
            (0, 0, 0) => Err(LedgerError::Missing { path: self.path.clone() }),
            (version, APPLICATION_ID, _) if version / 1000 > VERSION / 1000 => {
                Err(LedgerError::Newer { path: self.path.clone(), found: version, known: VERSION })
            }
            (_, APPLICATION_ID, _) => Ok(()),
            _ => Err(LedgerError::Damaged { path: self.path.clone(), detail: "it is a SQLite file but not a ledger".to_owned() }),
        }
    }

    fn create_tables(&self) -> rusqlite::Result<()> {
        self.connection.execute_batch(include_str!("schema.sql"))?;
        self.connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        self.connection.pragma_update(None, "user_version", VERSION)
    }

    /// Notes this boot, and what the last run left in doubt.
    fn begin(&mut self, boot_id: &str, last_run: LastRun) -> rusqlite::Result<i64> {
        self.transact(|store| {
            if last_run == LastRun::MayHaveCrashed {
                store.doubt_what_was_not_closed()?;
            }
            store.boot_named(boot_id)
        })
    }
}

/// SQLite removes a log that it finds beside a file of no length; the log of a ledger that was moved or lost is all that is left of it.
fn refuse_to_lose_log(path: &Path) -> Result<(), LedgerError> {
    let length = |file: &Path| std::fs::metadata(file).map_or(0, |file| file.len());
    let log = log_path(path);
    if length(path) > 0 || length(&log) <= EMPTY_LOG_BYTES {
        return Ok(());
    }
    let detail = format!("it is not there or empty, but its log {} is", log.display());
    Err(LedgerError::Damaged { path: path.to_owned(), detail })
}

/// What the names of kept logs begin with.
fn kept_prefix(path: &Path) -> OsString {
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push(".damaged-");
    prefix
}

/// The damaged logs that are kept beside a ledger, without their ending.
pub(super) fn kept_logs(path: &Path) -> Vec<PathBuf> {
    let (folder, prefix) = (path.parent().filter(|folder| !folder.as_os_str().is_empty()), kept_prefix(path));
    let Ok(names) = std::fs::read_dir(folder.unwrap_or(Path::new("."))) else { return Vec::new() };
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_kept = |name: &String| name.as_bytes().starts_with(prefix.as_encoded_bytes());
    let mut kept: Vec<_> = names.filter(is_kept).filter_map(|name| Some(path.with_file_name(name.strip_suffix("-wal")?))).collect();
    kept.sort();
    kept
}

/// SQLite goes on with what stands before the damage in a log, and writes over the rest: that is kept under another name first. What is
/// to be said of it, if so.
fn keep_damaged_log(path: &Path) -> Result<Option<String>, LedgerError> {
    let unavailable = |error: io::Error| {
        let log = log_path(path);
        LedgerError::unavailable(format!("{} is damaged and cannot be read or kept: {error}; look at the disk", log.display()))
    };
    let Some(LogDamage { frame, commits }) = log_damage(path).map_err(unavailable)? else { return Ok(None) };
    let mut kept = kept_prefix(path);
    kept.push(Stamp::now().utc_ms.to_string());
    let kept = path.with_file_name(kept);
    let copied = File::create_new(log_path(&kept)).and_then(|mut copy| {
        copy.set_permissions(Permissions::from_mode(0o600))?;
        io::copy(&mut File::open(log_path(path))?, &mut copy)?;
        copy.sync_all()
    });
    if let Err(error) = copied {
        // Half a copy is no copy, and takes the room that the next one needs. What is left of it is told as kept.
        let _ = std::fs::remove_file(log_path(&kept));
        return Err(unavailable(error));
    }
    let (log, copy, kept) = (log_path(path), log_path(&kept), kept.display().to_string());
    Ok(Some(format!(
        "{} was damaged at frame {frame}: {commits} commits behind it, or more, are not in the ledger; it is kept as {}: stop the \
         service, bring what is missing into the ledger with: faregate recover {kept}, and start the service again",
        log.display(),
        copy.display()
    )))
}

pub(super) fn log_path(ledger: &Path) -> PathBuf {
    let mut log = ledger.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// Makes the file with its rights before SQLite would make it with others.
pub(super) fn prepare_file(path: &Path, if_missing: IfMissing) -> Result<(), LedgerError> {
    refuse_to_lose_log(path)?;
    if path.exists() {
        return Ok(());
    }
    if if_missing == IfMissing::Fail {
        return Err(LedgerError::Missing { path: path.to_owned() });
    }
    make_file(path).map_err(|error| {
        let path = path.display();
        LedgerError::unavailable(format!(
            "{path} cannot be made: {error}; the user faregate needs a folder that it may write, see [ledger] path"
        ))
    })
}

fn make_file(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
        DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
        if let Some(above) = folder.parent().filter(|above| !above.as_os_str().is_empty()) {
            // A folder that a power cut takes back would take the ledger with it.
            File::open(above)?.sync_all()?;
        }
    }
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(drop)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    connection.busy_timeout(std::time::Duration::from_secs(1))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA mmap_size = 0;
         PRAGMA cache_size = -2048; PRAGMA journal_size_limit = 16777216; PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = ON;",
    )
}

/// Rows of a table with openings (`deduction`, `journey`) from the first one whose opening may be undecided: each row names the first
/// that was when it was recorded, or nothing when it was the first itself. Whatever is undecided now was so when the last row was
/// recorded, or is that row. An index would say the same, and cost every scan a page.
fn from_first_waiting(table: &str) -> String {
    format!("id >= (SELECT ifnull(waiting_from, id) FROM {table} ORDER BY id DESC LIMIT 1)")
}

/// What a new row says of those before it: see [`from_first_waiting`].
fn first_waiting(table: &str) -> String {
    format!("(SELECT id FROM {table} WHERE opening = 'waiting' AND {} ORDER BY id LIMIT 1)", from_first_waiting(table))
}

/// What a ledger's file is, whatever its name.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Free bytes on the disk of a file; `None` where the file system does not tell.
pub(super) fn free_bytes(path: &Path) -> Option<u64> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    rustix::fs::statvfs(folder).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether another program's lock stood in the way: nothing is wrong with the file, and nothing was written.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Whether an error means that the connection must not be used any further.
pub(super) fn concerns_file(error: &rusqlite::Error) -> bool {
    !matches!(error.sqlite_error_code(), None | Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig))
}

fn explain(path: &Path, error: &rusqlite::Error) -> LedgerError {
    let shown = path.display();
    let is_full = free_bytes(path).is_some_and(|free_bytes| free_bytes < FULL_BELOW_BYTES);
    let sentence = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            return LedgerError::Damaged { path: path.to_owned(), detail: error.to_string() };
        }
        Some(ErrorCode::DiskFull) => format!("the disk of {shown} is full; free some space"),
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) if is_full => {
            format!("the disk of {shown} is full ({error}); free some space")
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("another program holds {shown} locked; close the sqlite3 shell, backup or check that has it open")
        }
        Some(ErrorCode::SystemIoFailure) => {
            format!("reading or writing {shown} failed ({error}); the card may be worn out: look at dmesg")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            format!("{shown} cannot be written ({error}); check its owner and whether its file system is mounted read-only")
        }
        _ => format!("{shown}: {error}"),
    };
    LedgerError::unavailable(sentence)
}

/// Whether rows of this state are in the index of those that somebody must still do something about.
fn is_open(state: &str) -> bool {
    ["held", "pending", "unpaid", "parked"].contains(&state)
}

/// Text that may have been spoiled: a listing shows what it can.
fn text(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => None,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
    })
}

fn queue_row(row: &Row<'_>) -> rusqlite::Result<QueueRow> {
    let word = |column| text(row, column).map(Option::unwrap_or_default);
    let time = |column| row.get::<_, Option<i64>>(column).map(|at| at.map(rfc3339_ms));
    Ok(QueueRow {
        id: row.get("id")?,
        order: word("order_number")?,
        state: word("state")?,
        kind: word("kind")?,
        reason: text(row, "reason")?,
        flags: word("flags")?.split_whitespace().map(str::to_owned).collect(),
        gate: word("gate")?,
        lane: word("lane")?,
        passenger: masked(&word("passenger_tail")?),
        original_fen: row.get("original_fen")?,
        total_fen: row.get("total_fen")?,
        paid_fen: row.get("paid_fen")?,
        start_time: rfc3339_ms(row.get("start_utc_ms")?),
        end_time: time("end_utc_ms")?,
        has_start_code: row.get("has_start_code")?,
        attempts: row.get("attempts")?,
        last_error: text(row, "last_error")?,
        created_at: rfc3339_ms(row.get("created_utc_ms")?),
        accepted_at: time("accepted_utc_ms")?,
        settled_at: time("settled_utc_ms")?,
        transaction_id: text(row, "transaction_id")?,
    })
}

fn recorded_event(row: &Row<'_>) -> rusqlite::Result<QueueEvent> {
    let clock = if row.get("clock_synchronized")? { "synchronized" } else { "not synchronized" };
    let (station, total_fen) = (text(row, "station")?.unwrap_or_default(), row.get::<_, i64>("total_fen")?);
    let from = text(row, "start_station")?.filter(|from| *from != station).map_or(String::new(), |from| format!("from {from} to "));
    let fares = text(row, "fare_digest")?.map_or(String::new(), |digest| format!(", fare table {digest}"));
    Ok(QueueEvent {
        at: rfc3339_ms(row.get("created_utc_ms")?),
        event: "recorded".to_owned(),
        detail: Some(format!("{from}station {station}, {total_fen} fen{fares}, clock {clock}")),
    })
}
