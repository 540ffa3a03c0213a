//! Kill after kill over taps, passages, sweeps, callbacks, reloads and clean stops, in every weather: at the end each journey is
//! charged at most once, each that was seen to end exactly once, and nothing that was ever in the books has vanished or gone back.
//!
//! `FAREGATE_ROUNDS` sets the number of rounds; `FAREGATE_SEED` replays one run, as far as its course does not hang on the moment of a
//! kill. What is judged is seen from outside only: the codes that were shown, the openings in the trace, WeChat's requests,
//! `queue list` and `journeys list`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::{self, OpenOptions},
    io::Write as _,
    net::TcpStream,
    os::unix::fs::OpenOptionsExt,
    sync::Mutex,
    thread,
    time::Duration,
};

use data_encoding::BASE64;
use jiff::Timestamp;
use rustix::fs::OFlags;
use serde_json::{Value, json};

use crate::support::{
    Answer, DEADLINE, Gate, Random, WeChat,
    callbacks::{Caller, PAYMENT, answer, paid, request, sealed, unpaid},
    gate::Builder,
    wechat::Deduction,
};

const ROUNDS: u64 = 60;
const LANES: [&str; 2] = ["in", "out"];
const TAPS_PER_LANE_MAX: usize = 3;
/// What a round's daemon lives through, and how long the pauses between are: now and then long enough for a sweep.
const DEEDS_MAX: usize = 6;
const PAUSE_MS_MAX: usize = 25;
const LONG_PAUSE_MS_MAX: usize = 120;

/// The settings that change from round to round: as they are written, and for a round that is short of time.
const MAX_JOURNEY: [&str; 2] = ["max_journey = \"4h\"", "max_journey = \"1s\""];
const PASSAGE_TIMEOUT: [&str; 2] = ["passage_timeout = \"2m\"", "passage_timeout = \"100ms\""];
const FARE_FEN: i64 = 350;
const MAX_FEN: i64 = 1000;
/// They cost the same for the trips that are made.
const FARES: [&str; 2] = ["from,to,fen\nS1,S2,350\nS1,S3,400\n", "from,to,fen\nS1,S2,350\nS1,S3,410\n"];

const WEATHERS: [Option<Answer>; 7] =
    [Some(Answer::Ok), Some(Answer::Drop), Some(Answer::Refuse), Some(Answer::Hang), Some(Answer::Http500), None, None];
const MIXED: [Answer; 7] = [
    Answer::Ok,
    Answer::Ok,
    Answer::Drop,
    Answer::Refuse,
    Answer::Http500,
    Answer::ErrCode(-1),
    Answer::TooMany { retry_after_s: 0 },
];

/// How much time a round gives.
#[derive(Debug, Clone, Copy, Default)]
struct Terms {
    /// Whether nobody is too slow to be seen passing: who opened has passed, or was waited for when the program ended.
    passages_are_waited_for: bool,
    /// Whether no journey is too old.
    journeys_last: bool,
}

/// A code that was shown.
#[derive(Debug, Clone)]
struct Tap {
    code: Vec<u8>,
    has_opened: bool,
    terms: Terms,
}

/// Makes one trip, as well as he can.
#[derive(Debug, Default)]
struct Person {
    name: String,
    entries: Vec<Tap>,
    exits: Vec<Tap>,
    /// Whether he tapped in again although he was in.
    was_forgetful: bool,
}

impl Person {
    fn is_in(&self) -> bool {
        self.entries.iter().any(|tap| tap.has_opened) && !self.has_left()
    }

    fn has_left(&self) -> bool {
        self.exits.iter().any(|tap| tap.has_opened)
    }

    fn is_outside(&self) -> bool {
        self.exits.is_empty() && !self.is_in()
    }

    /// The code of the entry that must be charged exactly once, if that follows from what was seen.
    fn surely_charged(&self) -> Option<&[u8]> {
        let entry = self.entries.last().filter(|tap| tap.has_opened && tap.terms.passages_are_waited_for)?;
        let has_surely_left = |tap: &Tap| tap.has_opened && tap.terms.passages_are_waited_for && tap.terms.journeys_last;
        let is_sure = !self.was_forgetful && self.exits.iter().any(has_surely_left);
        is_sure.then_some(entry.code.as_slice())
    }
}

/// Which tap: the person, and the number among the taps of that lane.
type TapId = (usize, usize);

/// What WeChat has told of an order, and the gate has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Unpaid,
    Paid,
}

/// A callback under way.
struct Call {
    line: TcpStream,
    order: String,
    told: Told,
}

/// What the commands list, by order and by journey.
#[derive(Default)]
struct Books {
    rows: BTreeMap<String, Value>,
    journeys: BTreeMap<String, Value>,
}

impl Books {
    fn read(gate: &Gate) -> Self {
        if gate.cli(&["queue", "list"]).code == Some(66) {
            // The first start was killed before it had made the ledger.
            return Self::default();
        }
        let journeys = gate.ask(&["journeys", "list"]);
        Self {
            rows: gate.queue().into_iter().map(|row| (word(&row, "order"), row)).collect(),
            journeys: journeys.as_array().unwrap().iter().map(|row| (word(row, "journey"), row.clone())).collect(),
        }
    }

    /// Nothing has vanished since, no amount has changed, and no state has gone back.
    fn assert_follows(&self, before: &Self) {
        for (order, old) in &before.rows {
            let new = self.rows.get(order).unwrap_or_else(|| panic!("vanished: {old}"));
            for fixed in ["kind", "lane", "passenger", "original_fen", "total_fen", "start_time", "end_time", "created_at"] {
                assert_eq!(old[fixed], new[fixed], "{fixed} of {order} changed");
            }
            assert!(may_become(&word(old, "state"), new), "{old} became {new}");
        }
        for (number, old) in &before.journeys {
            let new = self.journeys.get(number).unwrap_or_else(|| panic!("vanished: {old}"));
            assert_eq!((&old["passenger"], &old["entry_at"]), (&new["passenger"], &new["entry_at"]), "journey {number}");
        }
    }
}

/// The contract's table of events, as far as they happen here.
fn may_become(old: &str, new: &Value) -> bool {
    let (state, reason) = (word(new, "state"), new["reason"].as_str());
    let further: &[&str] = match old {
        "held" => return true,
        "pending" if reason.is_some_and(|reason| ["late", "not-opened"].contains(&reason)) => &["void"],
        "pending" => &["accepted", "unpaid", "paid"],
        "accepted" => &["unpaid", "paid"],
        "unpaid" => &["paid"],
        _ => &[],
    };
    state == old || further.contains(&state.as_str())
}

fn word(row: &Value, key: &str) -> String {
    row[key].as_str().unwrap_or_else(|| panic!("no {key} in {row}")).to_owned()
}

struct Storm {
    random: Random,
    wechat: WeChat,
    caller: Caller,
    gate: Gate,
    /// As they are without haste.
    settings: String,
    people: Vec<Person>,
    codes: usize,
    told: BTreeMap<String, Told>,
    books: Books,
}

impl Storm {
    fn new(seed: u64, unfinished_entry: &str) -> Self {
        let (wechat, caller) = (WeChat::start(), Caller::new());
        let gate = settings(&wechat, &caller, unfinished_entry).prepare();
        fs::write(gate.path("fares.csv"), FARES[0]).unwrap();
        let settings = gate.settings();
        Self {
            random: Random::new(seed),
            wechat,
            caller,
            gate,
            settings,
            people: Vec::new(),
            codes: 0,
            told: BTreeMap::new(),
            books: Books::default(),
        }
    }

    /// One life of the daemon, and what it leaves behind.
    fn round(&mut self) {
        self.change_weather();
        let terms = Terms { passages_are_waited_for: !self.random.once_in(5), journeys_last: !self.random.once_in(4) };
        self.change_settings(terms);
        self.gate.spawn();
        if self.random.once_in(10) {
            self.pause_up_to(LONG_PAUSE_MS_MAX);
            self.gate.kill9();
        } else {
            self.live(terms);
        }
        let books = Books::read(&self.gate);
        books.assert_follows(&self.books);
        self.books = books;
        self.assert_openings_are_recorded();
        self.assert_what_was_told_is_kept();
    }

    fn live(&mut self, terms: Terms) {
        self.gate.wait_healthy();
        let before = LANES.map(|lane| self.gate.opens_of(lane));
        let (entries, exits) = (self.plan_entries(terms), self.plan_exits(terms));
        for (person, tap) in &entries {
            self.gate.scan("in", &self.people[*person].entries[*tap].code);
        }
        for (person, tap) in &exits {
            self.gate.scan("out", &self.people[*person].exits[*tap].code);
        }
        let calls = self.do_deeds();
        let end = if self.random.once_in(6) { Gate::stop_cleanly } else { Gate::kill9 };
        end(&mut self.gate);
        // A lane opens in the order of its taps, of which none is refused: its n-th opening in this round is that of the n-th.
        for (person, tap) in opened(&entries, self.gate.opens_of("in") - before[0]) {
            self.people[person].entries[tap].has_opened = true;
        }
        for (person, tap) in opened(&exits, self.gate.opens_of("out") - before[1]) {
            self.people[person].exits[tap].has_opened = true;
        }
        for call in calls {
            self.note_answer(call);
        }
    }

    // ---- what happens ------------------------------------------------------------------------------------------------------

    fn change_weather(&mut self) {
        if self.random.once_in(8) {
            return self.wechat.down();
        }
        self.wechat.up();
        if let Some(answer) = *self.random.pick(&WEATHERS) {
            return self.wechat.answer(answer);
        }
        let choices = Mutex::new(Random::new(self.random.next()));
        self.wechat.answer_with(move |_| *choices.lock().unwrap().pick(&MIXED));
    }

    fn change_settings(&self, terms: Terms) {
        let mut text = self.settings.clone();
        for (is_ample, [ample, short]) in [(terms.journeys_last, MAX_JOURNEY), (terms.passages_are_waited_for, PASSAGE_TIMEOUT)] {
            assert!(text.contains(ample), "{text}");
            if !is_ample {
                text = text.replace(ample, short);
            }
        }
        self.gate.write_settings(&text);
    }

    /// People who come, and sometimes who comes again: because he was not let in, or has forgotten that he was.
    fn plan_entries(&mut self, terms: Terms) -> Vec<TapId> {
        (0..self.random.below(TAPS_PER_LANE_MAX + 1)).map(|_| self.plan_entry(terms)).collect()
    }

    fn plan_entry(&mut self, terms: Terms) -> TapId {
        let is_forgetful = self.random.once_in(12);
        let who = self.some_person(|person| if is_forgetful { person.is_in() } else { person.is_outside() });
        let person = match who {
            Some(who) if is_forgetful || self.random.once_in(2) => who,
            _ => self.new_person(),
        };
        self.people[person].was_forgetful |= self.people[person].is_in();
        let code = self.new_code(person);
        let entries = &mut self.people[person].entries;
        entries.push(Tap { code, has_opened: false, terms });
        (person, entries.len() - 1)
    }

    /// People who are in; sometimes one who taps twice, or never came in.
    fn plan_exits(&mut self, terms: Terms) -> Vec<TapId> {
        (0..self.random.below(TAPS_PER_LANE_MAX + 1)).filter_map(|_| self.plan_exit(terms)).collect()
    }

    fn plan_exit(&mut self, terms: Terms) -> Option<TapId> {
        let person = if self.random.once_in(15) { self.new_person() } else { self.some_person(Person::is_in)? };
        let code = self.new_code(person);
        let exits = &mut self.people[person].exits;
        exits.push(Tap { code, has_opened: false, terms });
        Some((person, exits.len() - 1))
    }

    fn some_person(&mut self, is_meant: impl Fn(&Person) -> bool) -> Option<usize> {
        let meant: Vec<_> = (0..self.people.len()).filter(|&person| is_meant(&self.people[person])).collect();
        (!meant.is_empty()).then(|| *self.random.pick(&meant))
    }

    fn new_person(&mut self) -> usize {
        let number = self.people.len();
        assert!(number < 10_000, "a passenger has four digits");
        self.people.push(Person { name: format!("{number:04}"), ..Person::default() });
        number
    }

    fn new_code(&mut self, person: usize) -> Vec<u8> {
        self.codes += 1;
        format!("{}-{:08}", self.people[person].name, self.codes).into_bytes()
    }

    fn do_deeds(&mut self) -> Vec<Call> {
        let pause_ms_max = if self.random.once_in(4) { LONG_PAUSE_MS_MAX } else { PAUSE_MS_MAX };
        let mut calls = Vec::new();
        for _ in 0..self.random.below(DEEDS_MAX + 1) {
            self.pause_up_to(pause_ms_max);
            match self.random.below(6) {
                0 | 1 => self.pass("in"),
                2 | 3 => self.pass("out"),
                4 => self.change_fares(),
                _ => calls.extend(self.call_back()),
            }
        }
        self.pause_up_to(pause_ms_max);
        calls
    }

    fn pause_up_to(&mut self, milliseconds: usize) {
        let milliseconds = self.random.below(milliseconds + 1);
        thread::sleep(Duration::from_millis(u64::try_from(milliseconds).unwrap()));
    }

    /// Somebody passes the lane's sensor.
    fn pass(&self, lane: &str) {
        let without_waiting = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
        let inputs = OpenOptions::new().write(true).custom_flags(without_waiting).open(self.gate.path(&format!("inputs-{lane}")));
        inputs.unwrap().write_all(b"{\"line\":\"passage\",\"level\":1}\n{\"line\":\"passage\",\"level\":0}\n").unwrap();
    }

    /// As a whole: half a table is another table.
    fn change_fares(&mut self) {
        fs::write(self.gate.path("fares.new"), *self.random.pick(&FARES)).unwrap();
        fs::rename(self.gate.path("fares.new"), self.gate.path("fares.csv")).unwrap();
        self.gate.hang_up();
    }

    /// WeChat begins to tell of an order that it has taken, if there is one.
    fn call_back(&mut self) -> Option<Call> {
        let taken: Vec<_> = self.wechat.deductions().into_iter().filter(|sent| sent.taken).collect();
        if taken.is_empty() {
            return None;
        }
        let sent = self.random.pick(&taken);
        let told = if self.random.once_in(3) { Told::Unpaid } else { Told::Paid };
        let content = if told == Told::Paid { paid(&sent.json) } else { unpaid(&sent.json) };
        let envelope = sealed(content.to_string().as_bytes());
        let mut line = self.caller.connect();
        line.write_all(&request("POST", PAYMENT, envelope.to_string().as_bytes())).unwrap();
        Some(Call { line, order: sent.order().to_owned(), told })
    }

    fn note_answer(&mut self, mut call: Call) {
        if answer(&mut call.line).is_ok_and(|answer| answer["errcode"] == 0) {
            let told = self.told.entry(call.order).or_insert(call.told);
            *told = call.told.max(*told);
        }
    }

    // ---- what must hold after every round ----------------------------------------------------------------------------------

    fn assert_openings_are_recorded(&self) {
        let journeys = count_by_passenger(self.books.journeys.values());
        let exits = count_by_passenger(self.books.rows.values().filter(|row| row["lane"] == "out"));
        for person in &self.people {
            let entered = person.entries.iter().filter(|tap| tap.has_opened).count();
            let journeys = journeys.get(&person.name).copied().unwrap_or_default();
            assert!(entered <= journeys, "let in {entered} times, {journeys} journeys: {person:?}");
            assert!(exits.contains_key(&person.name) || !person.has_left(), "let out without a record: {person:?}");
        }
    }

    fn assert_what_was_told_is_kept(&self) {
        for (order, told) in &self.told {
            let state = word(&self.books.rows[order], "state");
            let is_kept = state == "paid" || (*told == Told::Unpaid && state == "unpaid");
            assert!(is_kept, "told {told:?} and acknowledged, but {state}: {order}");
        }
    }

    // ---- the end -----------------------------------------------------------------------------------------------------------

    /// Calm again: everything that is due is sent, every journey that is not over is given up.
    fn settle(&mut self) {
        self.wechat.up();
        self.wechat.answer(Answer::Ok);
        self.change_settings(Terms { passages_are_waited_for: true, journeys_last: false });
        self.gate.start();
        let gate = &self.gate;
        gate.wait("no journey is open", || gate.ask(&["journeys", "list", "--open"]) == json!([]));
        gate.wait_drained();
        self.gate.stop_cleanly();
        let books = Books::read(&self.gate);
        books.assert_follows(&self.books);
        self.books = books;
    }

    fn judge(&self) -> usize {
        self.wechat.assert_one_order_per_code_and_one_body_per_order();
        self.assert_openings_are_recorded();
        self.assert_what_was_told_is_kept();
        let sent = self.wechat.deductions();
        for row in self.books.rows.values() {
            judge_row(row, &sent);
        }
        let charges = self.charges();
        for (entry, orders) in &charges {
            assert_eq!(orders.len(), 1, "{} is charged under {orders:?}", String::from_utf8_lossy(entry));
        }
        let sure: Vec<_> = self.people.iter().filter_map(|person| Some((person, person.surely_charged()?))).collect();
        for (person, entry) in &sure {
            assert!(charges.contains_key(*entry), "let out and not charged: {person:?}");
        }
        let fsck = self.gate.cli(&["fsck"]);
        assert_eq!(fsck.code, Some(0), "{fsck:?}");
        println!("{} people, {} trips charged, {} of them for sure", self.people.len(), charges.len(), sure.len());
        println!("told and acknowledged: {}; rows: {:?}", self.told.len(), self.kinds_of_rows());
        sure.len()
    }

    /// How many rows of each kind there are, for whoever wants to see what the storm has met.
    fn kinds_of_rows(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for row in self.books.rows.values() {
            let reason = row["reason"].as_str().map_or(String::new(), |reason| format!(" ({reason})"));
            *kinds.entry(format!("{} {}{reason}", word(row, "kind"), word(row, "state"))).or_default() += 1;
        }
        kinds
    }

    /// The orders that WeChat has taken for each entry: as the beginning of a trip, or as one that never ended.
    fn charges(&self) -> BTreeMap<Vec<u8>, BTreeSet<String>> {
        let mut charges: BTreeMap<Vec<u8>, BTreeSet<String>> = BTreeMap::new();
        for sent in self.wechat.deductions().into_iter().filter(|sent| sent.taken) {
            let start = sent.json["start_qrcode"].as_str().map(|start| BASE64.decode(start.as_bytes()).unwrap());
            let (code, entry) = (sent.code(), start.clone().unwrap_or_else(|| sent.code()));
            let person = self.people.iter().find(|person| code.starts_with(person.name.as_bytes())).expect("a known passenger");
            assert!(person.entries.iter().any(|tap| tap.code == entry), "not an entry of his: {}", sent.json);
            // Codes are numbered in the order in which they were shown.
            let is_exit = person.exits.iter().any(|tap| tap.code == code && tap.code > entry);
            assert_eq!(is_exit, start.is_some(), "{}", sent.json);
            charges.entry(entry).or_default().insert(sent.order().to_owned());
        }
        charges
    }
}

/// Each row is settled, and WeChat knows of it what the gate does.
fn judge_row(row: &Value, deductions: &[Deduction]) {
    let (order, state, total_fen) = (word(row, "order"), word(row, "state"), row["total_fen"].as_i64().unwrap());
    let sent: Vec<_> = deductions.iter().filter(|sent| sent.order() == order).collect();
    match state.as_str() {
        "accepted" | "paid" | "unpaid" => assert!(sent.iter().any(|sent| sent.taken), "never taken: {row}"),
        "void" => assert!(sent.is_empty(), "void, and sent: {row}"),
        _ => assert!(row["reason"] == "unmatched" && state == "parked" && sent.is_empty(), "at the end: {row}"),
    }
    let is_at_fare = row["kind"] == "exit" && total_fen == FARE_FEN;
    assert!((is_at_fare || total_fen == MAX_FEN) && !row["flags"].to_string().contains("unknown-pair"), "{row}");
}

/// By the last four digits, which are all that is told of a passenger, and are the whole name here.
fn count_by_passenger<'a>(rows: impl Iterator<Item = &'a Value>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(word(row, "passenger").trim_start_matches('*').to_owned()).or_default() += 1;
    }
    counts
}

/// The taps for which a lane opened.
fn opened(taps: &[TapId], count: usize) -> Vec<TapId> {
    assert!(count <= taps.len(), "{count} openings for {} taps", taps.len());
    taps[..count].to_vec()
}

fn settings(wechat: &WeChat, caller: &Caller, unfinished_entry: &str) -> Builder {
    let builder = caller.settings(Gate::beside(wechat)).lanes(&LANES);
    let builder = builder.of_lane("in", "lane", "mode", "entry").of_lane("out", "lane", "mode", "exit");
    let builder = builder.of_lane("out", "lane", "station", "S2");
    let builder = builder.of_lane("in", "turnstile", "inputs", "inputs-in").of_lane("out", "turnstile", "inputs", "inputs-out");
    let builder = builder.set("turnstile", "passage", 1).set("turnstile", "passage_timeout", "2m");
    let builder = builder.set("turnstile", "pulse", "30ms").set("turnstile", "pulse_gap", "10ms");
    // Nothing may come too late or come a second time because the machine was busy.
    let builder =
        builder.set("gate", "duplicate_window", "2h").set("gate", "open_within", "1m").set("gate", "passenger_interval", "0s");
    let builder = builder.set("ride_code", "opaque_passenger", json!({"offset": 0, "length": 4}));
    let builder = builder.set("fare", "table", "fares.csv").set("fare", "max_fen", MAX_FEN).set("fare", "max_journey", "4h");
    let builder = builder.set("fare", "unfinished_entry", unfinished_entry);
    builder.set("wechat", "timeout", "1s").set("upload", "retry_initial", "20ms").set("upload", "retry_max", "200ms")
}

fn number_from(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

fn rage(unfinished_entry: &str) {
    let seed = number_from("FAREGATE_SEED").unwrap_or_else(|| u64::try_from(Timestamp::now().as_millisecond()).unwrap());
    let rounds = number_from("FAREGATE_ROUNDS").unwrap_or(ROUNDS);
    println!("FAREGATE_SEED={seed} FAREGATE_ROUNDS={rounds}; waits up to {DEADLINE:?}");
    let mut storm = Storm::new(seed, unfinished_entry);
    for _ in 0..rounds {
        storm.round();
    }
    storm.settle();
    let sure = storm.judge();
    assert!(rounds < ROUNDS || sure > 0, "nobody was let in and out: nothing was tested");
}

#[test]
fn every_journey_is_charged_once_at_most_whenever_the_program_is_killed() {
    rage("void");
}

#[test]
fn every_journey_is_charged_once_at_most_also_where_a_missing_exit_costs_the_most() {
    rage("charge-max");
}
