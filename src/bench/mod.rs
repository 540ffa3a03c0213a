//! Measures this machine as a gate uses it: the disk, a durable record, the check of a code, the serial line; and what a passenger can
//! expect of them together.
//!
//! Works on files of its own in the ledger's folder, which go when it ends, so that a running gate is slower meanwhile but not disturbed.

mod record;

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    config::{RideCode, Scanner, Settings, UnsynchronizedClock},
    ledger::LedgerError,
    ride_code::{Checker, jtt1179},
};

/// Bytes of a usual ride code.
const CODE_BYTES: u32 = 343;
/// On the wire each has a start bit and a stop bit, 8N1.
const BITS_PER_BYTE: u32 = 10;
/// What the program needs beside code check and record, as measured in docs/performance.md: tasks that hand over to each other.
const BETWEEN: Duration = Duration::from_micros(200);

/// How often each thing is done.
const TIMES: usize = 200;

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No files can be made beside the ledger.
    #[error("no file can be made in {}: {source}; run this as root, and look at the disk with: faregate doctor", folder.display())]
    Folder {
        /// The ledger's folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The ledger made for this cannot be written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// It did not take what it was given.
    #[error("the ledger made for this did not record; {0}")]
    NotRecorded(String),
    /// The sample of a ride code cannot be used.
    #[error(transparent)]
    Sample(#[from] jtt1179::TrustError),
}

/// Durations of one thing that was done many times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    /// Ascending, at least one.
    sorted: Vec<Duration>,
}

impl Spread {
    fn measure<E>(times: usize, mut act: impl FnMut(usize) -> Result<(), E>) -> Result<Self, E> {
        let once = |number| {
            let began = Instant::now();
            act(number).map(|()| began.elapsed())
        };
        let mut sorted: Vec<_> = (0..times.max(1)).map(once).collect::<Result<_, _>>()?;
        sorted.sort_unstable();
        Ok(Self { sorted })
    }

    /// As many percent of them took at most so long.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let last = self.sorted.len() - 1;
        self.sorted[(self.sorted.len() * percent / 100).min(last)]
    }
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// Where.
    pub folder: PathBuf,
    /// 4 KiB overwritten and synced: the floor.
    pub disk: Spread,
    /// A passage recorded durably.
    pub record: Spread,
    /// A code checked, its passenger known: one signature.
    pub check_known: Spread,
    /// A code checked, nothing known: three signatures.
    pub check_new: Spread,
}

impl Measured {
    /// From the last byte of a code to the open turnstile: the usual case, and one of a hundred.
    #[must_use]
    pub fn scan_to_open(&self) -> (Duration, Duration) {
        let at = |percent| self.record.percentile(percent) + BETWEEN;
        (at(50) + self.check_known.percentile(50), at(99) + self.check_new.percentile(99))
    }
}

/// How long a usual code is on the wire.
#[must_use]
pub fn wire_time(baud: u32) -> Duration {
    Duration::from_secs(1) * (CODE_BYTES * BITS_PER_BYTE) / baud.max(1)
}

/// The rates that readers have, and those of these lanes, ascending.
#[must_use]
pub fn rates<'a>(scanners: impl Iterator<Item = &'a Scanner>) -> Vec<u32> {
    let mut rates = vec![9_600, 19_200, 57_600, 115_200];
    rates.extend(scanners.map(|scanner| scanner.baud));
    rates.sort_unstable();
    rates.dedup();
    rates
}

/// Measures in the folder of the ledger that these settings name.
///
/// # Errors
/// Nothing can be written there.
pub fn measure(settings: &Settings) -> Result<Measured, BenchError> {
    let folder = settings.ledger.path.parent().unwrap_or(Path::new(".")).to_owned();
    let in_folder = |source| BenchError::Folder { folder: folder.clone(), source };
    let scratch = Scratch::make(&folder).map_err(in_folder)?;
    let disk = disk(&scratch.0.join("disk")).map_err(in_folder)?;
    let record = record::measure(settings, &scratch.0.join("ledger.db"))?;
    let (check_known, check_new) = checks()?;
    Ok(Measured { folder: folder.clone(), disk, record, check_known, check_new })
}

/// A folder that goes with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn make(parent: &Path) -> io::Result<Self> {
        let path = parent.join(format!(".faregate-bench-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is small, hidden and named after this program.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn disk(path: &Path) -> io::Result<Spread> {
    let file = OpenOptions::new().create_new(true).write(true).open(path)?;
    file.write_all_at(&[0; 4096], 0)?;
    file.sync_all()?;
    Spread::measure(TIMES, |_| {
        file.write_all_at(&[1; 4096], 0)?;
        file.sync_data()
    })
}

/// A code whose passenger is known, and one of which nothing is.
fn checks() -> Result<(Spread, Spread), BenchError> {
    let sample = jtt1179::Sample::new();
    let settings = RideCode {
        format: crate::config::Format::Jtt1179 { roots: PathBuf::new() },
        clock_tolerance: Duration::ZERO,
        unsynchronized_clock: UnsynchronizedClock::Accept,
        issuer_clock_offset_seconds: std::collections::BTreeMap::new(),
    };
    let roots = sample.roots()?;
    let checker = || Checker::jtt1179(&settings, roots.clone());
    let check = |checker: &Checker| {
        // A verdict other than good takes no longer, and a test holds the sample to be good.
        let _ = checker.check(sample.code(), &sample.at());
    };
    let mut fresh: Vec<_> = (0..TIMES).map(|_| checker()).collect();
    let new = measured(TIMES, |_| fresh.pop().iter().for_each(check));
    let known = checker();
    check(&known);
    Ok((measured(TIMES, |_| check(&known)), new))
}

/// For what cannot fail.
fn measured(times: usize, mut act: impl FnMut(usize)) -> Spread {
    let done = Spread::measure(times, |number| {
        act(number);
        Ok::<(), std::convert::Infallible>(())
    });
    match done {
        Ok(spread) => spread,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn spread(sorted: Vec<Duration>) -> Spread {
        Spread { sorted }
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_times() {
        let spread = spread((1..=200).map(ms).collect());
        assert_eq!((spread.percentile(50), spread.percentile(99), spread.percentile(100)), (ms(101), ms(199), ms(200)));
    }

    #[test]
    fn a_code_at_9600_baud_takes_a_third_of_a_second() {
        assert_eq!(wire_time(9_600).as_millis(), 357);
        assert_eq!(wire_time(115_200).as_millis(), 29);
    }

    #[test]
    fn what_is_to_be_expected_is_the_sum_of_check_and_record() {
        let measured = Measured {
            folder: PathBuf::new(),
            disk: spread(vec![ms(1)]),
            record: spread(vec![ms(10), ms(20)]),
            check_known: spread(vec![ms(2)]),
            check_new: spread(vec![ms(6)]),
        };
        assert_eq!(measured.scan_to_open(), (ms(22) + BETWEEN, ms(26) + BETWEEN));
    }

    #[test]
    fn what_a_measurement_makes_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        drop(Scratch::make(folder.path()).map(|scratch| fs::write(scratch.0.join("file"), "x")).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
