//! What the benches share: numbers from the environment, the raw disk, and what the kernel knows of a process.

use std::{
    env,
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

const SECTOR_BYTES: u64 = 512;

/// A variable of the environment, if it is set and can be read.
pub(crate) fn number<T: FromStr>(variable: &str, default: T) -> T {
    env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Several of them, with spaces between.
pub(crate) fn numbers<T: FromStr>(variable: &str, default: &str) -> Vec<T> {
    let text = env::var(variable).unwrap_or_else(|_| default.to_owned());
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Looks often, so that what is timed by it is not timed by its pauses.
pub(crate) fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        thread::sleep(Duration::from_millis(2));
    }
}

/// The floor: overwriting 4 KiB and waiting for the disk.
pub(crate) struct RawDisk(File);

impl RawDisk {
    /// The file must be on the disk that is measured.
    pub(crate) fn new(path: &Path) -> Self {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
        file.write_all_at(&[0; 4096], 0).unwrap();
        file.sync_all().unwrap();
        Self(file)
    }

    pub(crate) fn sync_ms(&self) -> f64 {
        let began = Instant::now();
        self.0.write_all_at(&[1; 4096], 0).unwrap();
        self.0.sync_data().unwrap();
        began.elapsed().as_secs_f64() * 1e3
    }

    /// So many of them, each in milliseconds.
    pub(crate) fn syncs_ms(&self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.sync_ms()).collect()
    }
}

/// Of every hundred numbers, so many are at most this.
pub(crate) fn percentile(numbers: &mut [f64], percent: usize) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[(numbers.len() * percent / 100).min(numbers.len() - 1)]
}

/// User and system time so far: fields 14 and 15 of `stat`, in hundredths of a second.
pub(crate) fn cpu_ms(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u32 = fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap();
    f64::from(ticks) * 10.0
}

pub(crate) fn resident_kib(pid: u32) -> u64 {
    field(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap(), "VmRSS:")
}

/// What the process, or one thread of it (`PID/task/TID`), made the file system's pages dirty with: what will go to the disk.
pub(crate) fn dirtied_bytes(process: &str) -> u64 {
    field(&fs::read_to_string(format!("/proc/{process}/io")).unwrap(), "write_bytes:")
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What the whole disk of a file wrote since the machine started, for everybody; `None` where the kernel does not tell.
pub(crate) fn disk_bytes(path: &Path) -> Option<u64> {
    let device = fs::metadata(path).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    let sectors: u64 = stat.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * SECTOR_BYTES)
}

/// One thread of a process.
pub(crate) struct Thread {
    /// Its directory under `/proc`.
    pub(crate) process: String,
    pub(crate) name: String,
    pub(crate) cpu_ms: f64,
    /// How often it went to sleep, and so was woken.
    pub(crate) wakeups: u64,
    /// How often another took its processor.
    pub(crate) preemptions: u64,
}

/// Every thread, in the order in which they were started.
pub(crate) fn threads(pid: u32) -> Vec<Thread> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut ids: Vec<u32> = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).collect();
    ids.sort_unstable();
    ids.into_iter().filter_map(|id| look(&format!("{pid}/task/{id}"))).collect()
}

/// `None` for a thread that has just ended.
fn look(process: &str) -> Option<Thread> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let name = fs::read_to_string(format!("/proc/{process}/comm")).ok()?.trim().to_owned();
    // In nanoseconds, where `stat` has hundredths of a second.
    let schedule = fs::read_to_string(format!("/proc/{process}/schedstat")).ok()?;
    let cpu_ns: f64 = schedule.split_whitespace().next()?.parse().ok()?;
    Some(Thread {
        process: process.to_owned(),
        name,
        cpu_ms: cpu_ns / 1e6,
        wakeups: field(&status, "voluntary_ctxt_switches:"),
        preemptions: field(&status, "nonvoluntary_ctxt_switches:"),
    })
}
