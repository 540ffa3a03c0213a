//! Journeys, and what a passage or its absence makes of a record.

use rusqlite::{OptionalExtension, Row, params};

use super::{
    CREATED, Context, Step, Store,
    recording::{NewDeduction, Opening},
    text,
    upkeep::{OPEN, STEP_ROWS_MAX},
};
use crate::{
    clock::{Stamp, rfc3339_ms},
    config::NoPassage,
    journey::{Ending, PastJourney, Progress, Standing},
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
/// What an opening that nobody passed is called.
const NO_PASSAGE: &str = "no-passage";

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
}

impl Store {
    // ---- taps --------------------------------------------------------------------------------------------------------------

    /// The passenger's latest journey that was not taken back, if it is open or was given up.
    pub(super) fn past_journey(&self, tap: &Tap) -> rusqlite::Result<Option<PastJourney>> {
        self.connection
            .prepare_cached(&format!(
                "SELECT id, state, station, code_digest = ?2 AS is_same_code, {CREATED},
                     EXISTS (SELECT 1 FROM deduction WHERE journey = j.id AND state <> 'void') AS is_charged
                 FROM (SELECT * FROM journey WHERE passenger = ?1 AND state <> 'taken-back' ORDER BY id DESC LIMIT 1) AS j
                 WHERE state IN ('open', 'unfinished')"
            ))?
            .query_row(params![tap.code.passenger.key(), tap.code.digest.0], |row| {
                let is_open = row.get_ref("state")?.as_str()? == "open";
                Ok(PastJourney {
                    id: row.get("id")?,
                    progress: if is_open { Progress::Open } else { Progress::Unfinished },
                    age: self.age(row, &tap.scanned)?,
                    station: row.get("station")?,
                    is_same_code: row.get("is_same_code")?,
                    is_charged: row.get("is_charged")?,
                })
            })
            .optional()
    }

    /// The beginning of a journey.
    pub(super) fn entry(&self, id: i64) -> rusqlite::Result<Entry> {
        self.connection.prepare_cached("SELECT * FROM journey WHERE id = ?")?.query_row([id], |row| {
            Ok(Entry {
                id,
                lane: row.get("lane")?,
                station: row.get("station")?,
                passenger: row.get("passenger")?,
                passenger_tail: row.get("passenger_tail")?,
                code: row.get("code")?,
                code_digest: row.get("code_digest")?,
                at_utc_ms: row.get("created_utc_ms")?,
            })
        })
    }

    pub(super) fn begin_journey(&self, tap: &Tap, ended: Option<i64>, context: &Context) -> rusqlite::Result<JourneyId> {
        let number =
            OrderNumber::generate(tap.scanned.utc_ms).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        self.connection
            .prepare_cached(
                "INSERT INTO journey (number, state, gate, lane, station, passenger, passenger_tail, code, code_digest, opening,
                     awaits_passage, ended, created_utc_ms, created_boot, created_boottime_ms, clock_synchronized)
                 VALUES (?, 'open', ?, ?, ?, ?, ?, ?, ?, 'waiting', ?, ?, ?, ?, ?, ?)",
            )?
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
        Ok(JourneyId(self.connection.last_insert_rowid()))
    }

    /// Ends a journey that has no exit; its deduction, if that is to be sent.
    pub(super) fn end_journey(
        &self,
        id: i64,
        ending: Ending,
        now: &Stamp,
        context: &Context,
    ) -> rusqlite::Result<Option<DeductionId>> {
        let Ending::Unfinished(charge) = ending else {
            self.connection
                .prepare_cached("UPDATE journey SET state = 'replaced' WHERE id = ? AND state = 'open'")?
                .execute([id])?;
            return Ok(None);
        };
        let entry = self.entry(id)?;
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
            opening: Opening::None,
        };
        let recorded = self.insert_deduction(&new, context)?;
        self.connection
            .prepare_cached("UPDATE journey SET state = 'unfinished', was_unfinished = 1, deduction = ? WHERE id = ?")?
            .execute([recorded.id, id])?;
        Ok(recorded.is_pending.then_some(recorded.id))
    }

    /// A journey has come to its exit; one that was given up and charged stays given up.
    pub(super) fn leave(&self, id: i64, deduction: DeductionId, standing: Standing) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("UPDATE journey SET state = 'exited', deduction = ?2 WHERE id = ?1 AND (state = 'open' OR NOT ?3)")?
            .execute(params![id, deduction, standing == Standing::AlreadyCharged])
            .map(drop)
    }

    // ---- openings and passages -----------------------------------------------------------------------------------------------

    pub(super) fn journey_opened(&self, id: JourneyId, at_utc_ms: i64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("UPDATE journey SET opening = 'opened', opened_utc_ms = ? WHERE id = ? AND opening = 'waiting'")?
            .execute([at_utc_ms, id.0])
            .map(drop)
    }

    /// The entry's opening did not happen: as if there had been no tap.
    pub(super) fn take_back_journey(&self, id: JourneyId, why: Untaken, at_utc_ms: i64) -> rusqlite::Result<()> {
        let changed = self
            .connection
            .prepare_cached(
                "UPDATE journey SET state = 'taken-back', opening = ?2 WHERE id = ?1 AND state = 'open' AND opening = 'waiting'",
            )?
            .execute(params![id.0, why.as_str()])?;
        if changed == 0 {
            return Ok(());
        }
        let forget = "DELETE FROM seen WHERE code_digest = (SELECT code_digest FROM journey WHERE id = ?1) AND journey = ?1";
        self.connection.prepare_cached(forget)?.execute([id.0])?;
        // Nothing was sent of what the journey before was to be charged: its deduction waited for this opening.
        let unsent = self
            .connection
            .prepare_cached(
                "SELECT d.id FROM deduction d JOIN journey new ON d.journey = new.ended
                 WHERE new.id = ? AND d.state = 'pending' AND d.kind = 'unfinished-entry' AND d.attempts = 0",
            )?
            .query_row([id.0], |row| row.get::<_, DeductionId>(0))
            .optional()?;
        if let Some(unsent) = unsent {
            self.make_void(unsent, why.as_str(), at_utc_ms)?;
        }
        self.open_again_what_it_ended(id)
    }

    /// The journey that ended with this one's entry goes on, unless it is charged already.
    fn open_again_what_it_ended(&self, id: JourneyId) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "UPDATE journey SET state = 'open', was_unfinished = 0, deduction = NULL
                 WHERE id = (SELECT ended FROM journey WHERE id = ?) AND state IN ('replaced', 'unfinished')
                   AND NOT EXISTS (SELECT 1 FROM deduction WHERE journey = journey.id AND state <> 'void')
                   AND NOT EXISTS (SELECT 1 FROM journey other WHERE other.passenger = journey.passenger AND other.state = 'open')",
            )?
            .execute([id.0])
            .map(drop)
    }

    /// The exit that this deduction was recorded for did not happen: its journey is as it was before.
    pub(super) fn reenter(&self, deduction: DeductionId) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "UPDATE journey SET
                     state = CASE WHEN was_unfinished THEN 'unfinished'
                         WHEN EXISTS (SELECT 1 FROM journey other WHERE other.passenger = journey.passenger AND other.state = 'open')
                         THEN 'replaced' ELSE 'open' END,
                     deduction = (SELECT max(id) FROM deduction WHERE journey = journey.id AND kind = 'unfinished-entry')
                 WHERE id = (SELECT journey FROM deduction WHERE id = ?1) AND state = 'exited' AND deduction = ?1",
            )?
            .execute([deduction])
            .map(drop)
    }

    /// Somebody passed, or nobody did in time.
    pub(in crate::ledger) fn passage(&self, passage: &Passage) -> rusqlite::Result<()> {
        let at_utc_ms = passage.at_utc_ms;
        match (passage.record, passage.outcome) {
            (RecordId::Deduction(id), PassageOutcome::Passed) => self.release(id, at_utc_ms, "passed", None),
            (RecordId::Deduction(id), PassageOutcome::NotPassed(NoPassage::Charge)) => {
                self.release(id, at_utc_ms, NO_PASSAGE, Some("charged all the same"))
            }
            (RecordId::Deduction(id), PassageOutcome::NotPassed(NoPassage::Void)) => self.void_for_no_passage(id, at_utc_ms),
            (RecordId::Journey(id), PassageOutcome::Passed) => self.journey_passed(id, Some(at_utc_ms)),
            (RecordId::Journey(id), PassageOutcome::NotPassed(NoPassage::Charge)) => self.journey_passed(id, None),
            (RecordId::Journey(id), PassageOutcome::NotPassed(NoPassage::Void)) => self.take_back_unpassed(id),
        }
    }

    /// held → what follows a passage.
    fn release(&self, id: DeductionId, at_utc_ms: i64, event: &str, detail: Option<&str>) -> rusqlite::Result<()> {
        let changed = self
            .connection
            .prepare_cached(
                "UPDATE deduction SET state = after_passage, after_passage = NULL
                 WHERE id = ? AND state = 'held' AND after_passage IS NOT NULL",
            )?
            .execute([id])?;
        if changed == 1 { self.event(id, at_utc_ms, event, detail) } else { Ok(()) }
    }

    fn void_for_no_passage(&self, id: DeductionId, at_utc_ms: i64) -> rusqlite::Result<()> {
        let is_held = self
            .connection
            .prepare_cached("SELECT 1 FROM deduction WHERE id = ? AND state = 'held' AND after_passage IS NOT NULL")?
            .exists([id])?;
        if !is_held {
            return Ok(());
        }
        self.make_void(id, NO_PASSAGE, at_utc_ms)?;
        self.reenter(id)
    }

    fn make_void(&self, id: DeductionId, reason: &str, at_utc_ms: i64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "UPDATE deduction SET state = 'void', reason = ?2, after_passage = NULL, settled_utc_ms = ?3 WHERE id = ?1",
            )?
            .execute(params![id, reason, at_utc_ms])?;
        self.event(id, at_utc_ms, "void", Some(reason))
    }

    fn journey_passed(&self, id: JourneyId, at_utc_ms: Option<i64>) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("UPDATE journey SET awaits_passage = 0, passed_utc_ms = ? WHERE id = ? AND awaits_passage")?
            .execute(params![at_utc_ms, id.0])
            .map(drop)
    }

    /// The passenger has not gone in. What the journey before is charged, if anything, stays: it may have been sent.
    fn take_back_unpassed(&self, id: JourneyId) -> rusqlite::Result<()> {
        let changed = self
            .connection
            .prepare_cached(
                "UPDATE journey SET state = 'taken-back', opening = ?2, awaits_passage = 0
                 WHERE id = ?1 AND state = 'open' AND awaits_passage",
            )?
            .execute(params![id.0, NO_PASSAGE])?;
        if changed == 1 { self.open_again_what_it_ended(id) } else { Ok(()) }
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
        self.connection
            .execute(&format!("UPDATE deduction SET state = after_passage, after_passage = NULL WHERE {waiting}"), [])?;
        self.connection.execute("UPDATE journey SET opening = 'unconfirmed' WHERE opening = 'waiting'", [])?;
        self.connection.execute("UPDATE journey SET awaits_passage = 0 WHERE state = 'open' AND awaits_passage", []).map(drop)
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
        self.end_journey(id, Ending::Unfinished(context.rules.unfinished(is_charged)), now, context)
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
