//! What follows from an admitted tap: the deduction, the journey, the mark that the code was used.

use rusqlite::{named_params, params};

use super::{Context, Store, first_waiting, journeys::Entry};
use crate::{
    clock::Stamp,
    journey::{Charge, Kind, PastJourney, Plan, Record, Standing},
    ledger::{
        order::OrderNumber,
        types::{Admission, Admitted, Again, Bill, DeductionId, Entered, RecordId, Tap},
    },
};

/// A deduction to be recorded.
pub(super) struct NewDeduction<'a> {
    pub(super) charge: Charge,
    pub(super) lane: &'a str,
    pub(super) station: &'a str,
    pub(super) passenger: &'a [u8],
    pub(super) passenger_tail: &'a str,
    pub(super) code: &'a [u8],
    pub(super) code_digest: &'a [u8],
    /// The journey that it is charged for.
    pub(super) entry: Option<&'a Entry>,
    pub(super) recorded: &'a Stamp,
    /// Its turnstile, if it has one.
    pub(super) opening: Opening,
}

/// Which opening a deduction depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// Its own, which is about to come.
    Waiting { awaits_passage: bool },
    /// None, or that of the entry after it.
    Another { awaits_passage: bool },
}

/// A deduction as it was recorded.
pub(super) struct Recorded {
    pub(super) id: DeductionId,
    pub(super) order: OrderNumber,
    /// Whether it waits to be sent.
    pub(super) is_pending: bool,
}

/// The state that a deduction of this standing has, once somebody has passed where that is waited for.
fn landing(standing: Standing) -> &'static str {
    match standing {
        Standing::Due => "pending",
        Standing::Unmatched => "held",
        Standing::OverLimit => "parked",
        Standing::Free | Standing::AlreadyCharged | Standing::Unfinished => "void",
    }
}

impl Store {
    /// Records what was decided of a tap. `journey`: the one that the decision is about.
    pub(super) fn record(
        &self,
        tap: &Tap,
        plan: &Plan,
        journey: Option<&PastJourney>,
        context: &Context,
    ) -> rusqlite::Result<Admission> {
        // What an entry leaves unfinished is due when its passenger has gone in.
        let awaits_passage = plan.record == Record::Journey && tap.awaits_passage;
        let also_due = match (plan.ends, journey) {
            (Some(ending), Some(journey)) => self.end_journey(journey.id, ending, awaits_passage, &tap.scanned, context)?,
            _ => None,
        };
        match plan.record {
            Record::Journey => {
                let ended = plan.ends.and(journey).map(|journey| journey.id);
                let (journey, number) = self.begin_journey(tap, ended, context)?;
                self.see(tap, journey.into())?;
                Ok(Admission::Entered(Entered { journey, number, also_due }))
            }
            Record::Again { deduction } => {
                let order = self.open_once_more(deduction)?;
                let mark = self.see(tap, deduction.into())?;
                Ok(Admission::Again(Again { deduction, order, mark }))
            }
            Record::Charge(charge) => {
                let recorded = self.record_charge(tap, charge, journey, context)?;
                self.see(tap, recorded.id.into())?;
                let Recorded { id, order, .. } = recorded;
                Ok(Admission::Admitted(Admitted { id, order, kind: charge.kind, total: charge.total, also_due }))
            }
        }
    }

    fn record_charge(
        &self,
        tap: &Tap,
        charge: Charge,
        journey: Option<&PastJourney>,
        context: &Context,
    ) -> rusqlite::Result<Recorded> {
        let entry = match journey.filter(|_| charge.kind == Kind::Exit) {
            Some(journey) => Some(self.entry(journey.id, &tap.scanned)?),
            None => None,
        };
        let recorded = self.insert_deduction(
            &NewDeduction {
                charge,
                lane: &tap.lane,
                station: &tap.station,
                passenger: tap.code.passenger.key(),
                passenger_tail: tap.code.passenger.tail(),
                code: &tap.code.bytes.0,
                code_digest: &tap.code.digest.0,
                entry: entry.as_ref(),
                recorded: &tap.scanned,
                opening: Opening::Waiting { awaits_passage: tap.awaits_passage },
            },
            context,
        )?;
        if let Some(entry) = &entry {
            self.leave(entry.id, recorded.id, charge.standing)?;
        }
        Ok(recorded)
    }

    /// The code is used; the mark that says so.
    fn see(&self, tap: &Tap, record: RecordId) -> rusqlite::Result<i64> {
        let (deduction, journey) = match record {
            RecordId::Deduction(id) | RecordId::Again { deduction: id, .. } => (Some(id), None),
            RecordId::Journey(journey) => (None, Some(journey.0)),
        };
        self.connection
            .prepare_cached(
                "INSERT INTO seen (code_digest, passenger, lane, at_utc_ms, boot, at_boottime_ms, clock_synchronized, deduction, journey)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                tap.code.digest.0,
                tap.code.passenger.key(),
                tap.lane,
                tap.scanned.utc_ms,
                self.boot,
                tap.scanned.boottime_ms,
                tap.scanned.synchronized,
                deduction,
                journey,
            ])?;
        Ok(self.connection.last_insert_rowid())
    }

    /// Records a deduction with its order number and the bytes of its request.
    pub(super) fn insert_deduction(&self, new: &NewDeduction<'_>, context: &Context) -> rusqlite::Result<Recorded> {
        let order =
            OrderNumber::generate(new.recorded.utc_ms).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        let landing = landing(new.charge.standing);
        let is_void = landing == "void";
        let awaits_passage =
            matches!(new.opening, Opening::Waiting { awaits_passage: true } | Opening::Another { awaits_passage: true });
        let is_held = awaits_passage && !is_void;
        // Of an entry's opening the journey keeps account.
        let awaits = i64::from(new.opening == Opening::Waiting { awaits_passage: true });
        let state = if is_held { "held" } else { landing };
        let bill = bill(new, &order);
        let table = context.rules.tariff.table.as_ref();
        self.connection
            .prepare_cached(&format!(
                "INSERT INTO deduction (order_number, state, kind, reason, flags, gate, lane, station, line, journey, start_station,
                     fare_digest, passenger, passenger_tail, code_digest, original_fen, total_fen, start_utc_ms, end_utc_ms,
                     has_start_code, body, opening, waiting_from, after_passage, awaits, created_utc_ms, created_boot, created_boottime_ms,
                     clock_synchronized, settled_utc_ms)
                 VALUES (:order, :state, :kind, :reason, :flags, :gate, :lane, :station, :line, :journey, :start_station,
                     :fare_digest, :passenger, :tail, :digest, :original, :total, :start, :end,
                     :has_start_code, :body, :opening, {}, :after_passage, :awaits, :created, :boot, :boottime,
                     :synchronized, :settled)",
                first_waiting("deduction")
            ))?
            .execute(named_params! {
                ":order": order.as_str(),
                ":state": state,
                ":kind": new.charge.kind.as_str(),
                ":reason": new.charge.standing.reason(),
                ":flags": if new.charge.is_unknown_pair { "unknown-pair" } else { "" },
                ":gate": context.gate,
                ":lane": new.lane,
                ":station": new.station,
                ":line": context.line,
                ":journey": new.entry.map(|entry| entry.id),
                ":start_station": new.entry.map(|entry| &entry.station),
                ":fare_digest": table.map(|table| table.digest()),
                ":passenger": new.passenger,
                ":tail": new.passenger_tail,
                ":digest": new.code_digest,
                ":original": bill.original.0,
                ":total": bill.total.0,
                ":start": bill.start_utc_ms,
                ":end": bill.end_utc_ms,
                ":has_start_code": bill.start_code.is_some(),
                ":body": (!is_void).then(|| (context.body_maker)(&bill)),
                ":opening": if matches!(new.opening, Opening::Another { .. }) { "none" } else { "waiting" },
                ":after_passage": is_held.then_some(landing),
                ":awaits": awaits,
                ":created": new.recorded.utc_ms,
                ":boot": self.boot,
                ":boottime": new.recorded.boottime_ms,
                ":synchronized": new.recorded.synchronized,
                ":settled": is_void.then_some(new.recorded.utc_ms),
            })?;
        Ok(Recorded { id: self.connection.last_insert_rowid(), order, is_pending: state == "pending" })
    }
}

/// What the request says: which codes and times it carries is the contract's table of kinds.
fn bill<'a>(new: &NewDeduction<'a>, order: &'a OrderNumber) -> Bill<'a> {
    let (now, entered) = (new.recorded.utc_ms, new.entry.map_or(new.recorded.utc_ms, |entry| entry.at_utc_ms));
    let (start_utc_ms, end_utc_ms) = match new.charge.kind {
        Kind::Single => (now, None),
        Kind::Exit => (entered, Some(now)),
        Kind::UnmatchedExit => (now, Some(now)),
        Kind::UnfinishedEntry => (entered, None),
    };
    let start_code = new.entry.filter(|_| new.charge.kind == Kind::Exit).map(|entry| entry.code.as_slice());
    Bill {
        order,
        kind: new.charge.kind,
        code: new.code,
        start_code,
        original: new.charge.original,
        total: new.charge.total,
        start_utc_ms,
        end_utc_ms,
    }
}
