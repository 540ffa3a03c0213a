//! Journeys, and what a passage or its absence makes of a record.

use rusqlite::{OptionalExtension, Row, params};

use super::{
    CREATED, Context, Step, Store, first_waiting, from_first_waiting,
    recording::{NewDeduction, Opening},
    text,
    upkeep::{OPEN, STEP_ROWS_MAX},
};
use crate::{
    clock::{Stamp, rfc3339_ms},
    config::NoPassage,
    journey::{Age, Charge, Ending, PastJourney, Progress, Standing},
    ledger::{
        order::OrderNumber,
        types::{
            DeductionId, GateNote, JourneyId, JourneyRow, JourneysPage, JourneysRequest, Passage, PassageOutcome, QueueEvent,
            RecordId, Tap, Untaken,
        },
    },
    ride_code::masked,
};

/// Rows of one page of `journeys list` at most.
const PAGE_ROWS_MAX: usize = 500;
/// The reason of an exit without entry, held and then parked.
const UNMATCHED: &str = "unmatched";
/// So many entries in a row that came to nothing are passed over to find the journey before them.
const TAKEN_BACK_IN_A_ROW_MAX: usize = 32;
/// What an opening that nobody passed is called.
const NO_PASSAGE: &str = "no-passage";

/// Whether an entry has shown that its passenger came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaterEntry {
    Made,
    Undecided,
}

/// The beginning of a journey, as its deduction needs it.
pub(super) struct Entry {
    pub(super) id: i64,
    pub(super) lane: String,
    pub(super) station: String,
    pub(super) passenger: Vec<u8>,
    pub(super) passenger_tail: String,
    pub(super) code: Vec<u8>,
    pub(super) code_digest: Vec<u8>,
    pub(super) at_utc_ms: i64,
    /// Whether nobody knows yet that he came in.
    pub(super) awaits_passage: bool,
}

impl Store {
    // ---- taps --------------------------------------------------------------------------------------------------------------

    /// The passenger's latest journey that was not taken back, if it is open or was given up, or if he has not passed its exit yet.
    pub(super) fn past_journey(&self, tap: &Tap) -> rusqlite::Result<Option<PastJourney>> {
        self.connection
            .prepare_cached(&format!(
                "SELECT id, state, station, left_by, code_digest = ?2 AS is_same_code, opening = 'waiting' AS is_opening, {CREATED},
                     EXISTS (SELECT 1 FROM deduction WHERE journey = j.id AND state <> 'void') AS is_charged
                 FROM (SELECT * FROM journey WHERE id = ifnull(
                     (SELECT id FROM journey WHERE passenger = ?1 AND state = 'open'),
                     (SELECT id FROM journey WHERE passenger = ?1 AND state <> 'taken-back' ORDER BY id DESC LIMIT 1))) AS j
                 WHERE state IN ('open', 'unfinished')
                    OR (state = 'exited' AND EXISTS (SELECT 1 FROM deduction WHERE id = j.left_by AND awaits > 0))"
            ))?
            .query_row(params![tap.code.passenger.key(), tap.code.digest.0], |row| {
                let progress = match row.get_ref("state")?.as_str()? {
                    "open" => Progress::Open,
                    "exited" => Progress::Leaving { by: row.get("left_by")? },
                    _ => Progress::Unfinished,
                };
                Ok(PastJourney {
                    id: row.get("id")?,
                    progress,
                    age: self.age(row, &tap.scanned)?,
                    station: row.get("station")?,
                    is_same_code: row.get("is_same_code")?,
                    is_charged: row.get("is_charged")?,
                    is_opening: row.get("is_opening")?,
                })
            })
            .optional()
    }

    /// The beginning of a journey, as it is known at `now`.
    pub(super) fn entry(&self, id: i64, now: &Stamp) -> rusqlite::Result<Entry> {
        let sql = format!("SELECT *, {CREATED} FROM journey WHERE id = ?");
        self.connection.prepare_cached(&sql)?.query_row([id], |row| {
            Ok(Entry {
                id,
                lane: row.get("lane")?,
                station: row.get("station")?,
                passenger: row.get("passenger")?,
                passenger_tail: row.get("passenger_tail")?,
                code: row.get("code")?,
                code_digest: row.get("code_digest")?,
                at_utc_ms: self.known_now(row, now)?,
                awaits_passage: row.get("awaits_passage")?,
            })
        })
    }

    /// When a row was made: by its own clock, or, if that was not synchronized then and is now, by how long ago it was.
    fn known_now(&self, row: &Row<'_>, now: &Stamp) -> rusqlite::Result<i64> {
        match self.age(row, now)? {
            Age::ThisBoot { ms } if now.synchronized && !row.get("clock_synchronized")? => Ok(now.utc_ms - ms),
            _ => row.get("at_utc_ms"),
        }
    }

    /// One more opening for a deduction whose passenger has not passed yet.
    pub(super) fn open_once_more(&self, id: DeductionId) -> rusqlite::Result<OrderNumber> {
        let number: String = self
            .connection
            .prepare_cached("UPDATE deduction SET awaits = awaits + 1 WHERE id = ? RETURNING order_number")?
            .query_row([id], |row| row.get(0))?;
        OrderNumber::parse(&number).ok_or(rusqlite::Error::InvalidQuery)
    }

    pub(super) fn begin_journey(
        &self,
        tap: &Tap,
        ended: Option<i64>,
        context: &Context,
    ) -> rusqlite::Result<(JourneyId, OrderNumber)> {
        let number =
            OrderNumber::generate(tap.scanned.utc_ms).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        self.connection
            .prepare_cached(&format!(
                "INSERT INTO journey (number, state, gate, lane, station, passenger, passenger_tail, code, code_digest, opening,
                     waiting_from, awaits_passage, ended, created_utc_ms, created_boot, created_boottime_ms, clock_synchronized)
                 VALUES (?, 'open', ?, ?, ?, ?, ?, ?, ?, 'waiting', {}, ?, ?, ?, ?, ?, ?)",
                first_waiting("journey")
            ))?
            .execute(params![
                number.as_str(),
                context.gate,
                tap.lane,
                tap.station,
                tap.code.passenger.key(),
                tap.code.passenger.tail(),
                tap.code.bytes.0,
                tap.code.digest.0,
                tap.awaits_passage,
                ended,
                tap.scanned.utc_ms,
                self.boot,
                tap.scanned.boottime_ms,
                tap.scanned.synchronized,
            ])?;
        Ok((JourneyId(self.connection.last_insert_rowid()), number))
    }

    /// Ends a journey that has no exit; its deduction, if that is to be sent now. `awaits_passage`: whether it is due only when the
    /// passenger of the tap that ends it has passed.
    pub(super) fn end_journey(
        &self,
        id: i64,
        ending: Ending,
        awaits_passage: bool,
        now: &Stamp,
        context: &Context,
    ) -> rusqlite::Result<Option<DeductionId>> {
        match ending {
            Ending::Replaced => {
                let replace = "UPDATE journey SET state = 'replaced' WHERE id = ? AND state = 'open'";
                self.connection.prepare_cached(replace)?.execute([id])?;
                Ok(None)
            }
            Ending::Left { by } => {
                self.release(by, now.utc_ms, "passed", Some("seen at an entry")).map(|is_due| is_due.then_some(by))
            }
            Ending::Unfinished(charge) => self.give_up(id, charge, awaits_passage, now, context),
        }
    }

    fn give_up(
        &self,
        id: i64,
        charge: Charge,
        awaits_passage: bool,
        now: &Stamp,
        context: &Context,
    ) -> rusqlite::Result<Option<DeductionId>> {
        let entry = self.entry(id, now)?;
        let new = NewDeduction {
            charge,
            lane: &entry.lane,
            station: &entry.station,
            passenger: &entry.passenger,
            passenger_tail: &entry.passenger_tail,
            code: &entry.code,
            code_digest: &entry.code_digest,
            entry: Some(&entry),
            recorded: now,
            opening: Opening::Another { awaits_passage: awaits_passage || entry.awaits_passage },
        };
        let recorded = self.insert_deduction(&new, context)?;
        self.connection
            .prepare_cached("UPDATE journey SET state = 'unfinished', was_unfinished = 1, deduction = ? WHERE id = ?")?
            .execute([recorded.id, id])?;
        Ok(recorded.is_pending.then_some(recorded.id))
    }

    /// A journey has come to its exit. One that was charged already keeps that deduction.
    pub(super) fn leave(&self, id: i64, exit: DeductionId, standing: Standing) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "UPDATE journey SET state = 'exited', left_by = ?2, deduction = CASE WHEN ?3 THEN deduction ELSE ?2 END WHERE id = ?1",
            )?
            .execute(params![id, exit, standing == Standing::AlreadyCharged])
            .map(drop)
    }

    // ---- openings and passages -----------------------------------------------------------------------------------------------

    pub(super) fn journey_opened(&self, id: JourneyId, at_utc_ms: i64) -> rusqlite::Result<()> {
        let awaits_passage: Option<bool> = self
            .connection
            .prepare_cached(
                "UPDATE journey SET opening = 'opened', opened_utc_ms = ? WHERE id = ? AND opening = 'waiting' RETURNING awaits_passage",
            )?
            .query_row([at_utc_ms, id.0], |row| row.get(0))
            .optional()?;
        if awaits_passage == Some(false) { self.release_before(id, at_utc_ms, "the next entry opened") } else { Ok(()) }
    }

    /// The entry's opening did not happen: as if there had been no tap. Where the passenger is at an exit already, that decides whether
    /// there was a journey.
    pub(super) fn take_back_journey(&self, id: JourneyId, why: Untaken, at_utc_ms: i64) -> rusqlite::Result<()> {
        let state: Option<String> = self
            .connection
            .prepare_cached(
                "UPDATE journey SET state = CASE state WHEN 'exited' THEN state ELSE 'taken-back' END, opening = ?2, awaits_passage = 0
                 WHERE id = ?1 AND state <> 'taken-back' AND opening = 'waiting' RETURNING state",
            )?
            .query_row(params![id.0, why.as_str()], |row| row.get(0))
            .optional()?;
        let Some(state) = state else { return Ok(()) };
        if state == "taken-back" { self.came_to_nothing(id, why.as_str(), at_utc_ms) } else { self.exit_decides(id, at_utc_ms) }
    }

    /// What an entry that is taken back leaves: its code may be used again unless it had opened, and the journey before goes on.
    fn came_to_nothing(&self, id: JourneyId, why: &str, at_utc_ms: i64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "DELETE FROM seen WHERE journey = ?1
                     AND code_digest = (SELECT code_digest FROM journey WHERE id = ?1 AND opening IN ('late', 'not-opened'))",
            )?
            .execute([id.0])?;
        let Some(before) = self.ended_with(id)? else { return Ok(()) };
        // What that was to cost has waited for this entry.
        if let Some(unsent) = self.unsent_for(before)? {
            match self.later_entry(id)? {
                Some(LaterEntry::Made) => drop(self.release(unsent, at_utc_ms, "passed", Some("a later entry"))?),
                Some(LaterEntry::Undecided) => self.hold(unsent)?,
                None => self.make_void(unsent, why, at_utc_ms)?,
            }
        }
        self.go_on(before)
    }

    /// What the passenger's entries after this one, if there are any, say about the journeys before it.
    fn later_entry(&self, id: JourneyId) -> rusqlite::Result<Option<LaterEntry>> {
        self.connection
            .prepare_cached(
                "SELECT opening = 'waiting' OR awaits_passage OR (state = 'exited' AND opening IN ('no-passage', 'late', 'not-opened')
                     AND EXISTS (SELECT 1 FROM deduction WHERE id = left_by AND (opening = 'waiting' OR awaits > 0))) AS is_undecided
                 FROM journey
                 WHERE passenger = (SELECT passenger FROM journey WHERE id = ?1) AND id > ?1 AND state <> 'taken-back'
                 ORDER BY is_undecided LIMIT 1",
            )?
            .query_row([id.0], |row| Ok(if row.get(0)? { LaterEntry::Undecided } else { LaterEntry::Made }))
            .optional()
    }

    /// An entry that nobody was seen to make, and an exit for it: who goes out there was in, and what the journey before was to cost
    /// is due. While that is not decided it waits.
    fn exit_decides(&self, id: JourneyId, at_utc_ms: i64) -> rusqlite::Result<()> {
        let is_undecided =
            "SELECT d.opening = 'waiting' OR d.awaits > 0 FROM journey j JOIN deduction d ON d.id = j.left_by WHERE j.id = ?";
        if !self.connection.prepare_cached(is_undecided)?.query_row([id.0], |row| row.get(0)).optional()?.unwrap_or(false) {
            return self.release_before(id, at_utc_ms, "the exit of the next journey");
        }
        match self.ended_with(id)?.map(|before| self.unsent_for(before)).transpose()?.flatten() {
            Some(unsent) => self.hold(unsent),
            None => Ok(()),
        }
    }

    /// The passenger has gone out by this exit: he had come in, seen or not.
    pub(super) fn exit_is_made(&self, exit: DeductionId, at_utc_ms: i64) -> rusqlite::Result<()> {
        let unseen: Option<i64> = self
            .connection
            .prepare_cached(
                "SELECT j.id FROM deduction d JOIN journey j ON j.id = d.journey
                 WHERE d.id = ?1 AND d.awaits = 0 AND j.left_by = ?1 AND j.state = 'exited' AND j.opening IN ('no-passage', 'late', 'not-opened')",
            )?
            .query_row([exit], |row| row.get(0))
            .optional()?;
        unseen.map_or(Ok(()), |id| self.release_before(JourneyId(id), at_utc_ms, "the exit of the next journey"))
    }

    /// What the journey before this one was to cost is due, if it waits.
    fn release_before(&self, id: JourneyId, at_utc_ms: i64, detail: &str) -> rusqlite::Result<()> {
        match self.ended_with(id)? {
            Some(before) => self.release_of(before, at_utc_ms, detail),
            None => Ok(()),
        }
    }

    /// What a journey that was given up costs is due, if it waits and the passenger has come in then.
    fn release_of(&self, journey: i64, at_utc_ms: i64, detail: &str) -> rusqlite::Result<()> {
        let is_undecided = "SELECT 1 FROM journey WHERE id = ? AND awaits_passage";
        if self.connection.prepare_cached(is_undecided)?.exists([journey])? {
            return Ok(());
        }
        match self.held_for(journey)? {
            Some(held) => self.release(held, at_utc_ms, "passed", Some(detail)).map(drop),
            None => Ok(()),
        }
    }

    /// A deduction of which nothing was sent waits for a passage.
    fn hold(&self, unsent: DeductionId) -> rusqlite::Result<()> {
        let hold = "UPDATE deduction SET after_passage = state, state = 'held' WHERE id = ? AND after_passage IS NULL";
        self.connection.prepare_cached(hold)?.execute([unsent]).map(drop)
    }

    /// A tap that was to open once more for a deduction did not.
    pub(super) fn take_back_again(&self, deduction: DeductionId, mark: i64, at_utc_ms: i64) -> rusqlite::Result<()> {
        let changed =
            self.connection.prepare_cached("DELETE FROM seen WHERE seq = ? AND deduction = ?")?.execute([mark, deduction])?;
        if changed == 1 { self.not_passed(deduction, at_utc_ms) } else { Ok(()) }
    }

    /// An entry has come to nothing: the journey that it had ended goes on, unless that is charged already or the passenger has begun
    /// another one since.
    fn go_on(&self, journey: i64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "UPDATE journey SET state = 'open', was_unfinished = 0, deduction = NULL
                 WHERE id = ? AND state IN ('replaced', 'unfinished')
                   AND NOT EXISTS (SELECT 1 FROM deduction WHERE journey = journey.id AND state <> 'void')
                   AND NOT EXISTS (SELECT 1 FROM journey other WHERE other.passenger = journey.passenger
                       AND other.id > journey.id AND other.state <> 'taken-back')",
            )?
            .execute([journey])
            .map(drop)
    }

    /// The journey that ended with this one's entry; those that came to nothing themselves are passed over.
    fn ended_with(&self, id: JourneyId) -> rusqlite::Result<Option<i64>> {
        let mut before = Some(id.0);
        for _ in 0..TAKEN_BACK_IN_A_ROW_MAX {
            let Some(here) = before else { return Ok(None) };
            before =
                self.connection.prepare_cached("SELECT ended FROM journey WHERE id = ?")?.query_row([here], |row| row.get(0))?;
            let Some(ended) = before else { return Ok(None) };
            let is_taken_back = "SELECT 1 FROM journey WHERE id = ? AND state = 'taken-back'";
            if !self.connection.prepare_cached(is_taken_back)?.exists([ended])? {
                return Ok(Some(ended));
            }
        }
        Ok(None)
    }

    /// The deduction of a journey that was given up, while nobody can have been sent it.
    fn unsent_for(&self, journey: i64) -> rusqlite::Result<Option<DeductionId>> {
        self.connection
            .prepare_cached(
                "SELECT id FROM deduction
                 WHERE journey = ? AND kind = 'unfinished-entry' AND state IN ('held', 'pending') AND attempts = 0",
            )?
            .query_row([journey], |row| row.get(0))
            .optional()
    }

    /// The deduction of a journey that was given up, while it waits for the passage of the entry after it.
    fn held_for(&self, journey: i64) -> rusqlite::Result<Option<DeductionId>> {
        self.connection
            .prepare_cached(
                "SELECT id FROM deduction WHERE journey = ? AND kind = 'unfinished-entry' AND state = 'held' AND after_passage IS NOT NULL",
            )?
            .query_row([journey], |row| row.get(0))
            .optional()
    }

    /// The exit that this deduction was recorded for did not happen: its journey is as it was before. One that the passenger has begun
    /// since shows that he is on this one no more.
    pub(super) fn reenter(&self, deduction: DeductionId, at_utc_ms: i64) -> rusqlite::Result<()> {
        let left: Option<(i64, String)> = self
            .connection
            .prepare_cached(
                "UPDATE journey SET
                     state = CASE WHEN opening IN ('no-passage', 'late', 'not-opened') THEN 'taken-back'
                         WHEN was_unfinished THEN 'unfinished'
                         WHEN EXISTS (SELECT 1 FROM journey other WHERE other.passenger = journey.passenger
                             AND other.id > journey.id AND other.state <> 'taken-back')
                         THEN 'replaced' ELSE 'open' END,
                     left_by = NULL,
                     deduction = (SELECT max(id) FROM deduction WHERE journey = journey.id AND kind = 'unfinished-entry')
                 WHERE id = (SELECT journey FROM deduction WHERE id = ?1) AND state = 'exited' AND left_by = ?1 RETURNING id, state",
            )?
            .query_row([deduction], |row| row.try_into())
            .optional()?;
        match left {
            Some((id, state)) if state == "taken-back" => self.came_to_nothing(JourneyId(id), NO_PASSAGE, at_utc_ms),
            _ => Ok(()),
        }
    }

    /// Somebody passed, or nobody did in time.
    pub(in crate::ledger) fn passage(&self, passage: &Passage) -> rusqlite::Result<()> {
        let at_utc_ms = passage.at_utc_ms;
        match (passage.record, passage.outcome) {
            (RecordId::Deduction(id) | RecordId::Again { deduction: id, .. }, outcome) => match outcome {
                PassageOutcome::Passed => self.release(id, at_utc_ms, "passed", None).map(drop),
                PassageOutcome::NotPassed(NoPassage::Charge) => {
                    self.release(id, at_utc_ms, NO_PASSAGE, Some("charged all the same")).map(drop)
                }
                PassageOutcome::NotPassed(NoPassage::Void) => self.not_passed(id, at_utc_ms),
            },
            (RecordId::Journey(id), PassageOutcome::Passed) => self.journey_passed(id, Some(at_utc_ms), at_utc_ms),
            (RecordId::Journey(id), PassageOutcome::NotPassed(NoPassage::Charge)) => self.journey_passed(id, None, at_utc_ms),
            (RecordId::Journey(id), PassageOutcome::NotPassed(NoPassage::Void)) => self.take_back_unpassed(id, at_utc_ms),
        }
    }

    /// held → what follows a passage; whether that is to be sent.
    fn release(&self, id: DeductionId, at_utc_ms: i64, event: &str, detail: Option<&str>) -> rusqlite::Result<bool> {
        let state = self
            .connection
            .prepare_cached(
                "UPDATE deduction SET state = after_passage, after_passage = NULL, awaits = 0
                 WHERE id = ? AND state = 'held' AND after_passage IS NOT NULL RETURNING state",
            )?
            .query_row([id], |row| row.get::<_, String>(0))
            .optional()?;
        let Some(state) = state else {
            // What is void already waits for nobody any more either.
            let changed =
                self.connection.prepare_cached("UPDATE deduction SET awaits = 0 WHERE id = ? AND awaits > 0")?.execute([id])?;
            if changed == 1 {
                self.exit_is_made(id, at_utc_ms)?;
            }
            return Ok(false);
        };
        self.event(id, at_utc_ms, event, detail)?;
        self.exit_is_made(id, at_utc_ms)?;
        let is_due = state == "pending";
        if is_due {
            self.due.set(Some(self.due.get().map_or(id, |lowest| lowest.min(id))));
        }
        Ok(is_due)
    }

    /// Nobody passed one of the openings of this deduction; after the last of them nothing is charged, and its journey goes on.
    fn not_passed(&self, id: DeductionId, at_utc_ms: i64) -> rusqlite::Result<()> {
        let left: Option<(i64, bool)> = self
            .connection
            .prepare_cached(
                "UPDATE deduction SET awaits = awaits - 1 WHERE id = ? AND awaits > 0 RETURNING awaits, state = 'held'",
            )?
            .query_row([id], |row| row.try_into())
            .optional()?;
        match left {
            Some((0, is_held)) => {
                if is_held {
                    self.make_void(id, NO_PASSAGE, at_utc_ms)?;
                } else {
                    // A free one, or one that a person has made void: the story says why its journey goes on.
                    self.event(id, at_utc_ms, NO_PASSAGE, None)?;
                }
                self.reenter(id, at_utc_ms)
            }
            _ => Ok(()),
        }
    }

    fn make_void(&self, id: DeductionId, reason: &str, at_utc_ms: i64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "UPDATE deduction SET state = 'void', reason = ?2, after_passage = NULL, awaits = 0, settled_utc_ms = ?3 WHERE id = ?1",
            )?
            .execute(params![id, reason, at_utc_ms])?;
        self.event(id, at_utc_ms, "void", Some(reason))
    }

    /// The passenger has gone in: what he left unfinished before is due.
    fn journey_passed(&self, id: JourneyId, passed_utc_ms: Option<i64>, at_utc_ms: i64) -> rusqlite::Result<()> {
        let changed = self
            .connection
            .prepare_cached("UPDATE journey SET awaits_passage = 0, passed_utc_ms = ? WHERE id = ? AND awaits_passage")?
            .execute(params![passed_utc_ms, id.0])?;
        if changed == 0 {
            return Ok(());
        }
        if self.later_entry(id)? == Some(LaterEntry::Made) {
            self.release_of(id.0, at_utc_ms, "and a later entry")?;
        }
        self.release_before(id, at_utc_ms, "the next entry")
    }

    /// The passenger has not gone in, whatever has become of his journey meanwhile. One that an exit has ended already is taken back
    /// only when nobody passes that either.
    fn take_back_unpassed(&self, id: JourneyId, at_utc_ms: i64) -> rusqlite::Result<()> {
        let state: Option<String> = self
            .connection
            .prepare_cached(
                "UPDATE journey SET state = CASE state WHEN 'exited' THEN state ELSE 'taken-back' END, opening = ?2, awaits_passage = 0
                 WHERE id = ?1 AND awaits_passage RETURNING state",
            )?
            .query_row(params![id.0, NO_PASSAGE], |row| row.get(0))
            .optional()?;
        let Some(state) = state else { return Ok(()) };
        if state != "taken-back" {
            return self.exit_decides(id, at_utc_ms);
        }
        if let Some(held) = self.held_for(id.0)? {
            self.make_void(held, NO_PASSAGE, at_utc_ms)?;
        }
        self.came_to_nothing(id, NO_PASSAGE, at_utc_ms)
    }

    /// After a start: nobody saw whether those who were let through passed; they count as having passed. Entries whose opening was
    /// not confirmed count as entered.
    pub(in crate::ledger) fn settle_unseen_passages(&self, at_utc_ms: i64) -> rusqlite::Result<()> {
        let waiting = format!("state = 'held' AND {OPEN} AND after_passage IS NOT NULL");
        self.connection.execute(
            &format!(
                "INSERT INTO event (deduction, at_utc_ms, event) SELECT id, ?, 'passage-unseen' FROM deduction WHERE {waiting}"
            ),
            [at_utc_ms],
        )?;
        self.connection.execute(
            &format!("UPDATE deduction SET state = after_passage, after_passage = NULL, awaits = 0 WHERE {waiting}"),
            [],
        )?;
        self.connection.execute("UPDATE deduction SET awaits = 0 WHERE awaits > 0", [])?;
        let waiting = format!("opening = 'waiting' AND {}", from_first_waiting("journey"));
        self.connection.execute(&format!("UPDATE journey SET opening = 'unconfirmed' WHERE {waiting}"), [])?;
        self.connection.execute("UPDATE journey SET awaits_passage = 0 WHERE awaits_passage", []).map(drop)
    }

    /// Something at a lane that concerns no record.
    pub(in crate::ledger) fn note(&self, note: &GateNote, uncounted_before: u64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "INSERT INTO gate_event (at_utc_ms, boot, at_boottime_ms, clock_synchronized, lane, event, uncounted_before)
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                note.at.utc_ms,
                self.boot,
                note.at.boottime_ms,
                note.at.synchronized,
                note.lane,
                note.event,
                i64::try_from(uncounted_before).unwrap_or(i64::MAX)
            ])
            .map(drop)
    }

    // ---- the sweep -----------------------------------------------------------------------------------------------------------

    /// The next open journeys above `after_id` that are surely too old, each by its own clock.
    pub(in crate::ledger) fn overdue_journeys(&self, after_id: i64, context: &Context, now: &Stamp) -> rusqlite::Result<Step> {
        let sql = format!(
            "SELECT id, opening <> 'waiting' AND NOT awaits_passage AS is_free, {CREATED} FROM journey
             WHERE state = 'open' AND id > ? ORDER BY id LIMIT ?"
        );
        self.step_each(&sql, after_id, context.rules.holes.max_journey_ms, now)
    }

    /// Gives a journey up, as an exit that came now would; its deduction, if that is to be sent.
    pub(in crate::ledger) fn sweep(&self, id: i64, context: &Context, now: &Stamp) -> rusqlite::Result<Option<DeductionId>> {
        let is_charged =
            self.connection.prepare_cached("SELECT 1 FROM deduction WHERE journey = ? AND state <> 'void'")?.exists([id])?;
        self.give_up(id, context.rules.unfinished(is_charged), false, now, context)
    }

    /// The next exits without entry above `after_id` that have been held long enough.
    pub(in crate::ledger) fn unmatched_over(&self, after_id: i64, hold_ms: i64, now: &Stamp) -> rusqlite::Result<Step> {
        let sql = format!(
            "SELECT id, reason = '{UNMATCHED}' AND after_passage IS NULL AND opening <> 'waiting' AS is_free, {CREATED} FROM deduction
             WHERE state = 'held' AND {OPEN} AND id > ? ORDER BY id LIMIT ?"
        );
        self.step_each(&sql, after_id, hold_ms, now)
    }

    /// held → parked: a person decides.
    pub(in crate::ledger) fn park_unmatched(&self, id: DeductionId, at_utc_ms: i64) -> rusqlite::Result<()> {
        self.connection.prepare_cached("UPDATE deduction SET state = 'parked' WHERE id = ? AND state = 'held'")?.execute([id])?;
        self.event(id, at_utc_ms, "parked", Some(UNMATCHED))
    }

    /// The next journeys above `after_id` that are older than `keep_ms` and have no deduction any more.
    pub(in crate::ledger) fn ended_journeys_over(
        &self,
        after_id: i64,
        keep_ms: i64,
        now: &Stamp,
        over_up_to: i64,
    ) -> rusqlite::Result<Step> {
        let sql = format!(
            "SELECT id, state <> 'open' AND id < (SELECT max(id) FROM journey)
                 AND NOT EXISTS (SELECT 1 FROM deduction WHERE journey = journey.id) AS is_free, {CREATED}
             FROM journey WHERE id > ? ORDER BY id LIMIT ?"
        );
        self.step_in_order(&sql, after_id, keep_ms, now, over_up_to)
    }

    pub(in crate::ledger) fn remove_journey(&self, id: i64) -> rusqlite::Result<()> {
        self.connection.prepare_cached("DELETE FROM journey WHERE id = ?")?.execute([id]).map(drop)
    }

    /// The next notes of the lanes above `after_id` that are older than `keep_ms`.
    pub(in crate::ledger) fn notes_over(
        &self,
        after_id: i64,
        keep_ms: i64,
        now: &Stamp,
        over_up_to: i64,
    ) -> rusqlite::Result<Step> {
        let sql = "SELECT id, 1 AS is_free, boot, at_boottime_ms, at_utc_ms, clock_synchronized FROM gate_event WHERE id > ? ORDER BY id LIMIT ?";
        self.step_in_order(sql, after_id, keep_ms, now, over_up_to)
    }

    pub(in crate::ledger) fn remove_note(&self, id: i64) -> rusqlite::Result<()> {
        self.connection.prepare_cached("DELETE FROM gate_event WHERE id = ?")?.execute([id]).map(drop)
    }

    // ---- for people ----------------------------------------------------------------------------------------------------------

    /// A page of journeys, oldest first.
    pub(in crate::ledger) fn journeys(&self, request: &JourneysRequest) -> rusqlite::Result<JourneysPage> {
        let limit = request.limit.min(PAGE_ROWS_MAX);
        let condition = if request.open_only { "AND state = 'open'" } else { "" };
        let rows = self
            .connection
            .prepare_cached(&format!(
                "SELECT *, (SELECT order_number FROM deduction WHERE deduction.id = journey.deduction) AS order_number
                 FROM journey WHERE id > ? {condition} ORDER BY id LIMIT ?"
            ))?
            .query_map(params![request.after_id, i64::try_from(limit).unwrap_or(i64::MAX)], journey_row)?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let next_after_id = rows.last().filter(|_| rows.len() == limit).map(|row| row.id);
        Ok(JourneysPage { rows, next_after_id })
    }

    /// How the journey of a deduction began, oldest first.
    pub(super) fn entry_events(&self, journey: i64) -> rusqlite::Result<Vec<QueueEvent>> {
        let found = self.connection.prepare_cached("SELECT * FROM journey WHERE id = ?")?.query_row([journey], entry_events);
        Ok(found.optional()?.unwrap_or_default())
    }
}

const _: () = assert!(STEP_ROWS_MAX <= PAGE_ROWS_MAX);

fn journey_row(row: &Row<'_>) -> rusqlite::Result<JourneyRow> {
    let word = |column| text(row, column).map(Option::unwrap_or_default);
    Ok(JourneyRow {
        id: row.get("id")?,
        journey: word("number")?,
        passenger: masked(&word("passenger_tail")?),
        entry_station: word("station")?,
        entry_lane: word("lane")?,
        entry_at: rfc3339_ms(row.get("created_utc_ms")?),
        state: word("state")?,
        order: text(row, "order_number")?,
    })
}

fn entry_events(row: &Row<'_>) -> rusqlite::Result<Vec<QueueEvent>> {
    let word = |column| text(row, column).map(Option::unwrap_or_default);
    let (station, lane, number) = (word("station")?, word("lane")?, word("number")?);
    let event = |column, event: &str, detail: String| -> rusqlite::Result<Option<QueueEvent>> {
        let at: Option<i64> = row.get(column)?;
        Ok(at.map(|at| QueueEvent { at: rfc3339_ms(at), event: event.to_owned(), detail: Some(detail) }))
    };
    let entered = event("created_utc_ms", "entered", format!("station {station}, lane {lane}, journey {number}"))?;
    let opened = event("opened_utc_ms", "opened", "for the entry".to_owned())?;
    let passed = event("passed_utc_ms", "passed", "the entry".to_owned())?;
    Ok([entered, opened, passed].into_iter().flatten().collect())
}
