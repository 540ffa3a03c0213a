//! The demo, played: its books balance, and bugs that are planted at its seams are caught.
//!
//! Nothing in the gate or in the demo is switched for it: the turnstile has an exit button, the sandbox is an HTTP server, and the
//! ledger is a file.

use std::{
    fs::{self, OpenOptions},
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    thread,
    time::Instant,
};

use data_encoding::BASE64;
use rusqlite::Connection;
use serde_json::Value;

use super::{
    scene::{LEDGER, TRACE, inputs},
    stations::LANES,
    *,
};
use crate::sandbox::{Charge, Fault, On, Rule};

/// A demo that has been played and still runs.
struct Played {
    scene: Scene,
    seen: Option<Seen>,
}

fn played(plan: &Plan) -> Played {
    let mut scene = Scene::set_up(plan.seed, None).unwrap();
    let mut stage = Play::new(plan, Screen::Dark);
    stage.perform(&mut scene, &|| 0).unwrap();
    let seen = Some(stage.seen());
    Played { scene, seen }
}

/// Two passengers, of whom each rides from one station to another.
fn short() -> Plan {
    Plan { trips: Some(2), outage: Duration::ZERO, seed: 7 }
}

impl Played {
    fn books(mut self) -> Books {
        self.scene.stop_daemon().unwrap();
        let books = self.scene.evidence(self.seen.take().unwrap()).unwrap().books();
        assert_eq!(books.differences.is_empty(), books.to_string().contains("They balance"));
        books
    }

    fn charges(&self) -> Vec<Charge> {
        self.scene.sandbox().wechat().charges().to_vec()
    }

    fn ledger(&self) -> Connection {
        Connection::open(self.scene.path(LEDGER)).unwrap()
    }

    /// The charge of the first row, and its request. The other row's may have been sent first.
    fn first(&self) -> (Charge, String) {
        let first = "SELECT order_number, body FROM deduction WHERE id = 1";
        let (order, body): (String, Vec<u8>) = self.ledger().query_row(first, [], |row| row.try_into()).unwrap();
        let mut charges = self.charges().into_iter();
        (charges.find(|charge| charge.order.as_ref() == Some(&order)).unwrap(), String::from_utf8(body).unwrap())
    }
}

fn assert_caught(books: &Books, sentence: &str) {
    let said = books.differences.join("\n");
    assert!(said.contains(sentence), "no {sentence:?} in {said:?}\n{books}");
}

#[test]
fn the_books_of_a_gate_that_works_balance_through_an_outage_and_every_hole_in_a_journey() {
    let books = played(&Plan { trips: Some(12), outage: Duration::from_secs(1), seed: 7 }).books();
    assert_eq!(books.differences, Vec::<String>::new(), "{books}");
    assert_eq!((books.repeats, books.uninvited, books.charged), (1, 1, books.owed), "{books}");
    assert_eq!(books.journeys, [0, 10, 1, 1, 1], "{books}");
    assert_eq!((books.states[0], books.states[6], books.owed.count), (1, 2, 10), "{books}");
}

#[test]
fn an_opening_without_a_record_is_caught() {
    let played = played(&short());
    let lane = LANES[0].name;
    let mut fifo = OpenOptions::new().write(true).open(played.scene.path(&inputs(lane))).unwrap();
    let openings = || fs::read_to_string(played.scene.path(TRACE)).unwrap().matches(r#""line":"open","level":1"#).count();
    let before = openings();
    writeln!(fifo, r#"{{"line":"exit_button","level":1}}"#).unwrap();
    wait_until("the button opens", || openings() > before);
    let books = played.books();
    assert_caught(&books, "6 scans, but 5 opened + 1 refused + 1 repeats = 7");
    assert_caught(&books, &format!("lane {lane} opened"));
}

#[test]
fn a_lost_row_is_caught() {
    let mut played = played(&short());
    played.scene.stop_daemon().unwrap();
    let order = played.first().0.order.unwrap();
    let lost = "DROP TRIGGER deduction_kept; DELETE FROM event; DELETE FROM deduction WHERE id = 1;";
    played.ledger().execute_batch(&format!("PRAGMA foreign_keys = OFF; {lost}")).unwrap();
    let books = played.books();
    assert_caught(&books, &format!("order {order} was charged, and the ledger has no such record"));
    assert_caught(&books, "-out opened");
}

#[test]
fn a_payment_that_the_ledger_does_not_have_is_caught() {
    let mut played = played(&short());
    played.scene.stop_daemon().unwrap();
    let order = played.first().0.order.unwrap();
    let lost = "DROP TRIGGER rank_kept; UPDATE deduction SET state = 'accepted' WHERE id = 1;";
    played.ledger().execute_batch(lost).unwrap();
    assert_caught(&played.books(), &format!("order {order} is paid by WeChat's book, and is recorded as accepted"));
}

#[test]
fn a_double_order_is_caught() {
    let played = played(&short());
    let (charge, body) = played.first();
    let order = charge.order.unwrap();
    post_as_the_uploader(&played, &body.replace(&order, &other(&order)));
    assert_eq!(played.charges().len(), 3);
    let books = played.books();
    assert_caught(&books, &format!("with code {}, was charged 2 times", charge.code));
    assert_caught(&books, &format!("order {} was charged, and the ledger has no such record", other(&order)));
    assert_caught(&books, "are recorded as charged, but the sandbox charged 3 of");
}

#[test]
fn a_journey_that_is_charged_twice_is_caught() {
    let played = played(&short());
    let (charge, body) = played.first();
    let (order, start) = (charge.order.unwrap(), charge.start_code.unwrap());
    // As by a bug that takes each of two taps for an exit of its own: another order, another code, the same start.
    let code = field(&body, "qrcode");
    let another = body.replace(&order, &other(&order)).replacen(&code, &BASE64.encode(b"another tap"), 1);
    post_as_the_uploader(&played, &another);
    assert_eq!(played.charges().len(), 3);
    let books = played.books();
    assert_caught(&books, &format!("the journey that began with code {start} was charged 2 times"));
    assert_caught(&books, "was charged, and nobody showed it");
}

/// Two rides whose requests wait in the ledger, with the first of them spoilt there before it is sent.
fn played_with_a_wrong_request(spoil: impl Fn(&Played, &str) -> String) -> Played {
    let mut scene = Scene::set_up(7, None).unwrap();
    Play::set_faults(&scene, vec![Rule { on: On::Deduct, ..Rule::always(Fault::Refuse) }]);
    let mut stage = Play::new(&short(), Screen::Dark);
    stage.perform_until(&mut scene, &Play::is_over).unwrap();
    let played = Played { scene, seen: Some(stage.seen()) };
    let ledger = played.ledger();
    let pending =
        || ledger.query_row("SELECT count(*) FROM deduction WHERE state = 'pending'", [], |row| row.get::<_, u32>(0)).unwrap();
    wait_until("two rides wait to be charged", || pending() == 2);
    let body = ledger.query_row("SELECT body FROM deduction WHERE id = 1", [], |row| row.get::<_, Vec<u8>>(0)).unwrap();
    let wrong = spoil(&played, std::str::from_utf8(&body).unwrap());
    assert_ne!(wrong.as_bytes(), body);
    ledger.busy_timeout(Duration::from_secs(20)).unwrap();
    ledger.execute_batch("DROP TRIGGER body_fixed").unwrap();
    ledger.execute("UPDATE deduction SET body = ? WHERE id = 1", [wrong.as_bytes()]).unwrap();
    // What was read from the ledger before is sent by then, and in vain.
    let requests = || played.scene.sandbox().wechat().counts().deduct_requests;
    let before = requests();
    wait_until("what is sent is read anew", || requests() >= before + 4);
    Play::set_faults(&played.scene, Vec::new());
    wait_until("both are charged", || played.charges().len() == 2);
    played
}

#[test]
fn a_wrong_fare_is_caught() {
    let cheap = |_: &Played, body: &str| {
        let fare = number(body, "total_fee");
        body.replacen(&format!(r#""total_fee":{fare}"#), r#""total_fee":1"#, 1)
    };
    let played = played_with_a_wrong_request(cheap);
    let (charge, _) = played.first();
    let books = played.books();
    assert_caught(&books, &format!("code {} was charged 0.01 yuan", charge.code));
}

#[test]
fn a_wrong_start_code_is_caught() {
    let played = played_with_a_wrong_request(|played, body| {
        let ledger = played.ledger();
        let other: Vec<u8> = ledger.query_row("SELECT body FROM deduction WHERE id = 2", [], |row| row.get(0)).unwrap();
        let other = field(std::str::from_utf8(&other).unwrap(), "start_qrcode");
        body.replacen(&field(body, "start_qrcode"), &other, 1)
    });
    let wrong = played.first().0.start_code.unwrap();
    let books = played.books();
    assert_caught(&books, &format!("and was charged with start code {wrong}"));
    assert_caught(&books, &format!("the journey that began with code {wrong} was charged 2 times"));
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < end, "not so in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// An order number like that one.
fn other(order: &str) -> String {
    format!("{}X", &order[..order.len() - 1])
}

fn field(body: &str, name: &str) -> String {
    serde_json::from_str::<Value>(body).unwrap()[name].as_str().unwrap().to_owned()
}

fn number(body: &str, name: &str) -> i64 {
    serde_json::from_str::<Value>(body).unwrap()[name].as_i64().unwrap()
}

/// Sends a deduction as an uploader would that makes a new number for a retry.
fn post_as_the_uploader(played: &Played, body: &str) {
    let settings = fs::read_to_string(played.scene.path("faregate.toml")).unwrap();
    let address = settings.split("http://").nth(1).unwrap().split('"').next().unwrap();
    let post = |path: &str, body: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let asked = r#"{"grant_type":"client_credential","appid":"wxsandbox","secret":"sandbox-secret"}"#;
    let answer = post("/cgi-bin/stable_token", asked);
    let token = answer.split(r#""access_token":""#).nth(1).unwrap().split('"').next().unwrap();
    let answer = post(&format!("/deduct?access_token={token}"), body);
    assert!(answer.contains(r#""errcode":0"#), "{answer}");
}

/// Makes docs/demo.svg anew, from a run: `cargo test --lib the_picture_in_docs -- --ignored`.
#[test]
#[ignore = "writes docs/demo.svg"]
fn the_picture_in_docs_is_made_from_a_run() {
    let plan = Plan { trips: None, outage: Duration::from_secs(9), seed: 7 };
    let mut scene = Scene::set_up(plan.seed, None).unwrap();
    Play::set_faults(&scene, Vec::new());
    let mut stage = Play::new(&plan, Screen::Dark);
    let end = Instant::now() + Duration::from_secs(13);
    let is_open = |stage: &Play| stage.view().lanes.iter().any(|lane| lane.is_open);
    stage.perform_until(&mut scene, &|stage| Instant::now() >= end && is_open(stage)).unwrap();
    let lines = picture::draw(stage.view(), 26);
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs");
    fs::write(folder.join("demo.svg"), picture::tests::svg(&lines)).unwrap();
}
