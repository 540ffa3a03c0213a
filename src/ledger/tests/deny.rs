//! Who is not let in.

use super::*;
use crate::ride_code::{CardAccount, IssuerCode, Terms};

const DENIED: Admission = Admission::Refused(Refusal::DeniedPassenger);

fn card(number: usize) -> CardAccount {
    CardAccount::from_digits(&format!("{number:020}")).unwrap()
}

fn cards(numbers: std::ops::Range<usize>) -> Vec<CardAccount> {
    numbers.map(card).collect()
}

fn by_hand() -> ImportedBy {
    ImportedBy { uid: 7, detail: "a test".to_owned(), file_digest: None }
}

impl Bench {
    fn import(&self, cards: &[CardAccount]) -> ImportStep {
        self.runtime.block_on(self.network().import_deny_list(cards, by_hand())).unwrap()
    }

    fn change(&self, kind: DenyChangeKind, cards: Vec<CardAccount>) -> DenyChanged {
        let change = DenyChange { kind, cards, reason: Reason::parse("lost").unwrap(), uid: 7 };
        self.runtime.block_on(self.network().change_deny_list(change)).unwrap()
    }

    fn deny_state(&self) -> DenyState {
        self.runtime.block_on(self.network().deny_state()).unwrap()
    }

    fn rows(&self) -> i64 {
        self.shell().query_row("SELECT count(*) FROM deny_card", [], |row| row.get(0)).unwrap()
    }

    /// A tap with a code of JT/T 1179 of this card, of a passenger who taps for the first time.
    fn tap_of(&self, number: usize) -> Admission {
        let mut tap = tap("in", &format!("code {number}"), &format!("passenger {number}"));
        let issuer = IssuerCode::from_digits("03664530").unwrap();
        tap.code.terms =
            Some(Terms { issuer, card: card(number), single_trip_limit_fen: 10_000, effective_end_utc_s: i64::MAX / 1000 });
        self.runtime.block_on(self.gate().admit(tap)).unwrap()
    }

    fn wait_swept(&self, rows: i64) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while self.rows() != rows {
            assert!(std::time::Instant::now() < deadline, "{} rows, not {rows}", self.rows());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn whoever_is_on_the_list_is_refused_and_whoever_is_not_is_admitted() {
    let mut bench = Bench::new();
    assert_eq!(bench.import(&cards(10..1_300)), ImportStep::Taken);
    for listed in [10, 11, 1_299] {
        assert_eq!(bench.tap_of(listed), DENIED);
    }
    assert!(matches!(bench.tap_of(9), Admission::Admitted(_)) && matches!(bench.tap_of(1_300), Admission::Admitted(_)));
    bench.restart();
    assert_eq!(bench.tap_of(500), DENIED);
    bench.admitted("an opaque code names no card");
}

#[test]
fn a_new_list_counts_as_a_whole_or_not_at_all_and_the_old_rows_go() {
    let bench = Bench::new();
    bench.import(&cards(0..1_200));
    let version = bench.runtime.block_on(bench.network().begin_deny_import()).unwrap();
    let load = |cards| bench.runtime.block_on(bench.network().load_deny_cards(version, cards)).unwrap();
    assert_eq!((load(cards(2_000..2_500)), load(cards(2_500..3_000))), (ImportStep::Taken, ImportStep::Taken));
    assert_eq!(bench.tap_of(1), DENIED);
    assert!(matches!(bench.tap_of(2_000), Admission::Admitted(_)), "half a list counts");
    let end = FinishImport { version, cards: 1_000, by: by_hand() };
    assert_eq!(bench.runtime.block_on(bench.network().finish_deny_import(end)).unwrap(), ImportStep::Taken);
    assert_eq!(bench.tap_of(2_001), DENIED);
    assert!(matches!(bench.tap_of(2), Admission::Admitted(_)), "the old list still counts");
    assert_eq!(bench.deny_state(), DenyState { version, imported: 1_000, local: 0 });
    bench.wait_swept(1_000);
}

#[test]
fn an_import_that_is_cut_by_a_stop_leaves_the_old_list_whole_and_its_own_rows_go() {
    let mut bench = Bench::new();
    bench.import(&cards(0..10));
    let version = bench.runtime.block_on(bench.network().begin_deny_import()).unwrap();
    bench.runtime.block_on(bench.network().load_deny_cards(version, cards(100..600))).unwrap();
    bench.restart();
    assert_eq!(bench.runtime.block_on(bench.network().load_deny_cards(version, cards(600..700))).unwrap(), ImportStep::Superseded);
    let end = FinishImport { version, cards: 500, by: by_hand() };
    assert_eq!(bench.runtime.block_on(bench.network().finish_deny_import(end)).unwrap(), ImportStep::Superseded);
    assert_eq!(bench.tap_of(3), DENIED);
    bench.wait_swept(10);
    assert_eq!(bench.import(&cards(50..60)), ImportStep::Taken);
    assert_eq!((bench.tap_of(55), bench.deny_state().version), (DENIED, version + 1));
}

#[test]
fn an_import_that_another_overtakes_has_no_effect() {
    let bench = Bench::new();
    let first = bench.runtime.block_on(bench.network().begin_deny_import()).unwrap();
    bench.runtime.block_on(bench.network().load_deny_cards(first, cards(0..5))).unwrap();
    assert_eq!(bench.import(&cards(10..12)), ImportStep::Taken);
    let end = FinishImport { version: first, cards: 5, by: by_hand() };
    assert_eq!(bench.runtime.block_on(bench.network().finish_deny_import(end)).unwrap(), ImportStep::Superseded);
    assert!(matches!(bench.tap_of(1), Admission::Admitted(_)));
    bench.wait_swept(2);
}

#[test]
fn an_import_of_which_a_part_is_missing_is_refused() {
    let bench = Bench::new();
    let version = bench.runtime.block_on(bench.network().begin_deny_import()).unwrap();
    bench.runtime.block_on(bench.network().load_deny_cards(version, cards(0..5))).unwrap();
    let end = FinishImport { version, cards: 6, by: by_hand() };
    let error = bench.runtime.block_on(bench.network().finish_deny_import(end)).unwrap_err().to_string();
    assert!(error.contains("of 6 cards 5 were loaded"), "{error}");
    assert_eq!(bench.deny_state().version, 0);
}

#[test]
fn what_was_added_here_survives_an_import_and_what_was_removed_comes_back_with_one() {
    let bench = Bench::new();
    bench.import(&cards(0..3));
    assert_eq!(bench.change(DenyChangeKind::Add, cards(2..5)), DenyChanged { changed: 3, unchanged: vec![] });
    assert_eq!(bench.change(DenyChangeKind::Add, cards(4..6)), DenyChanged { changed: 1, unchanged: vec![0] });
    assert_eq!(bench.change(DenyChangeKind::Remove, cards(1..3)), DenyChanged { changed: 2, unchanged: vec![] });
    assert_eq!(bench.change(DenyChangeKind::Remove, cards(1..2)), DenyChanged { changed: 0, unchanged: vec![0] });
    assert_eq!(bench.deny_state(), DenyState { version: 1, imported: 1, local: 3 });
    assert!(matches!(bench.tap_of(2), Admission::Admitted(_)));
    bench.import(&cards(1..2));
    assert_eq!((bench.tap_of(1), bench.tap_of(4)), (DENIED, DENIED));
    assert!(matches!(bench.tap_of(0), Admission::Admitted(_)));
}

#[test]
fn every_change_keeps_who_and_why() {
    let bench = Bench::new();
    bench.import(&cards(0..3));
    bench.change(DenyChangeKind::Add, cards(7..8));
    bench.change(DenyChangeKind::Remove, cards(7..8));
    let shell = bench.shell();
    let mut rows = shell.prepare("SELECT change, uid, detail FROM deny_change ORDER BY id").unwrap();
    let rows: Vec<(String, u32, String)> =
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap().map(Result::unwrap).collect();
    let expected = [("imported", "3 cards: a test"), ("added", "lost"), ("removed", "lost")];
    assert_eq!(rows, expected.map(|(change, detail)| (change.to_owned(), 7, detail.to_owned())));
}

#[test]
fn the_list_is_shown_whole_page_by_page() {
    let bench = Bench::new();
    bench.import(&cards(0..1_100));
    bench.change(DenyChangeKind::Add, cards(5..6));
    let page = |source, after| bench.runtime.block_on(bench.network().deny_page(DenyPageRequest { source, after })).unwrap();
    let (mut shown, mut after) = (Vec::new(), None);
    loop {
        let page = page(DenySource::Imported, after);
        shown.extend(page.cards.iter().map(|card| card.card));
        after = shown.last().copied();
        if !page.has_more {
            break;
        }
    }
    assert_eq!(shown, cards(0..1_100));
    let local = page(DenySource::Local, None);
    assert_eq!((local.cards.len(), local.cards[0].uid, local.cards[0].reason.as_deref()), (1, Some(7), Some("lost")));
    assert!(!format!("{local:?}").contains(&card(5).digits()), "a number in Debug");
}

#[test]
fn who_owes_is_refused_until_it_is_repaid_where_that_is_set() {
    let mut bench = Bench::with(|bench| bench.unpaid = Unpaid::Denies);
    let row = bench.sendable_row("a");
    let later = |bench: &Bench, code: &str| {
        bench.shell().execute("UPDATE seen SET at_boottime_ms = at_boottime_ms - 6000", []).unwrap();
        bench.tap("in", code, "a").unwrap()
    };
    bench.totals();
    let set = |bench: &Bench, state: &str| {
        bench.shell().execute("UPDATE deduction SET state = ? WHERE id = ?", (state, row.id)).unwrap();
    };
    set(&bench, "unpaid");
    assert_eq!(later(&bench, "a2"), DENIED);
    bench.admitted("b");
    set(&bench, "paid");
    assert!(matches!(later(&bench, "a2"), Admission::Admitted(_)));
    bench.unpaid = Unpaid::Admits;
    bench.restart();
    let other = bench.sendable_row("c");
    bench.totals();
    bench.shell().execute("UPDATE deduction SET state = 'unpaid' WHERE id = ?", [other.id]).unwrap();
    bench.shell().execute("UPDATE seen SET at_boottime_ms = at_boottime_ms - 6000", []).unwrap();
    assert!(matches!(bench.tap("in", "c2", "c").unwrap(), Admission::Admitted(_)));
}

#[test]
fn the_list_and_what_is_owed_are_looked_up_by_key() {
    let bench = Bench::new();
    let shell = bench.shell();
    let plan = |sql: &str| {
        let mut statement = shell.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let steps = statement.query_map(["x"], |row| row.get::<_, String>("detail")).unwrap();
        steps.map(Result::unwrap).collect::<Vec<_>>().join("; ")
    };
    let listed = plan(store::IS_LISTED);
    assert!(
        listed.contains("SEARCH deny_local USING PRIMARY KEY") && listed.contains("SEARCH deny_card USING PRIMARY KEY"),
        "{listed}"
    );
    let owes = plan(store::OWES);
    assert!(owes.contains("INDEX deduction_unpaid"), "{owes}");
}
