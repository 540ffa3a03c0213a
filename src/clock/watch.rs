//! The process beside the gate that asks the kernel whether the clock is synchronized, for the gate may not: see `clock::sync`.
//!
//! It promises that a reader of its file always finds one whole look, and that it ends when it cannot leave one.

use std::{convert::Infallible, fs, io, path::PathBuf, thread, time::Duration};

use rustix::time::ClockId;

use super::{
    clock_ms,
    sync::{Look, ask_kernel, state_file},
};

/// A clock that is synchronized, or no longer, is known to be so after this time.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why the watcher ends.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// It is confined as the gate is.
    #[error(
        "the kernel does not tell whether the clock is synchronized: {0}; allow adjtimex and clock_adjtime where this runs \
         (SystemCallFilter=, ProtectClock=)"
    )]
    Kernel(#[source] io::Error),
    /// The folder is not there, or not its own.
    #[error("{} cannot be written: {source}; its folder must be there, and belong to this user", file.display())]
    File {
        /// Where the look was to be left.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Leaves a look in the file from which the gate takes it, again and again.
///
/// # Errors
/// The kernel does not answer, or the file cannot be written.
pub fn watch() -> Result<Infallible, WatchError> {
    loop {
        let synchronized = ask_kernel().map_err(WatchError::Kernel)?;
        let look = Look { synchronized, boottime_ms: clock_ms(ClockId::Boottime) };
        leave(look).map_err(|source| WatchError::File { file: state_file().clone(), source })?;
        thread::sleep(LOOK_EVERY);
    }
}

/// A new file takes the old one's place: a reader has the one or the other.
fn leave(look: Look) -> io::Result<()> {
    let new = state_file().with_extension("new");
    fs::write(&new, look.line())?;
    fs::rename(&new, state_file())
}
