//! One process holds a ledger at a time: an advisory lock on a file beside it, gone with the process however it ends.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::types::LedgerError;

/// Held for as long as it lives.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take(ledger: &Path) -> Result<Self, LedgerError> {
        let mut path = ledger.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(|error| {
            let path = path.display();
            LedgerError::unavailable(format!("{path} cannot be made or opened: {error}; run this as the user faregate or as root"))
        })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(LedgerError::Held { path: ledger.to_owned() }),
            Err(error) => {
                let path = path.display();
                Err(LedgerError::unavailable(format!("{path} cannot be locked: {error}; put the ledger on a local file system")))
            }
        }
    }
}
