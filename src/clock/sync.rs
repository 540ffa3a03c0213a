//! Whether this machine's clock is synchronized. The kernel knows, whichever program sets the clock, and tells it by `adjtimex(2)`.
//!
//! The service's confinement forbids that call, which also sets the clock. There [`super::watch`] makes it, in a process of its own, and
//! leaves each [`Look`] in a file. Promises:
//! - A watcher that is dead, hangs or never was is not a synchronized clock: its last look holds for [`LOOK_AGE_MS_MAX`].
//! - Asking is cheap: the file is read once in [`READ_EVERY_MS`], however often and by however many threads is asked.
//! - That nobody looks is said once in the log, and by [`watcher_trouble`] for as long as it is so.

use std::{
    env,
    fs::File,
    io::{self, Read},
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    },
};

use rustix::time::ClockId;

use super::clock_ms;

/// For so long a look of the watcher holds, which looks twelve times within it.
const LOOK_AGE_MS_MAX: i64 = 60_000;
/// The file is read this often at most.
const READ_EVERY_MS: i64 = 1000;
/// What to do about a watcher that says nothing.
const SILENCE: &str = "clock: nobody tells this program whether the clock is synchronized, so it counts as not synchronized; \
                       look at: systemctl status faregate-clock";

/// Whether the clock is synchronized, as far as this process can know.
#[must_use]
pub fn is_synchronized() -> bool {
    ask_kernel().unwrap_or_else(|_| WATCHED.is_synchronized(clock_ms(ClockId::Boottime), read_look))
}

/// What is wrong, while the kernel does not answer this process and nobody else does.
#[must_use]
pub fn watcher_trouble() -> Option<&'static str> {
    WATCHED.is_silent.load(Relaxed).then_some(SILENCE)
}

/// The kernel's own answer: a state other than `TIME_ERROR`.
///
/// # Errors
/// It does not answer this process.
pub(super) fn ask_kernel() -> io::Result<bool> {
    // No maintained safe wrapper reads this state without the right to set the clock; modes = 0 only reads.
    #[allow(unsafe_code)]
    // SAFETY: timex is plain integers, for which all zeroes are valid; the kernel writes only into the struct handed to it.
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut timex)
    };
    if state < 0 { Err(io::Error::last_os_error()) } else { Ok(state != libc::TIME_ERROR) }
}

/// What the watcher saw, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) synchronized: bool,
    /// As [`super::Stamp::boottime_ms`].
    pub(super) boottime_ms: i64,
}

impl Look {
    /// `1 0000000000123456789` and a line feed; 0 for a clock that is not synchronized.
    pub(super) fn line(self) -> String {
        format!("{} {:0DIGITS$}\n", u8::from(self.synchronized), self.boottime_ms)
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let (flag, digits) = std::str::from_utf8(line).ok()?.strip_suffix('\n')?.split_once(' ')?;
        let is_number = digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_digit());
        let synchronized = match flag {
            "1" => true,
            "0" => false,
            _ => return None,
        };
        Some(Self { synchronized, boottime_ms: digits.parse().ok().filter(|_| is_number)? })
    }
}

/// Of the largest [`i64`].
const DIGITS: usize = 19;
const LINE_BYTES: usize = DIGITS + 3;

/// Where looks are left: `FAREGATE_CLOCK_STATE`, else where the watcher's unit has its folder.
pub(super) fn state_file() -> &'static PathBuf {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| env::var_os("FAREGATE_CLOCK_STATE").map_or_else(|| "/run/faregate-clock/state".into(), PathBuf::from))
}

fn read_look() -> Option<Look> {
    // One byte more than a line, so that a longer file is seen to be something else.
    let mut line = [0; LINE_BYTES + 1];
    let length = File::open(state_file()).ok()?.read(&mut line).ok()?;
    Look::parse(&line[..length])
}

static WATCHED: Watched = Watched::new();

/// What this process has of the watcher. Every thread asks it; one that asks while another reads gets the look before.
struct Watched {
    /// The last look: twice its time, and 1 when the clock was synchronized.
    last: AtomicI64,
    read_at_ms: AtomicI64,
    is_silent: AtomicBool,
}

impl Watched {
    const fn new() -> Self {
        Self { last: AtomicI64::new(i64::MIN), read_at_ms: AtomicI64::new(i64::MIN), is_silent: AtomicBool::new(false) }
    }

    fn is_synchronized(&self, now_ms: i64, read: impl FnOnce() -> Option<Look>) -> bool {
        if now_ms.saturating_sub(self.read_at_ms.load(Relaxed)) >= READ_EVERY_MS {
            self.read_at_ms.store(now_ms, Relaxed);
            if let Some(look) = read() {
                self.keep(look);
            }
            self.tell_silence(self.last(now_ms).boottime_ms < now_ms - LOOK_AGE_MS_MAX);
        }
        let last = self.last(now_ms);
        // A look may have been made after now_ms was taken, but not long after.
        last.synchronized && (-READ_EVERY_MS..=LOOK_AGE_MS_MAX).contains(&(now_ms - last.boottime_ms))
    }

    fn keep(&self, look: Look) {
        self.last.store(look.boottime_ms.saturating_mul(2) | i64::from(look.synchronized), Relaxed);
    }

    /// A process begins as if it had just seen a clock that is not synchronized: the watcher may start beside it.
    fn last(&self, now_ms: i64) -> Look {
        match self.last.load(Relaxed) {
            i64::MIN => {
                let look = Look { synchronized: false, boottime_ms: now_ms };
                self.keep(look);
                look
            }
            packed => Look { synchronized: packed & 1 == 1, boottime_ms: packed >> 1 },
        }
    }

    /// The log stamps its records, and so comes here again: by then the silence is noted.
    fn tell_silence(&self, is_silent: bool) {
        if self.is_silent.swap(is_silent, Relaxed) == is_silent {
            return;
        }
        if is_silent {
            log::warn!("{SILENCE}");
        } else {
            log::info!("clock: faregate-clock tells again whether it is synchronized");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const NOW_MS: i64 = 1_000_000;

    fn look(synchronized: bool, boottime_ms: i64) -> Look {
        Look { synchronized, boottime_ms }
    }

    #[test]
    fn a_look_is_a_line_of_one_length_and_comes_back_from_it() {
        for look in [look(true, 0), look(false, NOW_MS), look(true, i64::MAX)] {
            let line = look.line();
            assert_eq!((line.len(), Look::parse(line.as_bytes())), (LINE_BYTES, Some(look)), "{line:?}");
        }
    }

    #[test]
    fn what_is_no_whole_look_is_none() {
        let whole = look(true, NOW_MS).line();
        for length in 0..whole.len() {
            assert_eq!(Look::parse(&whole.as_bytes()[..length]), None, "the first {length} bytes");
        }
        let others = ["2 0000000000000000001\n", "1 +000000000000000001\n", "1 9999999999999999999\n", "1  000000000000000001\n"];
        for other in others.into_iter().chain([format!("{whole}\n").as_str()]) {
            assert_eq!(Look::parse(other.as_bytes()), None, "{other:?}");
        }
    }

    #[test]
    fn a_look_holds_for_a_minute_and_a_watcher_that_is_gone_is_not_a_synchronized_clock() {
        let watched = Watched::new();
        assert!(watched.is_synchronized(NOW_MS, || Some(look(true, NOW_MS))));
        assert!(watched.is_synchronized(NOW_MS + LOOK_AGE_MS_MAX, || None));
        assert!(!watched.is_synchronized(NOW_MS + LOOK_AGE_MS_MAX + 1, || None));
        let late = NOW_MS + 2 * LOOK_AGE_MS_MAX;
        assert!(!watched.is_synchronized(late, || Some(look(true, NOW_MS))), "the watcher hangs: its file is there");
        assert!(!watched.is_synchronized(late + READ_EVERY_MS, || Some(look(true, i64::MAX))), "nobody has looked in the future");
    }

    #[test]
    fn a_clock_that_is_no_longer_synchronized_is_so_from_the_next_reading_on() {
        let watched = Watched::new();
        assert!(watched.is_synchronized(NOW_MS, || Some(look(true, NOW_MS))));
        assert!(!watched.is_synchronized(NOW_MS + READ_EVERY_MS, || Some(look(false, NOW_MS))));
    }

    #[test]
    fn however_often_is_asked_the_file_is_read_once_a_second() {
        let (watched, reads) = (Watched::new(), Cell::new(0));
        let read = |now_ms| {
            reads.set(reads.get() + 1);
            Some(look(true, now_ms))
        };
        for now_ms in NOW_MS..NOW_MS + 3 * READ_EVERY_MS {
            assert!(watched.is_synchronized(now_ms, || read(now_ms)));
        }
        assert_eq!(reads.get(), 3);
    }

    #[test]
    fn silence_is_told_after_a_minute_and_ends_with_the_next_look() {
        let watched = Watched::new();
        let is_silent = |now_ms, look| {
            watched.is_synchronized(now_ms, || look);
            watched.is_silent.load(Relaxed)
        };
        assert!(!is_silent(NOW_MS, None), "the watcher may start beside the gate");
        assert!(!is_silent(NOW_MS + LOOK_AGE_MS_MAX, None));
        let late = NOW_MS + LOOK_AGE_MS_MAX + READ_EVERY_MS;
        assert!(is_silent(late, None));
        assert!(!is_silent(late + READ_EVERY_MS, Some(look(false, late))));
    }
}
