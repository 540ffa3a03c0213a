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

use rusqlite::Connection;

use super::{
    scene::{LANES, LEDGER, TRACE},
    *,
};
use crate::sandbox::Charge;

/// A demo that has been played and still runs.
struct Played {
    scene: Scene,
    scans: Vec<Scan>,
}

fn played(plan: &Plan) -> Played {
    let mut scene = Scene::set_up(plan.seed, None).unwrap();
    let mut stage = Play::new(plan, Screen::Dark, scene.lanes());
    stage.perform(&mut scene, &|| 0).unwrap();
    let scans = stage.scans().to_vec();
    Played { scene, scans }
}

fn short() -> Plan {
    Plan { trips: Some(2), outage: Duration::ZERO, seed: 7 }
}

impl Played {
    fn books(mut self) -> Books {
        self.scene.stop_daemon().unwrap();
        let books = self.scene.evidence(self.scans.clone(), Patience::ToTheEnd).unwrap().books();
        assert_eq!(books.differences.is_empty(), books.to_string().contains("They balance"));
        books
    }

    fn charges(&self) -> Vec<Charge> {
        self.scene.sandbox().wechat().charges().to_vec()
    }

    fn ledger(&self) -> Connection {
        Connection::open(self.scene.path(LEDGER)).unwrap()
    }
}

fn assert_caught(books: &Books, sentence: &str) {
    let said = books.differences.join("\n");
    assert!(said.contains(sentence), "no {sentence:?} in {said:?}\n{books}");
}

#[test]
fn the_books_of_a_gate_that_works_balance_through_an_outage() {
    let books = played(&Plan { trips: Some(7), outage: Duration::from_secs(1), seed: 7 }).books();
    assert_eq!(books.differences, Vec::<String>::new(), "{books}");
    assert_eq!((books.repeats, books.charged), (1, books.settled), "{books}");
    assert!(books.admitted >= 7 && books.refused.contains_key("format"), "{books}");
}

#[test]
fn an_opening_without_a_record_is_caught() {
    let played = played(&short());
    let mut button: PathBuf = played.scene.path("");
    button.push(format!("inputs-{}", LANES[0]));
    let mut fifo = OpenOptions::new().write(true).open(button).unwrap();
    let openings = || fs::read_to_string(played.scene.path(TRACE)).unwrap().matches(r#""line":"open","level":1"#).count();
    let before = openings();
    writeln!(fifo, r#"{{"line":"exit_button","level":1}}"#).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while openings() == before {
        assert!(Instant::now() < end, "the button opens nothing");
        thread::sleep(Duration::from_millis(5));
    }
    assert_caught(&played.books(), "3 openings, but 2 admitted - 0 late or not opened = 2");
}

#[test]
fn a_lost_row_is_caught() {
    let mut played = played(&short());
    played.scene.stop_daemon().unwrap();
    let lost = "DROP TRIGGER deduction_kept; DELETE FROM event; DELETE FROM deduction WHERE id = 1;";
    played.ledger().execute_batch(&format!("PRAGMA foreign_keys = OFF; {lost}")).unwrap();
    let order = played.charges()[0].order.clone().unwrap();
    let books = played.books();
    assert_caught(&books, &format!("order {order} was charged, and the ledger has no such record"));
    assert_caught(&books, "scans, but 1 admitted");
}

#[test]
fn a_payment_that_the_ledger_does_not_have_is_caught() {
    let mut played = played(&short());
    played.scene.stop_daemon().unwrap();
    let lost = "DROP TRIGGER rank_kept; UPDATE deduction SET state = 'accepted' WHERE id = 1;";
    played.ledger().execute_batch(lost).unwrap();
    let order = played.charges()[0].order.clone().unwrap();
    assert_caught(&played.books(), &format!("order {order} is paid by WeChat's book, and is recorded as accepted"));
}

#[test]
fn a_double_order_is_caught() {
    let played = played(&short());
    let body: Vec<u8> = played.ledger().query_row("SELECT body FROM deduction WHERE id = 1", [], |row| row.get(0)).unwrap();
    let charge = played.charges().remove(0);
    let order = charge.order.unwrap();
    let other = format!("{}X", &order[..order.len() - 1]);
    post_as_the_uploader(&played, &String::from_utf8(body).unwrap().replace(&order, &other));
    assert_eq!(played.charges().len(), 3);
    let code = charge.code;
    let books = played.books();
    assert_caught(&books, &format!("code {code} was charged 2 times, under different orders"));
    assert_caught(&books, "2 orders of 4.00 yuan are recorded as charged, but the sandbox charged 3 of 6.00 yuan");
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
    let mut stage = Play::new(&plan, Screen::Dark, scene.lanes());
    stage.perform_for(&mut scene, Duration::from_secs(13)).unwrap();
    let lines = picture::draw(stage.view(), 26);
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs");
    fs::write(folder.join("demo.svg"), picture::tests::svg(&lines)).unwrap();
}
