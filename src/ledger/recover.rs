//! `faregate recover`: brings the deductions of a damaged ledger into the gate's own, where they are charged under their numbers.
//!
//! # Promises
//! - A number is there once: what was brought over before, or was never away, is left as it is. So it can be run again, whatever ended it.
//! - What may have been sent is held for sent. What contradicts itself stays in the damaged file, and is told.
//! - Nothing is changed in the damaged file. No daemon runs meanwhile: this holds the ledger.
//!
//! Journeys, used codes, the deny-list and the stories of the deductions are not brought over: a passenger who was on his way is
//! let out as one without an entry, and what was charged has all that it needs in its own row.

use std::{os::unix::fs::MetadataExt, path::Path};

use rusqlite::types::Value;

use super::{
    boot_name,
    fsck::RequestCheck,
    lock::Lock,
    salvage::{Salvage, Unreadable},
    store::{Adopted, IfMissing, LastRun, Store, prepare_file},
    types::LedgerError,
};
use crate::clock::Stamp;

/// Rows of one commit.
const BATCH_ROWS: usize = 256;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Rows that are in the ledger now and were not before.
    pub brought: u64,
    /// Rows that were there already.
    pub known: u64,
    /// Rows that the ledger refuses, by what it says; they stay where they are.
    pub refused: Vec<String>,
    /// Orders that the ledger has, and of which the damaged one knows more: what a payment or a person has said since.
    pub behind: Vec<String>,
    /// What could not be brought over.
    pub unreadable: Unreadable,
}

/// Brings what can be read of `salvage` into the ledger at `path`, which is made if there is none; `from` names where it comes from.
///
/// # Errors
/// The ledger is held, damaged itself, or cannot be written.
pub fn recover(path: &Path, salvage: &Salvage, is_request_of: RequestCheck, from: &str) -> Result<Recovered, LedgerError> {
    let is_new = !path.exists();
    prepare_file(path, IfMissing::Create)?;
    if is_new {
        give_to_owner_of_folder(path);
    }
    let _lock = Lock::take(path)?;
    let mut store = Store::open(path, &boot_name()?, IfMissing::Create, LastRun::MayHaveCrashed)?;
    let mut recovered = Recovered::default();
    let mut batch = Vec::with_capacity(BATCH_ROWS);
    recovered.unreadable = salvage.each_sound(is_request_of, |values| {
        batch.push(values);
        if batch.len() < BATCH_ROWS { Ok(()) } else { bring(&mut store, &mut batch, from, &mut recovered) }
    })?;
    bring(&mut store, &mut batch, from, &mut recovered)?;
    Ok(recovered)
}

fn bring(store: &mut Store, batch: &mut Vec<Vec<Value>>, from: &str, recovered: &mut Recovered) -> Result<(), LedgerError> {
    let now_utc_ms = Stamp::now().utc_ms;
    let rows = std::mem::take(batch);
    let orders: Vec<_> = rows.iter().map(|row| row.get(1).cloned()).collect();
    let adopt = |store: &Store| rows.into_iter().map(|row| store.step(|store| store.adopt(row, from, now_utc_ms))).collect();
    let adopted: Vec<_> = store.transact(adopt).map_err(|error| store.explain(&error))?;
    for (row, order) in adopted.into_iter().zip(orders) {
        match row {
            Ok(Adopted::New) => recovered.brought += 1,
            Ok(Adopted::Known) => recovered.known += 1,
            Ok(Adopted::Behind) => {
                recovered.known += 1;
                recovered.behind.extend(order.and_then(|order| if let Value::Text(order) = order { Some(order) } else { None }));
            }
            Err(error) => recovered.refused.push(error.to_string()),
        }
    }
    store.checkpoint().map_err(|error| store.explain(&error))
}

/// A ledger that root makes must not keep the service out.
fn give_to_owner_of_folder(ledger: &Path) {
    let folder = ledger.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(owner) = std::fs::metadata(folder) else { return };
    // Whoever is neither root nor the owner could not have made it.
    let _ = std::os::unix::fs::chown(ledger, Some(owner.uid()), Some(owner.gid()));
}
