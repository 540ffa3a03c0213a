//! One process holds a ledger at a time: an advisory lock on a file beside it, gone with the process however it ends.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::types::LedgerError;

/// How often, and how long apart, a held lock is tried.
const TRIES: (u32, Duration) = (20, Duration::from_millis(50));

/// Held for as long as it lives.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// A lock that root makes beside the service's ledger must not keep the service out.
fn give_to_owner_of(ledger: &Path, file: &File) {
    let (Ok(owner), Ok(own)) = (std::fs::metadata(ledger), file.metadata()) else { return };
    // The service makes it as the owner; the unit forbids the call.
    if (owner.uid(), owner.gid()) != (own.uid(), own.gid()) {
        // Whoever is neither root nor the owner may not open the ledger either.
        let _ = fchown(file, Some(owner.uid()), Some(owner.gid()));
    }
}

impl Lock {
    /// Waits a little for one that is held: a command that reads a page without a daemon lets go of it at once.
    pub(super) fn take(ledger: &Path) -> Result<Self, LedgerError> {
        let mut path = ledger.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let is_new = !path.exists();
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        // On a file system that has become read-only one that is there can still be locked.
        let file = file.or_else(|error| File::open(&path).map_err(|_| error)).map_err(|error| {
            let path = path.display();
            LedgerError::unavailable(format!("{path} cannot be made or opened: {error}; run this as the user faregate or as root"))
        })?;
        if is_new {
            give_to_owner_of(ledger, &file);
        }
        for _ in 0..TRIES.0 {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(Errno::WOULDBLOCK) => std::thread::sleep(TRIES.1),
                Err(error) => {
                    let path = path.display();
                    let reason = format!("{path} cannot be locked: {error}; put the ledger on a local file system");
                    return Err(LedgerError::unavailable(reason));
                }
            }
        }
        Err(LedgerError::Held { path: ledger.to_owned() })
    }
}
