//! Kill after kill at random moments, and clean stops, SIGHUPs and retries of what is parked between them, in every weather: at the
//! end the books of the gate and of WeChat agree with what opened.
//!
//! `FAREGATE_ROUNDS` sets the number of rounds, `FAREGATE_SEED` replays one run. What is judged is seen from outside only: the codes
//! that were scanned, the openings in the trace, WeChat's requests, and `queue list`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    sync::Mutex,
    thread,
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::{Answer, DEADLINE, Gate, Random, WeChat, code, gate::Builder};

const ROUNDS: u64 = 60;
const LANES: [&str; 2] = ["in", "out"];
const KILL_WITHIN_MS: usize = 60;
/// Now and then a daemon lives long enough to open for all that was scanned.
const KILL_LATE_WITHIN_MS: usize = 300;
const SCANS_PER_LANE_MAX: usize = 3;

/// How WeChat is in one round.
#[derive(Debug, Clone, Copy)]
enum Weather {
    Always(Answer),
    /// Each request meets another answer.
    Mixed,
    /// What is new is taken, and half of it never answered; a repeat gets an error of its own.
    OnceOnly,
    Down,
}

/// Nobody has said what it means.
const UNKNOWN: i64 = 61099;
/// What [`Weather::OnceOnly`] says to repeats, and the settings explain as `accepted`.
const TAKEN_BEFORE: i64 = 61011;
/// The row is bad; a person may have it tried again.
const BAD_ROW: i64 = 47001;

const WEATHERS: [Weather; 12] = [
    Weather::Always(Answer::Ok),
    Weather::Always(Answer::Drop),
    Weather::Always(Answer::Refuse),
    Weather::Always(Answer::Hang),
    Weather::Always(Answer::Http500),
    Weather::Always(Answer::Html),
    Weather::Always(Answer::TooMany { retry_after_s: 0 }),
    Weather::Always(Answer::Redirect),
    Weather::Always(Answer::ErrCode(UNKNOWN)),
    Weather::Mixed,
    Weather::OnceOnly,
    Weather::Down,
];

const MIXED: [Answer; 13] = [
    Answer::Ok,
    Answer::Drop,
    Answer::Refuse,
    Answer::Http500,
    Answer::Html,
    Answer::ErrCode(-1),
    Answer::ErrCode(40001),
    Answer::ErrCode(48001),
    Answer::ErrCode(UNKNOWN),
    Answer::ErrCode(BAD_ROW),
    Answer::Redirect,
    Answer::TooMany { retry_after_s: 0 },
    Answer::Says("{}"),
];
/// Answers take up to so long.
const LATENCY_MS_MAX: usize = 20;
/// Tokens are good for fewer deductions than this.
const TOKEN_USES_MAX: usize = 8;

struct Storm {
    random: Random,
    wechat: WeChat,
    gate: Gate,
    /// Every code that was ever written to a reader.
    scanned: Vec<Vec<u8>>,
    /// How often the gate opened for each.
    opened: BTreeMap<Vec<u8>, usize>,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let wechat = WeChat::start();
        let gate = settings(&wechat).prepare();
        Self { random: Random::new(seed), wechat, gate, scanned: Vec::new(), opened: BTreeMap::new() }
    }

    /// One life of the daemon.
    fn round(&mut self) {
        self.change_weather();
        self.gate.spawn();
        if self.random.once_in(8) {
            // Killed while it starts, perhaps while it recovers from the kill before.
            self.pause_up_to(KILL_LATE_WITHIN_MS);
            return self.gate.kill9();
        }
        self.gate.wait_healthy();
        let before = LANES.map(|lane| self.gate.opens_of(lane));
        let plan = self.plan();
        for (lane, codes) in LANES.iter().zip(&plan) {
            for code in codes {
                self.gate.scan(lane, code);
            }
        }
        self.disturb();
        let late = self.random.once_in(4);
        self.pause_up_to(if late { KILL_LATE_WITHIN_MS } else { KILL_WITHIN_MS });
        self.end();
        for ((lane, codes), before) in LANES.iter().zip(&plan).zip(before) {
            self.note_openings(lane, codes, before);
        }
        if self.random.once_in(4) {
            self.assert_openings_are_recorded();
        }
    }

    /// What a person may do in the middle of it.
    fn disturb(&mut self) {
        if self.random.once_in(4) {
            self.gate.hang_up();
        }
        if self.random.once_in(4) {
            self.retry_what_is_parked();
        }
    }

    /// Mostly a kill.
    fn end(&mut self) {
        if self.random.once_in(4) {
            self.gate.stop_cleanly();
        } else {
            self.gate.kill9();
        }
        if self.random.once_in(8) {
            self.retry_what_is_parked();
        }
    }

    /// With a daemon or without one.
    fn retry_what_is_parked(&self) {
        let retried = self.gate.cli(&["queue", "retry", "--all-parked"]);
        assert_eq!(retried.code, Some(0), "{retried:?}\n{}", self.gate.log_tail());
    }

    fn change_weather(&mut self) {
        let weather = *self.random.pick(&WEATHERS);
        if matches!(weather, Weather::Down) {
            return self.wechat.down();
        }
        self.wechat.up();
        let latency_ms = self.random.below(LATENCY_MS_MAX);
        self.wechat.answer_after(Duration::from_millis(u64::try_from(latency_ms).unwrap()));
        self.wechat.wear_out_tokens_after(1 + self.random.below(TOKEN_USES_MAX));
        match weather {
            Weather::Always(answer) => self.wechat.answer(answer),
            Weather::OnceOnly => self.take_once_only(),
            Weather::Mixed | Weather::Down => {
                let choices = Mutex::new(Random::new(self.random.next()));
                self.wechat.answer_with(move |_| *choices.lock().unwrap().pick(&MIXED));
            }
        }
    }

    fn take_once_only(&mut self) {
        let taken: BTreeSet<String> = self.wechat.charged().into_keys().collect();
        let books = Mutex::new((taken, Random::new(self.random.next())));
        self.wechat.answer_with(move |deduction| {
            let (taken, random) = &mut *books.lock().unwrap();
            match taken.insert(deduction.order().to_owned()) {
                true if random.once_in(2) => Answer::Drop,
                true => Answer::Ok,
                false => Answer::ErrCode(TAKEN_BEFORE),
            }
        });
    }

    /// What each lane scans in this round, so that openings can be told apart: several new codes, or one code alone.
    fn plan(&mut self) -> [Vec<Vec<u8>>; 2] {
        if self.random.once_in(5) {
            let on_both_lanes = vec![self.new_or_old_code()];
            return [on_both_lanes.clone(), on_both_lanes];
        }
        [self.plan_lane(), self.plan_lane()]
    }

    fn plan_lane(&mut self) -> Vec<Vec<u8>> {
        match self.random.below(6) {
            0 => Vec::new(),
            1 => vec![self.new_or_old_code()],
            _ => (0..=self.random.below(SCANS_PER_LANE_MAX)).map(|_| self.new_code()).collect(),
        }
    }

    fn new_code(&mut self) -> Vec<u8> {
        let code = code("STORM", self.scanned.len());
        self.scanned.push(code.clone());
        code
    }

    fn new_or_old_code(&mut self) -> Vec<u8> {
        if self.scanned.is_empty() || self.random.once_in(3) { self.new_code() } else { self.random.pick(&self.scanned).clone() }
    }

    fn pause_up_to(&mut self, milliseconds: usize) {
        let milliseconds = self.random.below(milliseconds + 1);
        thread::sleep(Duration::from_millis(u64::try_from(milliseconds).unwrap()));
    }

    /// A lane opens in the order of its scans: its n-th opening in this round is that of its n-th code.
    fn note_openings(&mut self, lane: &str, codes: &[Vec<u8>], before: usize) {
        let count = self.gate.opens_of(lane) - before;
        assert!(count <= codes.len(), "lane {lane} opened {count} times for {} scans", codes.len());
        for code in &codes[..count] {
            let times = self.opened.entry(code.clone()).or_default();
            *times += 1;
            assert_eq!(*times, 1, "one code opened twice");
        }
    }

    fn assert_openings_are_recorded(&self) {
        let queue = self.gate.queue();
        for lane in LANES {
            let (recorded, opened) = (queue.iter().filter(|row| row["lane"] == lane).count(), self.gate.opens_of(lane));
            assert!(opened <= recorded, "lane {lane} opened {opened} times, {recorded} deductions are recorded");
        }
    }

    /// Calm again: everything is sent.
    fn settle(&mut self) {
        self.wechat.up();
        self.wechat.keep_tokens();
        self.wechat.answer(Answer::Ok);
        self.gate.start();
        self.gate.wait_drained();
        self.retry_what_is_parked();
        self.gate.wait_drained();
        self.gate.stop_cleanly();
    }

    fn judge(&self) {
        self.wechat.assert_one_order_per_code_and_one_body_per_order();
        self.assert_openings_are_recorded();
        let scanned: BTreeSet<_> = self.scanned.iter().cloned().collect();
        let charged = self.wechat.charged_codes();
        assert!(charged.is_subset(&scanned), "something was charged that was never scanned");
        for code in self.opened.keys() {
            assert!(charged.contains(code), "{} opened and was not charged", String::from_utf8_lossy(code));
        }
        let queue = self.gate.queue();
        for row in &queue {
            self.judge_row(row);
        }
        let accepted: BTreeSet<_> = queue.iter().filter(|row| row["state"] == "accepted").map(order_of).collect();
        assert_eq!(accepted, self.wechat.charged().into_keys().collect(), "accepted here, charged there");
        println!("{} scanned, {} opened, {} charged", scanned.len(), self.opened.len(), charged.len());
    }

    fn judge_row(&self, row: &Value) {
        let (state, flags) = (row["state"].as_str().unwrap(), row["flags"].to_string());
        // Whatever was recorded is charged, but for what the gate itself took back in time or at a clean stop; and never is it too
        // busy for a minute.
        let is_taken_back = row["reason"] == "late" || row["reason"] == "not-opened";
        assert!(state == "accepted" || (state == "void" && is_taken_back), "at the end: {row}");
        if state == "accepted" && !flags.contains("opening-unconfirmed") {
            let deductions = self.wechat.deductions();
            let sent = deductions.iter().find(|deduction| deduction.order() == order_of(row)).expect("an accepted order came");
            assert!(self.opened.contains_key(&sent.code()), "charged as opened, but it never was: {row}");
        }
    }
}

fn settings(wechat: &WeChat) -> Builder {
    // Nothing may come too late or come a second time because the machine was busy.
    let builder = Gate::beside(wechat).lanes(&LANES).set("gate", "duplicate_window", "2h").set("gate", "open_within", "1m");
    let builder = builder.set("turnstile", "pulse", "30ms").set("turnstile", "pulse_gap", "10ms");
    // What nobody has explained is sent until the weather changes.
    let builder = builder.set("wechat", "errcodes", json!({TAKEN_BEFORE.to_string(): "accepted"}));
    let builder = builder.set("upload", "unknown_attempts", 1_000_000);
    builder.set("wechat", "timeout", "1s").set("upload", "retry_initial", "20ms").set("upload", "retry_max", "200ms")
}

fn order_of(row: &Value) -> String {
    row["order"].as_str().unwrap().to_owned()
}

fn number_from(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

#[test]
fn every_opening_is_charged_exactly_once_whenever_the_program_is_killed() {
    let seed = number_from("FAREGATE_SEED").unwrap_or_else(|| u64::try_from(Timestamp::now().as_millisecond()).unwrap());
    let rounds = number_from("FAREGATE_ROUNDS").unwrap_or(ROUNDS);
    println!("FAREGATE_SEED={seed} FAREGATE_ROUNDS={rounds}; waits up to {DEADLINE:?}");
    let mut storm = Storm::new(seed);
    for _ in 0..rounds {
        storm.round();
    }
    storm.settle();
    storm.judge();
    assert!(rounds < ROUNDS || !storm.opened.is_empty(), "nothing ever opened: nothing was tested");
}
