//! A page of the ledger is spoiled: the gate shows it and lets people out, says the way out in one sentence, and that way works: the
//! damaged file is kept, a new one takes its place, and what can be read of the old one is written out, with what cannot.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rusqlite::Connection;
use serde_json::Value;

use crate::support::{Answer, Gate, WeChat, backlog::fill, code, gate::Builder};

const PAGE_BYTES: usize = 1024;
/// The head of a write-ahead log, and that of each of its frames.
const LOG_HEAD_BYTES: usize = 32;
const FRAME_HEAD_BYTES: usize = 24;
/// Rows that wait in the ledger before it is spoiled.
const WAITING: usize = 300;

/// What is spoiled.
#[derive(Debug, Clone, Copy)]
enum Spoilt {
    /// The first page, with the head of the file.
    Head,
    /// Where every search in this table or index begins.
    Root(&'static str),
    /// The second page of the deductions: rows that wait, and are asked for at once.
    Leaf,
}

impl Spoilt {
    fn page(self, ledger: &Path) -> u32 {
        let ledger = Connection::open(ledger).unwrap();
        let one = |sql: &str, name: &str| ledger.query_row(sql, [name], |row| row.get(0)).unwrap();
        match self {
            Self::Head => 1,
            Self::Root(name) => one("SELECT rootpage FROM sqlite_schema WHERE name = ?", name),
            Self::Leaf => {
                one("SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path LIMIT 1 OFFSET 1", "deduction")
            }
        }
    }
}

/// Writes nonsense over a page.
fn spoil(file: &Path, at: usize, bytes: usize) {
    let file = OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(&vec![0xee; bytes], at as u64).unwrap();
}

/// A gate that can be let out of by people.
pub(crate) fn with_inputs(wechat: &WeChat) -> Builder {
    Gate::beside(wechat).set("turnstile", "inputs", "inputs").set("turnstile", "exit_button", 2).set("turnstile", "fire_alarm", 3)
}

/// A stopped gate in whose ledger many rows wait and one is accepted.
fn gate_with_rows(wechat: &WeChat) -> Gate {
    let mut gate = with_inputs(wechat).start();
    gate.scan("in", &code("SOUND", 1));
    gate.wait_opens(1);
    gate.wait_drained();
    gate.stop_cleanly();
    wechat.answer(Answer::Hang);
    fill(&gate.path("ledger.db"), WAITING);
    gate
}

fn press(gate: &Gate, input: &str) {
    let mut inputs = OpenOptions::new().write(true).open(gate.path("inputs")).unwrap();
    write!(inputs, "{{\"line\":\"{input}\",\"level\":1}}\n{{\"line\":\"{input}\",\"level\":0}}\n").unwrap();
}

/// The orders of a ledger that is whole.
fn orders(ledger: &Path) -> BTreeSet<String> {
    let ledger = Connection::open(ledger).unwrap();
    let mut orders = ledger.prepare("SELECT order_number FROM deduction").unwrap();
    orders.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Moves a ledger away and keeps it; where it is then.
fn moved_away(gate: &Gate) -> PathBuf {
    let kept = gate.path("kept");
    fs::create_dir(&kept).unwrap();
    for name in ["ledger.db", "ledger.db-wal"] {
        // After a clean stop there is no log.
        let _ = fs::rename(gate.path(name), kept.join(name));
    }
    kept.join("ledger.db")
}

/// What `export --damaged` writes: the rows, what it says, and its exit code.
fn exported(gate: &Gate, ledger: &Path) -> (Vec<Value>, String, Option<i32>) {
    let cli = gate.cli(&["export", "--damaged", ledger.to_str().unwrap(), "--format", "jsonl"]);
    let rows = cli.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (rows, cli.stderr, cli.code)
}

fn orders_of(rows: &[Value]) -> BTreeSet<String> {
    rows.iter().map(|row| row["order"].as_str().unwrap().to_owned()).collect()
}

/// Spoils a page and goes the whole way. How many rows were lost.
fn survives(spoilt: Spoilt) -> usize {
    let wechat = WeChat::start();
    let mut gate = gate_with_rows(&wechat);
    let ledger = gate.path("ledger.db");
    let recorded = orders(&ledger);
    let page = spoilt.page(&ledger);
    spoil(&ledger, (page as usize - 1) * PAGE_BYTES, PAGE_BYTES);

    let told = gate.cli(&["fsck"]);
    assert_eq!(told.code, Some(65), "{told:?}");
    assert_way_out(&told.stderr);

    gate.spawn();
    gate.wait_answering();
    // Where the page is not needed before that.
    gate.wait("the reader is open", || gate.status()["lanes"][0]["scanner"] == "up");
    gate.scan("in", &code("REFUSED", 1));
    gate.wait("the lane is out of order", || gate.health() == Some(503));
    lets_people_out(&mut gate);
    gate.wait("status says the way out", || gate.status()["alarms"].to_string().contains("faregate recover"));
    assert_way_out(&gate.status()["alarms"].to_string());
    assert_eq!(gate.cli(&["queue", "list"]).code, Some(65));
    assert_eq!(gate.cli(&["queue", "show", recorded.first().unwrap()]).code, Some(65));
    assert_eq!(gate.stop(), Some(65));

    let kept = moved_away(&gate);
    gate.start();
    let opened = gate.opens().len();
    gate.scan("in", &code("NEW-LEDGER", 1));
    gate.wait_opens(opened + 1);
    gate.stop_cleanly();

    let before = fs::read(&kept).unwrap();
    let (rows, said, exit) = exported(&gate, &kept);
    assert!(fs::read(&kept).unwrap() == before, "the kept file was changed");
    let lost: BTreeSet<_> = recorded.difference(&orders_of(&rows)).cloned().collect();
    assert_eq!(exit, Some(if lost.is_empty() { 0 } else { 65 }), "{said}");
    for order in &lost {
        assert!(said.contains(&format!("order {order}, recorded at ")), "{order} is lost and not told: {said}");
    }
    assert_eq!(said.matches("its row cannot be read").count(), lost.len(), "{said}");
    lost.len()
}

fn assert_way_out(said: &str) {
    for words in ["ledger.db is damaged", "stop the service, move it and", "faregate recover FILE", "start the service again"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

/// Fire alarm and exit button open, though no code does.
pub(crate) fn lets_people_out(gate: &mut Gate) {
    for input in ["exit_button", "fire_alarm"] {
        let opened = gate.opens().len();
        press(gate, input);
        gate.wait(&format!("the {input} opens"), || gate.opens().len() > opened);
        gate.wait_closed();
    }
    let (opened, refused) = (gate.opens().len(), gate.denials().len());
    gate.scan("in", &code("REFUSED", 2));
    gate.wait_denials(refused + 1);
    assert_eq!(gate.opens().len(), opened, "it opened for a code");
}

#[test]
fn a_spoilt_head_of_the_file_hides_no_row() {
    assert_eq!(survives(Spoilt::Head), 0);
}

#[test]
fn a_spoilt_root_of_the_deductions_hides_no_row() {
    assert_eq!(survives(Spoilt::Root("deduction")), 0);
}

#[test]
fn a_spoilt_index_hides_no_row() {
    assert_eq!(survives(Spoilt::Root("deduction_open")), 0);
}

#[test]
fn a_spoilt_index_of_the_numbers_hides_no_row() {
    assert_eq!(survives(Spoilt::Root("sqlite_autoindex_deduction_1")), 0);
}

#[test]
fn a_spoilt_page_of_rows_takes_its_own_with_it_and_each_is_named() {
    let lost = survives(Spoilt::Leaf);
    assert!((1..20).contains(&lost), "{lost} rows lost with one page");
}

/// Where the frames of a log lie that belong to it, and which of them end a commit.
fn frames(log: &[u8]) -> Vec<(usize, bool)> {
    let starts = (LOG_HEAD_BYTES..log.len()).step_by(FRAME_HEAD_BYTES + PAGE_BYTES);
    let own = starts.take_while(|at| log[at + 8..at + 16] == log[16..24]);
    own.map(|at| (at, log[at + 4..at + 8] != [0; 4])).collect()
}

/// A gate that was killed with several admissions in its log, which nobody has answered for.
fn killed_gate(wechat: &WeChat) -> Gate {
    let mut gate = with_inputs(wechat).start();
    gate.stop_cleanly();
    gate.start();
    wechat.answer(Answer::Hang);
    for number in 1..=8 {
        gate.scan("in", &code("LOGGED", number));
        gate.wait_opens(number);
    }
    gate.wait("all are in the ledger", || gate.queue().len() == 8);
    gate.kill9();
    gate
}

/// Spoils the log of a killed gate, and has what it held told, kept and brought back.
fn survives_in_its_log(spoil_log: impl Fn(&Path)) {
    let wechat = WeChat::start();
    let mut gate = killed_gate(&wechat);
    let (ledger, log) = (gate.path("ledger.db"), gate.path("ledger.db-wal"));
    let (whole, said, exit) = exported(&gate, &ledger);
    assert_eq!((whole.len(), exit), (8, Some(0)), "{said}");
    spoil_log(&log);

    let told = gate.cli(&["fsck"]);
    assert!(told.code == Some(65) && told.stderr.contains("its write-ahead log is broken at frame"), "{told:?}");
    assert_eq!(orders_of(&exported(&gate, &ledger).0), orders_of(&whole));
    gate.start();
    assert!(gate.log().contains("ledger.db-wal was damaged at frame"), "{}", gate.log_tail());
    let left = orders_of(&gate.queue());
    assert!(left.len() < 8, "nothing was lost, so nothing was tested");
    let names = fs::read_dir(gate.path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let kept: Vec<_> = names.filter(|name| name.starts_with("ledger.db.damaged-")).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let kept = gate.path(kept[0].strip_suffix("-wal").unwrap());
    assert_eq!(&left | &orders_of(&exported(&gate, &kept).0), orders_of(&whole));
    let alarm = format!("faregate recover {}, move that file away", kept.display());
    assert!(gate.status()["alarms"].to_string().contains(&alarm), "{}", gate.status());
    gate.scan("in", &code("LOGGED", 9));
    gate.wait_opens(9);
    gate.stop_cleanly();

    let told = gate.cli(&["recover", kept.to_str().unwrap()]);
    assert_eq!(told.code, Some(0), "{told:?}");
    fs::remove_file(format!("{}-wal", kept.display())).unwrap();
    wechat.answer(Answer::Ok);
    gate.start();
    gate.wait_drained();
    assert!(!gate.status()["alarms"].to_string().contains("recover"), "{}", gate.status());
    wechat.assert_charged_exactly(&(1..=9).map(|number| code("LOGGED", number)).collect::<Vec<_>>());
}

#[test]
fn what_a_log_damaged_in_its_middle_held_is_told_kept_and_brought_back_and_the_gate_goes_on() {
    survives_in_its_log(|log| {
        let frames = frames(&fs::read(log).unwrap());
        let commits: Vec<_> = frames.into_iter().filter(|(_, is_commit)| *is_commit).collect();
        spoil(log, commits[commits.len() - 5].0 + FRAME_HEAD_BYTES, PAGE_BYTES);
    });
}

#[test]
fn what_a_log_without_its_head_held_is_told_kept_and_brought_back_and_the_gate_goes_on() {
    survives_in_its_log(|log| spoil(log, 0, LOG_HEAD_BYTES));
}

#[test]
fn a_commit_that_a_crash_left_half_written_is_no_damage() {
    let wechat = WeChat::start();
    let mut gate = killed_gate(&wechat);
    let log = gate.path("ledger.db-wal");
    let last = frames(&fs::read(&log).unwrap()).into_iter().rev().find(|(_, is_commit)| *is_commit).unwrap();
    spoil(&log, last.0 + FRAME_HEAD_BYTES, PAGE_BYTES);
    gate.start();
    assert!(!gate.log().contains("damaged"), "{}", gate.log_tail());
}

#[test]
fn the_log_of_a_ledger_that_is_gone_is_not_thrown_away() {
    let wechat = WeChat::start();
    let mut gate = killed_gate(&wechat);
    fs::remove_file(gate.path("ledger.db")).unwrap();
    let log = fs::read(gate.path("ledger.db-wal")).unwrap();
    gate.spawn();
    gate.wait_answering();
    gate.wait("the lane is out of order", || gate.health() == Some(503));
    lets_people_out(&mut gate);
    assert!(fs::read(gate.path("ledger.db-wal")).unwrap() == log, "the log was changed");
    assert_eq!(exported(&gate, &gate.path("ledger.db")).0.len(), 8);
    moved_away(&gate);
    gate.wait("it has made a new one by itself", || gate.health() == Some(200));
}

#[test]
fn what_waited_in_a_damaged_ledger_is_brought_into_the_new_one_and_charged_once_under_its_number() {
    let wechat = WeChat::start();
    let mut gate = killed_gate(&wechat);
    let (whole, _, _) = exported(&gate, &gate.path("ledger.db"));
    spoil(&gate.path("ledger.db"), 0, PAGE_BYTES);
    let damaged = moved_away(&gate);
    let recover = |gate: &Gate| gate.cli(&["recover", damaged.to_str().unwrap()]);
    // The gate was first put to work again.
    gate.start();
    gate.scan("in", &code("LOGGED", 9));
    gate.wait_opens(9);
    let refused = recover(&gate);
    assert!(refused.code == Some(73) && refused.stderr.contains("stop that one first"), "{refused:?}");
    gate.stop_cleanly();

    for (brought, known) in [(8, 0), (0, 8)] {
        let told = recover(&gate);
        assert_eq!(told.code, Some(0), "{told:?}");
        let words = (format!("{brought} deductions were brought"), format!("{known} were there already"));
        assert!(told.stdout.contains(&words.0) && told.stdout.contains(&words.1), "{told:?}");
    }
    assert_eq!(gate.cli(&["fsck"]).code, Some(0));
    let first = whole[0]["order"].as_str().unwrap();
    let refused = gate.cli(&["queue", "void", first, "--reason", "because"]);
    assert_eq!(refused.code, Some(1), "what may have been sent became void: {refused:?}");
    wechat.answer(Answer::Ok);
    gate.start();
    gate.wait_drained();
    wechat.assert_charged_exactly(&(1..=9).map(|number| code("LOGGED", number)).collect::<Vec<_>>());
    assert!(orders_of(&gate.rows_in("accepted")).is_superset(&orders_of(&whole)), "they have other numbers");
    let events = gate.ask(&["queue", "show", first])["events"].to_string();
    assert!(events.contains("recovered") && events.contains("kept"), "{events}");
}
