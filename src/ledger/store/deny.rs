//! The deny-list: two look-ups by key in a scan's transaction, and small steps for everything else.

use rusqlite::{OptionalExtension, Row, params};

use super::Store;
use crate::{
    clock::rfc3339_ms,
    ledger::{
        DENY_BATCH_MAX, DenyCard, DenyChange, DenyChangeKind, DenyChanged, DenyPage, DenyPageRequest, DenySource, DenyState,
        FinishImport, Unpaid,
    },
    ride_code::{CardAccount, VerifiedCode},
};

/// Whether a card is on the list.
pub(in crate::ledger) const IS_LISTED: &str = "SELECT EXISTS (SELECT 1 FROM deny_local WHERE card = ?1)
     OR EXISTS (SELECT 1 FROM deny_card WHERE version = (SELECT version FROM deny_list) AND card = ?1)";
/// Whether a passenger owes.
pub(in crate::ledger) const OWES: &str = "SELECT 1 FROM deduction WHERE passenger = ? AND state = 'unpaid' LIMIT 1";
/// [`DENY_BATCH_MAX`] as SQLite takes it.
const BATCH_ROWS: u32 = 500;
const _: () = assert!(BATCH_ROWS as usize == DENY_BATCH_MAX);
/// Rows of `deny_change` that are kept.
const CHANGES_MAX: i64 = 10_000;

impl Store {
    /// Whether a code's card is on the list, or its passenger owes where that denies.
    pub(super) fn is_denied(&self, code: &VerifiedCode, unpaid: Unpaid) -> rusqlite::Result<bool> {
        if let Some(terms) = &code.terms {
            let is_listed = self.connection.prepare_cached(IS_LISTED)?.query_row([terms.card.as_packed()], |row| row.get(0))?;
            if is_listed {
                return Ok(true);
            }
        }
        Ok(unpaid == Unpaid::Denies && self.connection.prepare_cached(OWES)?.exists([code.passenger.key()])?)
    }

    pub(in crate::ledger) fn deny_state(&self) -> rusqlite::Result<DenyState> {
        let sql = "SELECT version, cards, (SELECT count(*) FROM deny_local) FROM deny_list";
        self.connection.query_row(sql, [], |row| {
            let count = |column| row.get::<_, i64>(column).map(|count| u64::try_from(count).unwrap_or(0));
            Ok(DenyState { version: row.get(0)?, imported: count(1)?, local: count(2)? })
        })
    }

    pub(in crate::ledger) fn deny_file_digest(&self) -> rusqlite::Result<Option<[u8; 32]>> {
        self.connection.query_row("SELECT file_digest FROM deny_list", [], |row| row.get(0))
    }

    /// The next version.
    pub(in crate::ledger) fn begin_deny_import(&self) -> rusqlite::Result<i64> {
        self.connection
            .query_row("UPDATE deny_list SET newest_version = newest_version + 1 RETURNING newest_version", [], |row| row.get(0))
    }

    /// How many of these were new.
    pub(in crate::ledger) fn load_deny_cards(&self, version: i64, cards: &[CardAccount]) -> rusqlite::Result<u64> {
        let mut insert = self.connection.prepare("INSERT OR IGNORE INTO deny_card (version, card) VALUES (?, ?)")?;
        let mut new = 0;
        for card in cards {
            new += insert.execute(params![version, card.as_packed()])? as u64;
        }
        Ok(new)
    }

    /// The one step that is seen: from here on the list that was loaded counts.
    pub(in crate::ledger) fn finish_deny_import(&self, import: &FinishImport, at_utc_ms: i64) -> rusqlite::Result<()> {
        let cards = i64::try_from(import.cards).unwrap_or(i64::MAX);
        self.connection.execute(
            "UPDATE deny_list SET version = ?1, cards = ?2, file_digest = ifnull(?3, file_digest)",
            params![import.version, cards, import.by.file_digest],
        )?;
        self.note_deny_change(
            "INSERT INTO deny_change (at_utc_ms, uid, change, version, detail) VALUES (?, ?, 'imported', ?, ?)",
            params![at_utc_ms, import.by.uid, import.version, format!("{cards} cards: {}", import.by.detail)],
        )
    }

    /// Removes some rows of a list that counts no more, or never will: any but the current one and the one that is being loaded.
    /// Whether there may be more.
    pub(in crate::ledger) fn sweep_deny_cards(&self, loading: Option<i64>) -> rusqlite::Result<bool> {
        let Some(version) = self.outdated_deny_version(loading.unwrap_or(i64::MAX))? else { return Ok(false) };
        self.connection.execute(
            "DELETE FROM deny_card WHERE version = ?1
                 AND card IN (SELECT card FROM deny_card WHERE version = ?1 ORDER BY card LIMIT ?2)",
            params![version, BATCH_ROWS],
        )?;
        Ok(true)
    }

    /// Versions ascend, so what is neither current nor being loaded is found at the edges, whatever the length of the lists.
    fn outdated_deny_version(&self, loading: i64) -> rusqlite::Result<Option<i64>> {
        let current = self.deny_state()?.version;
        let first_within = |above: i64, below: i64| {
            self.connection
                .query_row("SELECT version FROM deny_card WHERE version > ? AND version < ? LIMIT 1", [above, below], |row| {
                    row.get(0)
                })
                .optional()
        };
        Ok(match first_within(i64::MIN, current)? {
            Some(version) => Some(version),
            None => first_within(current, loading)?,
        })
    }

    pub(in crate::ledger) fn change_deny_list(&self, change: &DenyChange, at_utc_ms: i64) -> rusqlite::Result<DenyChanged> {
        let mut unchanged = Vec::new();
        for (place, card) in change.cards.iter().enumerate() {
            let (has_changed, word) = match change.kind {
                DenyChangeKind::Add => (self.add_deny_card(card, change, at_utc_ms)?, "added"),
                DenyChangeKind::Remove => (self.remove_deny_card(card)?, "removed"),
            };
            if !has_changed {
                unchanged.push(place);
                continue;
            }
            self.note_deny_change(
                "INSERT INTO deny_change (at_utc_ms, uid, change, card, detail) VALUES (?, ?, ?, ?, ?)",
                params![at_utc_ms, change.uid, word, card.as_packed(), change.reason.as_str()],
            )?;
        }
        Ok(DenyChanged { changed: change.cards.len() - unchanged.len(), unchanged })
    }

    fn add_deny_card(&self, card: &CardAccount, change: &DenyChange, at_utc_ms: i64) -> rusqlite::Result<bool> {
        let insert = "INSERT OR IGNORE INTO deny_local (card, at_utc_ms, uid, reason) VALUES (?, ?, ?, ?)";
        let row = params![card.as_packed(), at_utc_ms, change.uid, change.reason.as_str()];
        Ok(self.connection.execute(insert, row)? == 1)
    }

    fn remove_deny_card(&self, card: &CardAccount) -> rusqlite::Result<bool> {
        let card = card.as_packed();
        let local = self.connection.execute("DELETE FROM deny_local WHERE card = ?", [card])?;
        let imported = self
            .connection
            .execute("DELETE FROM deny_card WHERE version = (SELECT version FROM deny_list) AND card = ?", [card])?;
        if imported > 0 {
            self.connection.execute("UPDATE deny_list SET cards = cards - 1", [])?;
        }
        Ok(local + imported > 0)
    }

    fn note_deny_change(&self, insert: &str, row: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<()> {
        self.connection.execute(insert, row)?;
        let keep = self.connection.last_insert_rowid() - CHANGES_MAX;
        self.connection.execute("DELETE FROM deny_change WHERE id <= ?", [keep]).map(drop)
    }

    pub(in crate::ledger) fn deny_page(&self, request: &DenyPageRequest) -> rusqlite::Result<DenyPage> {
        let sql = match request.source {
            DenySource::Local => "SELECT card, reason, uid, at_utc_ms FROM deny_local WHERE card > ?1 ORDER BY card LIMIT ?2",
            DenySource::Imported => {
                "SELECT card, NULL, NULL, NULL FROM deny_card WHERE version = (SELECT version FROM deny_list) AND card > ?1
                 ORDER BY card LIMIT ?2"
            }
        };
        let after = request.after.as_ref().map_or(&[][..], |card| card.as_packed());
        let cards = self
            .connection
            .prepare(sql)?
            .query_map(params![after, BATCH_ROWS], |row| deny_card(row, request.source))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let has_more = cards.len() == DENY_BATCH_MAX;
        Ok(DenyPage { state: self.deny_state()?, cards, has_more })
    }
}

fn deny_card(row: &Row<'_>, source: DenySource) -> rusqlite::Result<DenyCard> {
    let added_at = row.get::<_, Option<i64>>(3)?.map(rfc3339_ms);
    let card = CardAccount::from_packed(row.get(0)?).ok_or(rusqlite::Error::InvalidQuery)?;
    Ok(DenyCard { card, source, reason: row.get(1)?, uid: row.get(2)?, added_at })
}
