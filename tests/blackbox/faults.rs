//! The disk fails at the N-th call, for every N: a gate that meets an error at any one moment opens for nothing that is not recorded,
//! shows that it is out of order, comes back by itself, and charges each opening once.
//!
//! The calls fail in the real program, by a small library before libc (`support/faults.c`, built with gcc). In the usual run one N of
//! several is tried, another one each day; `FAREGATE_FAULTS=all` tries all.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::PathBuf,
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

use crate::{
    damage::{lets_people_out, with_inputs},
    support::{DEADLINE, Gate, WeChat, code, codes},
};

/// More calls than this the story below never makes: the loop ends by itself long before.
const CALLS_MAX: u64 = 2_000;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// The library, built once.
pub(crate) fn library() -> &'static PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let (building, library) = (folder.join(format!("faults-{}.so", std::process::id())), folder.join("faults.so"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/blackbox/support/faults.c");
        let mut gcc = Command::new("gcc");
        gcc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&building).arg(source).arg("-ldl");
        assert!(gcc.status().expect("gcc is there").success());
        fs::rename(building, &library).unwrap();
        library
    })
}

/// What is to fail.
#[derive(Debug, Clone, Copy)]
struct Fault {
    call: &'static str,
    first: u64,
    count: u64,
    errno: i32,
}

impl Fault {
    /// Of a daemon that is started from now on. The file that is made when the fault comes to pass.
    fn prepare(self, gate: &mut Gate) -> PathBuf {
        let Self { call, first, count, errno } = self;
        let mark = gate.path("fault-mark");
        gate.set_env("LD_PRELOAD", library());
        gate.set_env("FAREGATE_FAULT", format!("{call}:{first}:{count}:{errno}"));
        gate.set_env("FAREGATE_FAULT_MARK", &mark);
        mark
    }
}

/// One life of a gate with this fault. Whether the fault came to pass.
fn live(fault: Fault) -> bool {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).set("gate", "open_within", "1m").prepare();
    let mark = fault.prepare(&mut gate);
    gate.spawn();
    gate.wait_answering();
    // What a reader sends before it is opened is old and is thrown away.
    gate.wait("the reader is open", || gate.status()["lanes"][0]["scanner"] == "up");
    let mut shown = Shown::default();
    for _ in 0..3 {
        shown.until_one_opens(&mut gate);
    }
    gate.wait_drained();
    shown.until_one_opens(&mut gate);
    gate.wait_drained();
    gate.wait("it is in order, whatever failed while it did its own upkeep", || gate.health() == Some(200));
    // While the ledger was away, `status` told what it had known before.
    gate.wait_drained();
    gate.stop_cleanly();
    shown.judge(&gate, &wechat, fault);
    mark.exists()
}

/// The codes that were shown, one after the other, and which of them opened.
#[derive(Default)]
struct Shown {
    opened: BTreeMap<Vec<u8>, bool>,
}

impl Shown {
    /// Shows new codes until one opens: the gate comes back by itself.
    fn until_one_opens(&mut self, gate: &mut Gate) {
        let end = Instant::now() + DEADLINE;
        loop {
            let code = code("FAULT", self.opened.len());
            let has_opened = shown(gate, &code);
            self.opened.insert(code, has_opened);
            if has_opened {
                return;
            }
            assert!(Instant::now() < end, "it does not come back\n{}", gate.log_tail());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What opened is charged once, and nothing else is.
    fn judge(&self, gate: &Gate, wechat: &WeChat, fault: Fault) {
        let opened: Vec<_> = self.opened.iter().filter(|(_, opened)| **opened).map(|(code, _)| code.clone()).collect();
        wechat.assert_charged_exactly(&opened);
        let rows = gate.queue();
        let accepted = rows.iter().filter(|row| row["state"] == "accepted").count();
        assert_eq!(accepted, opened.len(), "{fault:?}");
        for row in rows.iter().filter(|row| row["state"] != "accepted") {
            assert_eq!((&row["state"], &row["reason"]), (&"void".into(), &"not-opened".into()), "{fault:?}: {row}");
        }
    }
}

/// Shows a code; whether the gate opened for it, which it says or denies.
fn shown(gate: &mut Gate, code: &[u8]) -> bool {
    let (opens, refusals) = (gate.opens().len(), refusals(gate));
    gate.scan("in", code);
    gate.wait("the gate answers", || gate.opens().len() > opens || self::refusals(gate) > refusals);
    let has_opened = gate.opens().len() > opens;
    assert!(has_opened || gate.denials().iter().all(|reason| reason == "out-of-order"), "{:?}", gate.denials());
    has_opened
}

/// Refused scans, as the metrics count them: the light may show that the lane is out of order before and after.
fn refusals(gate: &Gate) -> u64 {
    let (_, metrics) = gate.get("/metrics").unwrap_or_default();
    let line = metrics.lines().find(|line| line.contains("verdict=\"out-of-order\"")).map(ToOwned::to_owned);
    line.and_then(|line| line.rsplit(' ').next().and_then(|count| count.parse().ok())).unwrap_or(0)
}

/// Every N, until the story comes to its end without the fault; one of `stride` of them in the usual run.
fn fail_each(call: &'static str, errno: i32, stride: u64) {
    let is_whole = env::var("FAREGATE_FAULTS").is_ok_and(|which| which == "all");
    let stride = if is_whole { 1 } else { stride };
    let begin = 1 + jiff::Timestamp::now().as_second().unsigned_abs() / 86_400 % stride;
    let mut first = begin;
    while live(Fault { call, first, count: 1, errno }) {
        first += stride;
        assert!(first < CALLS_MAX, "the story does not end");
    }
    println!("{call} with {errno}: {begin} to {first} in steps of {stride}");
    assert!(first > begin, "nothing was failed: nothing was tested");
}

#[test]
fn whichever_sync_fails_what_opens_is_recorded_and_charged_once() {
    fail_each("fdatasync", EIO, 2);
}

#[test]
fn whichever_write_fails_what_opens_is_recorded_and_charged_once() {
    fail_each("write", EIO, 9);
}

#[test]
fn whichever_write_finds_the_disk_full_what_opens_is_recorded_and_charged_once() {
    fail_each("write", ENOSPC, 9);
}

#[test]
fn whichever_open_fails_what_opens_is_recorded_and_charged_once() {
    fail_each("open", EIO, 1);
}

#[test]
fn a_disk_that_fails_for_a_while_is_shown_and_survived() {
    for (call, errno) in [("fdatasync", EIO), ("write", EIO), ("write", ENOSPC)] {
        assert!(live(Fault { call, first: 12, count: 5, errno }));
    }
}

#[test]
fn fire_alarm_and_exit_button_open_though_the_disk_takes_nothing() {
    for (call, errno) in [("fdatasync", EIO), ("write", ENOSPC), ("open", EIO)] {
        let wechat = WeChat::start();
        let mut gate = with_inputs(&wechat).start();
        gate.stop_cleanly();
        let mark = Fault { call, first: 1, count: u64::from(u32::MAX), errno }.prepare(&mut gate);
        gate.spawn();
        gate.wait_answering();
        gate.wait("the reader is open", || gate.status()["lanes"][0]["scanner"] == "up");
        gate.scan("in", &code("NO-DISK", 0));
        gate.wait("the lane is out of order", || gate.health() == Some(503));
        lets_people_out(&mut gate);
        assert!(mark.exists(), "{call}: nothing failed");
    }
}

/// How often a gate opens for three codes whose disk takes no sync from number `first` on; `None` when it made fewer.
fn openings_before_sync(first: u64) -> Option<usize> {
    let wechat = WeChat::start();
    let mut gate = Gate::beside(&wechat).start();
    gate.stop_cleanly();
    let mark = Fault { call: "fdatasync", first, count: u64::from(u32::MAX), errno: EIO }.prepare(&mut gate);
    gate.spawn();
    gate.wait_answering();
    gate.wait("the reader is open", || gate.status()["lanes"][0]["scanner"] == "up");
    let opened = codes("SYNC", 0..3).iter().take_while(|code| shown(&mut gate, code)).count();
    gate.kill9();
    mark.exists().then_some(opened)
}

#[test]
fn between_any_two_openings_lies_a_sync() {
    let openings: BTreeSet<_> = (1..CALLS_MAX).map_while(openings_before_sync).filter(|opened| *opened < 3).collect();
    assert_eq!(openings, BTreeSet::from([0, 1, 2]), "a disk that fails from some sync on lets so many in");
}
