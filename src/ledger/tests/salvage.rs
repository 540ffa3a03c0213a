//! Whichever page of a ledger is spoiled, every deduction is found or told as lost.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rusqlite::params;

use super::*;

const PAGE_BYTES: usize = store::PAGE_BYTES as usize;
const ROWS: usize = 120;

/// The bytes of a closed ledger with so many deductions, long ones among them, and their numbers.
fn ledger() -> (Vec<u8>, BTreeSet<String>) {
    let mut bench = Bench::new();
    bench.stop();
    let shell = bench.shell();
    shell.execute_batch("INSERT OR IGNORE INTO boot (id, boot_id) VALUES (1, 'test'); BEGIN").unwrap();
    let insert = "INSERT INTO deduction (order_number, state, kind, gate, lane, station, line, passenger, passenger_tail, code_digest,
             original_fen, total_fen, start_utc_ms, body, opening, created_utc_ms, created_boot, created_boottime_ms, clock_synchronized)
         VALUES (?1, 'pending', 'single', 'T1', 'in', 'S1', '2', x'00', '0000', x'00', 200, 200, 0, ?2, 'opened', ?3, 1, 0, 1)";
    let mut orders = BTreeSet::new();
    for row in 0..ROWS {
        let order = OrderNumber::generate(1_700_000_000_000 + i64::try_from(row).unwrap()).unwrap();
        // Some reach over several pages.
        let body = order.as_str().repeat(if row % 20 == 7 { 400 } else { 25 });
        shell.execute(insert, params![order.as_str(), body.as_bytes(), order.utc_ms()]).unwrap();
        orders.insert(order.to_string());
    }
    shell.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    (fs::read(bench.path()).unwrap(), orders)
}

fn is_request_of(body: &[u8], order: &str, _: i64) -> bool {
    body.chunks(order.len()).all(|part| part == order.as_bytes())
}

/// What is found of a ledger of these bytes, and what is told.
fn salvaged(bytes: &[u8]) -> (BTreeSet<String>, Unreadable) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ledger.db");
    fs::write(&path, bytes).unwrap();
    let mut found = BTreeSet::new();
    let request = ExportRequest { after_id: 0, from_utc_ms: 0, to_utc_ms: i64::MAX, requests: Requests::Without };
    let take = |row: ExportRow| {
        assert_eq!((row.row.state.as_str(), row.row.total_fen), ("pending", 200));
        assert!(found.insert(row.row.order), "one order twice");
        Ok::<_, LedgerError>(())
    };
    let unreadable = Salvage::of(&path).unwrap().each_row(&request, is_request_of, take).unwrap();
    (found, unreadable)
}

fn assert_each_is_found_or_told(bytes: &[u8], orders: &BTreeSet<String>) -> usize {
    let (mut found, unreadable) = salvaged(bytes);
    assert!(found.is_subset(orders), "what was never recorded is found");
    let lost = ROWS - found.len();
    found.extend(unreadable.orders.iter().map(ToString::to_string));
    let silent = (ROWS - found.len()) as u64;
    assert!(silent <= unreadable.unnamed, "{silent} deductions are neither found nor told");
    lost
}

#[test]
fn whichever_page_is_spoiled_every_deduction_is_found_or_told() {
    let (whole, orders) = ledger();
    let (found, unreadable) = salvaged(&whole);
    assert_eq!((found, unreadable), (orders.clone(), Unreadable::default()));
    let mut lost = 0;
    for page in 0..whole.len() / PAGE_BYTES {
        for byte in [0x00, 0xee, 0xff] {
            let mut spoilt = whole.clone();
            spoilt[page * PAGE_BYTES..(page + 1) * PAGE_BYTES].fill(byte);
            let lost_here = assert_each_is_found_or_told(&spoilt, &orders);
            assert!(lost_here <= 6, "{lost_here} rows lost with page {page}");
            lost += lost_here;
        }
    }
    assert!(lost >= ROWS, "no page with rows was spoiled");
}

#[test]
fn openings_that_a_crash_left_undecided_are_brought_over_and_settled_by_the_next_start() {
    let bench = Bench::new();
    let waiting: Vec<_> = (0..30).map(|tap| bench.admitted(&format!("code {tap}"))).collect();
    let folder = TempDir::new().unwrap();
    let damaged = folder.path().join("damaged.db");
    bench.shell().execute("VACUUM INTO ?", [damaged.to_str().unwrap()]).unwrap();
    // What is left has higher places there than it will have here.
    let left = "DROP TRIGGER deduction_kept; DELETE FROM deduction WHERE id <= 20";
    Connection::open(&damaged).unwrap().execute_batch(left).unwrap();
    let is_request_of = |body: &[u8], order: &str, _| body.starts_with(order.as_bytes());
    let mut other = Bench::new();
    other.stop();
    let salvage = Salvage::of(&damaged).unwrap();
    let recovered = recover(&other.path(), &salvage, is_request_of, "damaged.db").unwrap();
    assert_eq!((recovered.brought, recovered.refused), (10, Vec::new()));
    other.handles = Some(start(other.options()).unwrap());
    for admitted in &waiting[20..] {
        assert!(other.story(&admitted.order).row.flags.contains(&"opening-unconfirmed".to_owned()));
    }
}

#[test]
fn what_was_brought_over_is_as_old_as_the_clock_says_and_not_older_than_this_boot() {
    const HOUR_MS: i64 = 3_600_000;
    let mut bench = Bench::new();
    bench.sendable_row("a");
    bench.stop();
    let made = "UPDATE deduction SET clock_synchronized = 1";
    bench.shell().execute(made, []).unwrap();
    let (folder, is_request_of) = (TempDir::new().unwrap(), |body: &[u8], order: &str, _| body.starts_with(order.as_bytes()));
    let path = folder.path().join("ledger.db");
    recover(&path, &Salvage::of(&bench.path()).unwrap(), is_request_of, "damaged.db").unwrap();
    let boot = BootName { id: "another".to_owned(), is_machines: true };
    let store = Store::open(&path, &boot, IfMissing::Fail, LastRun::MayHaveCrashed).unwrap();
    // The machine has been up for a month.
    let now = Stamp { boottime_ms: 720 * HOUR_MS, synchronized: true, ..Stamp::now() };
    assert_eq!(store.over_age(0, HOUR_MS, &now).unwrap().due, [0_i64; 0]);
    let later = Stamp { utc_ms: now.utc_ms + 2 * HOUR_MS, ..now };
    assert_eq!(store.over_age(0, HOUR_MS, &later).unwrap().due.len(), 1);
}

#[test]
fn an_order_of_which_the_damaged_ledger_knows_more_is_named() {
    let mut bench = Bench::new();
    let orders = ["a", "b"].map(|code| bench.sendable_row(code).order.to_string());
    bench.stop();
    let folder = TempDir::new().unwrap();
    let damaged = folder.path().join("damaged.db");
    bench.shell().execute("VACUUM INTO ?", [damaged.to_str().unwrap()]).unwrap();
    let paid = "UPDATE deduction SET state = 'paid' WHERE order_number = ?";
    Connection::open(&damaged).unwrap().execute(paid, [&orders[1]]).unwrap();
    let is_request_of = |body: &[u8], order: &str, _| body.starts_with(order.as_bytes());
    let recovered = recover(&bench.path(), &Salvage::of(&damaged).unwrap(), is_request_of, "damaged.db").unwrap();
    assert_eq!((recovered.brought, recovered.known, recovered.behind), (0, 2, vec![orders[1].clone()]));
    bench.handles = Some(start(bench.options()).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(40)))]

    #[test]
    fn bytes_that_are_spoiled_anywhere_are_no_reason_to_fail_or_to_invent(
        places in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..400),
    ) {
        use std::sync::OnceLock;
        static LEDGER: OnceLock<(Vec<u8>, BTreeSet<String>)> = OnceLock::new();
        let (whole, orders) = LEDGER.get_or_init(ledger);
        let mut spoilt = whole.clone();
        for (place, byte) in places {
            let at = place.index(spoilt.len());
            spoilt[at] ^= byte;
        }
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("ledger.db");
        fs::write(&path, &spoilt).unwrap();
        let mut sound = Vec::new();
        let salvage = Salvage::of(&path).unwrap();
        salvage.each_sound(is_request_of, |values| {
            sound.push(values[1].clone());
            Ok(())
        }).unwrap();
        for order in sound {
            let rusqlite::types::Value::Text(order) = order else { panic!("{order:?}") };
            prop_assert!(orders.contains(&order), "{order} was never recorded");
        }
    }
}
