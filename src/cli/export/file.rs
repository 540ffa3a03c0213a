//! The file of the summary: written beside its place and put there when it is whole, so that a file of that name is one of an export
//! that came to its end. The ledger's own files are refused.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::cli::{
    exit::{Code, Failure},
    source::in_real_folder,
};

/// What SQLite and this program have beside a ledger, and the ledger itself.
const OF_LEDGER: [&str; 4] = ["", "-wal", "-shm", ".lock"];

/// Where the summary goes.
pub(super) struct SummaryFile {
    place: PathBuf,
    file: File,
    /// What is renamed at the end; `None` for a pipe or a device, which is written as it is.
    beside: Option<PathBuf>,
}

impl SummaryFile {
    pub(super) fn beside(path: &Path, ledger: Option<&Path>) -> Result<Self, Failure> {
        // What a link points to is replaced, not the link.
        let place = path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned());
        if ledger.is_some_and(|ledger| is_of(ledger, &place)) {
            let message = format!("--summary {} would replace a file of the ledger; name another one", path.display());
            return Err(Failure::new(Code::Usage, message));
        }
        Self::create(place).map_err(|error| unwritable(path, &error))
    }

    fn create(place: PathBuf) -> io::Result<Self> {
        if place.metadata().is_ok_and(|found| !found.is_file()) {
            let file = OpenOptions::new().write(true).open(&place)?;
            return Ok(Self { place, file, beside: None });
        }
        let beside = with_suffix(&place, &format!(".{}.part", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o666).open(&beside)?;
        Ok(Self { place, file, beside: Some(beside) })
    }

    /// Writes it and puts it in its place.
    pub(super) fn put(mut self, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Failure> {
        self.write(write).map_err(|error| unwritable(&self.place, &error))
    }

    fn write(&mut self, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        write(&mut self.file)?;
        self.file.flush()?;
        if let Some(beside) = &self.beside {
            self.file.sync_all()?;
            fs::rename(beside, &self.place)?;
            self.beside = None;
        }
        Ok(())
    }
}

impl Drop for SummaryFile {
    fn drop(&mut self) {
        if let Some(beside) = &self.beside {
            // Nobody is left to be told, and it holds nothing but a part of sums.
            let _ = fs::remove_file(beside);
        }
    }
}

fn is_of(ledger: &Path, place: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok().or_else(|| in_real_folder(path));
    let Some(place) = real(place) else { return false };
    [real(ledger), in_real_folder(ledger)]
        .into_iter()
        .flatten()
        .any(|ledger| OF_LEDGER.iter().any(|suffix| with_suffix(&ledger, suffix) == place))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    Failure::new(Code::Internal, format!("the summary {path} cannot be written: {error}; name a file in a folder of yours"))
}
