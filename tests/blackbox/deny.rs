//! The deny-list: who is on it is not let in, however the list came there, and nothing about it stands in the way of anybody else.

use std::{fs, os::unix::fs::PermissionsExt, process::Stdio};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::{
    control::as_stranger,
    support::{
        Gate, WeChat,
        callbacks::{Caller, repaid, unpaid},
        phones::{self, Phones, ride_code_gate},
    },
};

/// Of the passengers that stand on a list whatever else does.
const LISTED: u64 = 1;
const FREE: u64 = 2;

struct Site {
    wechat: WeChat,
    phones: Phones,
    gate: Gate,
}

impl Site {
    fn start() -> Self {
        let mut site = Self::prepare(|_| ());
        site.gate.start();
        site
    }

    /// With `[deny] file = "deny.txt"` and this in it.
    fn with_file(text: &str) -> Self {
        let mut site = Self::prepare(|_| ());
        let settings = site.gate.settings() + "[deny]\nfile = \"deny.txt\"\n";
        site.gate.write_settings(&settings);
        site.write("deny.txt", text);
        site.gate.start();
        site
    }

    fn prepare(change: impl FnOnce(&Gate)) -> Self {
        let (wechat, phones) = (WeChat::start(), Phones::under_root(1));
        let builder = ride_code_gate(&wechat).set("gate", "passenger_interval", "0s");
        let gate = phones::prepare(builder, &[&phones]);
        change(&gate);
        Self { wechat, phones, gate }
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.gate.path(name), text).unwrap();
        self.gate.path(name).to_str().unwrap().to_owned()
    }

    /// Shows a fresh code of the passenger: the reason of the refusal, or `None` when the gate opened.
    fn tap(&mut self, passenger: u64) -> Option<String> {
        let (opens, denials) = (self.gate.opens().len(), self.gate.denials().len());
        let terms = phones::CodeTerms { custom: opens.to_be_bytes().to_vec(), ..phones::CodeTerms::at(phones::now_s()) };
        let code = self.phones.code(passenger, &terms);
        self.gate.send("in", &code);
        self.gate.wait("an opening or a refusal", || self.gate.opens().len() > opens || self.gate.denials().len() > denials);
        if self.gate.opens().len() > opens { None } else { self.gate.denials().pop() }
    }

    fn is_denied(&mut self, passenger: u64) -> bool {
        match self.tap(passenger).as_deref() {
            None => false,
            Some("denied-passenger") => true,
            Some(other) => panic!("refused as {other}"),
        }
    }

    fn state(&self) -> (i64, i64, i64) {
        let list = self.gate.ask(&["deny", "list"]);
        let number = |key: &str| list[key].as_i64().unwrap();
        (number("version"), number("imported"), number("local"))
    }
}

fn card(passenger: u64) -> String {
    Phones::card(passenger)
}

/// A file of so many numbers, the listed passenger's among them.
fn long_list(numbers: u64) -> String {
    let others: Vec<_> = (0..numbers - 1).map(|number| format!("{:020}\n", 7 * number)).collect();
    others.concat() + &card(LISTED) + "\n"
}

#[test]
fn whoever_is_imported_is_refused_everybody_else_is_admitted_and_a_restart_changes_nothing() {
    let mut site = Site::start();
    assert!(!site.is_denied(LISTED));
    let file = site.write("list.txt", &format!("# lost\n{}\n{}\n", card(LISTED), card(9)));
    let imported = site.gate.cli(&["deny", "import", &file]);
    assert_eq!((imported.code, imported.stdout.starts_with("2 numbers imported")), (Some(0), true), "{imported:?}");
    assert!(site.is_denied(LISTED) && !site.is_denied(FREE));
    site.gate.kill9();
    site.gate.start();
    assert!(site.is_denied(LISTED) && !site.is_denied(FREE));
    assert_eq!(site.state(), (1, 2, 0));
}

#[test]
fn a_list_of_a_hundred_thousand_is_imported_beside_a_gate_that_works() {
    let mut site = Site::start();
    let file = site.write("list.txt", &long_list(100_000));
    let importing = site.gate.command(&["deny", "import", &file]).stdout(Stdio::null()).spawn().unwrap();
    let mut importing = Killed(importing);
    let mut opened = 0;
    while importing.try_wait().unwrap().is_none() {
        assert!(!site.is_denied(FREE));
        opened += 1;
    }
    assert!(importing.wait().unwrap().success() && opened > 0);
    assert!(site.is_denied(LISTED) && !site.is_denied(FREE));
    assert_eq!(site.state(), (1, 100_000, 0));
}

#[test]
fn a_bad_file_is_told_with_its_lines_and_changes_nothing() {
    let mut site = Site::start();
    let good = site.write("good.txt", &card(LISTED));
    assert_eq!(site.gate.cli(&["deny", "import", &good]).code, Some(0));
    let bad = site.write("bad.txt", &format!("{}\n{}1\nnobody\n", card(FREE), card(FREE)));
    let refused = site.gate.cli(&["deny", "import", &bad]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
    assert!(refused.stderr.contains("bad.txt:2: ") && refused.stderr.contains("bad.txt:3: "), "{refused:?}");
    assert!(!refused.stderr.contains(&card(FREE)), "a passenger's number in an error: {refused:?}");
    assert_eq!(site.gate.cli(&["deny", "import", "absent.txt"]).code, Some(66));
    assert!(site.is_denied(LISTED) && !site.is_denied(FREE));
}

#[test]
fn numbers_are_added_and_removed_with_a_reason_and_an_import_leaves_the_added_ones_alone() {
    let mut site = Site::start();
    assert_eq!(site.gate.cli(&["deny", "add", &card(LISTED), &card(7), "--reason", "card stolen"]).code, Some(0));
    assert!(site.is_denied(LISTED));
    let file = site.write("list.txt", "# nobody\n");
    assert_eq!(site.gate.cli(&["deny", "import", &file]).code, Some(0));
    assert!(site.is_denied(LISTED));
    let listed = site.gate.ask(&["deny", "list"]);
    let uid = rustix::process::getuid().as_raw();
    let first = &listed["cards"][0];
    assert_eq!((&first["source"], &first["reason"], &first["uid"]), (&json!("local"), &json!("card stolen"), &json!(uid)));
    let removed = site.gate.cli(&["deny", "remove", &card(LISTED), "--reason", "found"]);
    assert_eq!((removed.code, removed.stdout.as_str()), (Some(0), "1 numbers removed\n"), "{removed:?}");
    assert!(!site.is_denied(LISTED));
    let again = site.gate.cli(&["deny", "remove", &card(LISTED), "--reason", "found"]);
    assert_eq!(again.code, Some(66), "{again:?}");
    assert!(again.stderr.contains(&format!("****************{}", &card(LISTED)[16..])), "{again:?}");
}

#[test]
fn what_list_prints_is_what_import_takes_with_a_daemon_and_without() {
    let mut site = Site::start();
    let file = site.write("list.txt", &format!("{}\n{}\n", card(3), card(4)));
    assert_eq!(site.gate.cli(&["deny", "import", &file]).code, Some(0));
    assert_eq!(site.gate.cli(&["deny", "add", &card(5), "--reason", "#1 on the list"]).code, Some(0));
    let with_daemon = site.gate.cli(&["deny", "list"]).stdout;
    site.gate.stop_cleanly();
    assert_eq!(site.gate.cli(&["deny", "list"]).stdout, with_daemon);
    let numbers: Vec<_> = with_daemon.lines().filter(|line| !line.starts_with('#')).map(|line| line[..20].to_owned()).collect();
    assert_eq!(numbers, [card(5), card(3), card(4)]);
    let listed = site.write("listed.txt", &with_daemon);
    assert_eq!(site.gate.cli(&["deny", "import", &listed]).code, Some(0));
    assert_eq!(site.state(), (2, 3, 1));
}

#[test]
fn a_long_list_is_not_imported_without_a_daemon_which_could_not_start_meanwhile() {
    let mut site = Site::start();
    site.gate.stop_cleanly();
    let long = site.write("long.txt", &long_list(5001));
    let refused = site.gate.cli(&["deny", "import", &long]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(69), ""), "{refused:?}");
    assert!(refused.stderr.contains("[deny] file"), "{refused:?}");
    let short = site.write("short.txt", &long_list(5000));
    assert_eq!(site.gate.cli(&["deny", "import", &short]).code, Some(0));
    site.gate.start();
    assert!(site.is_denied(LISTED));
}

#[test]
fn what_is_no_number_is_a_mistake_of_the_command_line() {
    let mut site = Site::start();
    for numbers in [&["123"][..], &[&card(1), "x"][..]] {
        let refused = site.gate.cli(&[&["deny", "add", "--reason", "x"], numbers].concat());
        assert_eq!(refused.code, Some(64), "{refused:?}");
    }
    assert_eq!(site.gate.cli(&["deny", "add", &card(1)]).code, Some(64), "without a reason");
    assert_eq!(site.gate.cli(&["deny", "add", &card(1), "--reason", " "]).code, Some(64));
    assert!(!site.is_denied(LISTED));
}

#[test]
fn an_import_that_is_killed_leaves_the_old_list_and_the_next_one_counts() {
    let mut site = Site::start();
    let old = site.write("old.txt", &card(LISTED));
    assert_eq!(site.gate.cli(&["deny", "import", &old]).code, Some(0));
    let file = site.write("list.txt", &long_list(200_000).replace(&card(LISTED), &card(FREE)));
    let mut importing = Killed(site.gate.command(&["deny", "import", &file]).stdout(Stdio::null()).spawn().unwrap());
    let path = site.gate.path("ledger.db");
    let rows = || -> i64 {
        let ledger = Connection::open(&path).unwrap();
        ledger.query_row("SELECT count(*) FROM deny_card", [], |row| row.get(0)).unwrap()
    };
    site.gate.wait("a part of it is loaded", || rows() > 1_000);
    importing.kill().unwrap();
    importing.wait().unwrap();
    site.gate.kill9();
    site.gate.start();
    assert!(site.is_denied(LISTED) && !site.is_denied(FREE));
    site.gate.wait("what was loaded is removed", || rows() == 1);
    let new = site.write("new.txt", &card(FREE));
    assert_eq!(site.gate.cli(&["deny", "import", &new]).code, Some(0));
    assert!(!site.is_denied(LISTED) && site.is_denied(FREE));
}

#[test]
fn the_file_of_the_settings_is_imported_at_start_and_again_on_sighup_when_it_changed() {
    let mut site = Site::with_file(&card(LISTED));
    site.gate.wait("it is imported", || site.state() == (1, 1, 0));
    assert!(site.is_denied(LISTED) && !site.is_denied(FREE));
    site.gate.stop_cleanly();
    site.gate.start();
    site.gate.wait("it is found unchanged", || site.gate.log().contains("has not changed"));
    assert_eq!(site.state(), (1, 1, 0));
    site.write("deny.txt", &format!("{}\n{}\n", card(FREE), card(9)));
    site.gate.hang_up();
    site.gate.wait("the new one is imported", || site.state() == (2, 2, 0));
    assert!(!site.is_denied(LISTED) && site.is_denied(FREE));
}

#[test]
fn a_bad_file_of_the_settings_leaves_the_list_and_the_gate_as_they_were_and_says_so() {
    let mut site = Site::with_file(&card(LISTED));
    site.gate.wait("it is imported", || site.state() == (1, 1, 0));
    site.write("deny.txt", "nobody\n");
    let checked = site.gate.cli(&["check"]);
    assert_eq!(checked.code, Some(0));
    assert!(checked.stdout.contains("deny.txt:1: warning: "), "{checked:?}");
    site.gate.hang_up();
    site.gate.wait("it is told", || site.gate.log().contains("deny.txt:1: "));
    assert!(site.is_denied(LISTED) && !site.is_denied(FREE));
    site.gate.stop_cleanly();
    fs::remove_file(site.gate.path("deny.txt")).unwrap();
    site.gate.start();
    site.gate.wait("it is told", || site.gate.log().contains("deny.txt: error: cannot be read"));
    assert!(site.is_denied(LISTED) && !site.is_denied(FREE));
}

#[test]
fn who_owes_is_refused_until_it_is_repaid_where_the_settings_say_so() {
    let (wechat, phones, caller) = (WeChat::start(), Phones::under_root(1), Caller::new());
    let builder = caller.settings(ride_code_gate(&wechat)).set("gate", "passenger_interval", "0s");
    let gate = phones::prepare(builder, &[&phones]);
    gate.write_settings(&(gate.settings() + "[deny]\nunpaid = true\n"));
    let mut site = Site { wechat, phones, gate };
    site.gate.start();
    assert_eq!(site.tap(LISTED), None);
    site.gate.wait("it is accepted", || site.gate.rows_in("accepted").len() == 1);
    let ride = site.wechat.deductions()[0].json.clone();
    assert!(caller.payment(&unpaid(&ride)));
    assert!(site.is_denied(LISTED) && !site.is_denied(FREE));
    site.gate.wait("the other one is accepted, too", || site.gate.rows_in("accepted").len() == 1);
    assert!(caller.arrears(&repaid(&[&ride])));
    assert!(!site.is_denied(LISTED));
}

#[test]
fn who_is_denied_while_inside_gets_out() {
    let (wechat, phones) = (WeChat::start(), Phones::under_root(1));
    let lanes =
        ride_code_gate(&wechat).lanes(&["in", "out"]).of_lane("in", "lane", "mode", "entry").of_lane("out", "lane", "mode", "exit");
    let builder =
        lanes.of_lane("out", "lane", "station", "S2").set("fare", "max_fen", 1000).set("gate", "passenger_interval", "0s");
    let mut gate = phones::start(builder, &[&phones]);
    let code =
        |number: u8| phones.code(LISTED, &phones::CodeTerms { custom: vec![number], ..phones::CodeTerms::at(phones::now_s()) });
    gate.send("in", &code(1));
    gate.wait("the passenger is in", || gate.opens_of("in") == 1);
    assert_eq!(gate.cli(&["deny", "add", &card(LISTED), "--reason", "card stolen"]).code, Some(0));
    gate.send("out", &code(2));
    gate.wait("the passenger is out", || gate.opens_of("out") == 1);
    gate.wait("the ride is charged", || gate.rows_in("accepted").len() == 1);
    gate.send("in", &code(3));
    gate.wait_denials(1);
    assert_eq!((gate.denials(), gate.opens_of("in")), (vec!["denied-passenger".to_owned()], 1));
}

#[test]
fn the_deny_list_is_neither_changed_nor_shown_by_others_than_root_and_the_daemons_user() {
    if !rustix::process::geteuid().is_root() {
        // Nobody else's place can be taken.
        return;
    }
    let mut site = Site::start();
    fs::set_permissions(site.gate.path("control.sock"), fs::Permissions::from_mode(0o666)).unwrap();
    for args in [&["deny", "list"][..], &["deny", "add", &card(LISTED), "--reason", "x"]] {
        let refused = as_stranger(&site.gate, args);
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(77), ""), "{refused:?}");
    }
    assert!(!site.is_denied(LISTED));
}

#[test]
fn no_log_holds_a_number_of_the_list() {
    let mut site = Site::with_file(&format!("{}\n", card(LISTED)));
    site.gate.wait("it is imported", || site.state() == (1, 1, 0));
    assert!(site.is_denied(LISTED));
    site.gate.cli(&["deny", "add", &card(FREE), "--reason", "x"]);
    site.write("deny.txt", &format!("{}\n{}0\n", card(LISTED), card(FREE)));
    site.gate.hang_up();
    site.gate.wait("it is told", || site.gate.log().contains("deny.txt:2: "));
    site.gate.stop_cleanly();
    for number in [card(LISTED), card(FREE)] {
        assert!(!site.gate.log().contains(&number), "{}", site.gate.log());
    }
    let denials: Value = site.gate.denials().into();
    assert_eq!(denials, json!(["denied-passenger"]));
}

/// A child that does not outlive its test.
struct Killed(std::process::Child);

impl std::ops::Deref for Killed {
    type Target = std::process::Child;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl std::ops::DerefMut for Killed {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // One that has ended is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
