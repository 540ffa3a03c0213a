//! What a seed stands for: the settings of a gate, and what happens to it. Plain values, drawn from the seed alone.
//!
//! Times are short, so that minutes hold what days do: the sweep, passages that do not come, windows that end.

use std::{fmt::Write as _, time::Duration};

use crate::sandbox::Random;

/// The settings, and what happens, in order.
#[derive(Debug)]
pub(super) struct Plan {
    /// The settings file.
    pub(super) settings: String,
    /// Which lanes have a passage sensor.
    pub(super) sensors: Vec<bool>,
    pub(super) steps: Vec<Step>,
}

/// Something happens.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Time passes.
    Wait(Duration),
    /// Passengers hold up their phones, at once.
    Taps(Vec<Tap>),
    /// Somebody walks through a lane.
    Pass { lane: usize },
    /// Somebody presses the exit button.
    Press { lane: usize },
    /// A lane's fire alarm.
    Fire { lane: usize, is_on: bool },
    /// A lane's turnstile cannot be set, or can again.
    Jam { lane: usize, is_jammed: bool },
    /// WeChat changes its ways.
    Weather(Weather),
    /// The real-time clock goes wrong by so many milliseconds and is not synchronized any more.
    ClockGoesWrong { by_ms: i64 },
    /// The clock is synchronized.
    ClockIsSet,
    /// The program is killed.
    Kill(Death),
    /// The program is stopped in order.
    Stop { reboot: Option<Reboot> },
    /// The price changes, and with it what every later trip costs.
    NewFare { fen: i64 },
    /// A person has every parked order sent again.
    RetryParked,
    /// A person makes the newest unsettled order void, where nothing was sent of it.
    Void,
}

/// A code is shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tap {
    pub(super) lane: usize,
    pub(super) passenger: u64,
    /// The phone shows the code that it showed before.
    pub(super) is_old_code: bool,
    /// The reader's bytes were long on their way: a gate that is busy is too late.
    pub(super) is_slow: bool,
}

/// How the program ends.
#[derive(Debug, Clone)]
pub(super) struct Death {
    /// What was begun just before.
    pub(super) taps: Vec<Tap>,
    /// How many turns the tasks of the program still get, all together.
    pub(super) turns: u64,
    /// Whether the machine goes down with it.
    pub(super) reboot: Option<Reboot>,
}

/// What the clock shows when the machine is up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reboot {
    /// About the right time, from a battery.
    Battery,
    /// 1970.
    Epoch,
}

/// What WeChat does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weather {
    /// It takes them.
    Fine,
    /// Nobody is there.
    Unreachable,
    /// It takes them and the answer is lost.
    AnswersLost,
    /// It is silent, and has taken nothing.
    Silent,
    /// An error of its own.
    Busy,
    /// Too many requests.
    SlowDown,
    /// It refuses each row for good.
    Refuses,
    /// Answers that nobody knows.
    Unknown,
    /// Something must be set right by a person.
    Operator,
    /// No token.
    Token,
    /// Any of these, anew for each request.
    Mixed,
}

impl Weather {
    const ALL: [Self; 11] = [
        Self::Fine,
        Self::Unreachable,
        Self::AnswersLost,
        Self::Silent,
        Self::Busy,
        Self::SlowDown,
        Self::Refuses,
        Self::Unknown,
        Self::Operator,
        Self::Token,
        Self::Mixed,
    ];

    pub(super) fn drawn(random: &mut Random) -> Self {
        pick(random, &Self::ALL)
    }
}

const PASSENGERS: u64 = 5;
const STEPS: (u64, u64) = (15, 55);

pub(super) fn pick<T: Copy>(random: &mut Random, choices: &[T]) -> T {
    choices[usize::try_from(random.below(choices.len() as u64)).expect("a place in a slice")]
}

fn place(random: &mut Random, count: usize) -> usize {
    usize::try_from(random.below(count as u64)).expect("a place in a slice")
}

impl Plan {
    pub(super) fn drawn(random: &mut Random) -> Self {
        let modes: &[&str] = pick(
            random,
            &[
                &["single"],
                &["single", "single"],
                &["entry", "exit"],
                &["both", "both"],
                &["entry", "exit", "both"],
                &["both", "single"],
            ],
        );
        let sensors: Vec<bool> = modes.iter().map(|_| random.below(2) == 0).collect();
        let settings = settings(random, modes, &sensors);
        let count = STEPS.0 + random.below(STEPS.1 - STEPS.0);
        let pause = |random: &mut Random| Step::Wait(Duration::from_millis(pick(random, &[0, 0, 200, 1_100])));
        let steps = (0..count).flat_map(|_| [step(random, modes.len()), pause(random)]).collect();
        Self { settings, sensors, steps }
    }
}

fn settings(random: &mut Random, modes: &[&str], sensors: &[bool]) -> String {
    let mut text = format!(
        "[gate]\nid = \"SIM-1\"\nstation = \"S1\"\nduplicate_window = \"60s\"\npassenger_interval = \"{}\"\n",
        pick(random, &["0s", "2s"])
    );
    for (index, (mode, has_sensor)) in modes.iter().zip(sensors).enumerate() {
        let no_passage = pick(random, &["void", "charge"]);
        let station = pick(random, &["S1", "S2"]);
        writeln!(
            text,
            "[[lane]]\nname = \"lane{index}\"\nmode = \"{mode}\"\nstation = \"{station}\"\n[lane.scanner]\ndevice = \"/dev/ttyUSB{index}\"\n\
             [lane.turnstile]\ndriver = \"simulated\"\npulse = \"500ms\"\npassage_timeout = \"3s\"\nno_passage = \"{no_passage}\"{}",
            if *has_sensor { format!("\ninputs = \"inputs{index}\"") } else { String::new() }
        )
        .expect("a string takes everything");
    }
    // Where nobody leaves, a missing tap is no exception.
    let has_exits = modes.iter().any(|mode| ["exit", "both"].contains(mode));
    let same_station = pick(random, &["", "same_station = { within = \"20s\", fen = 0 }\n"]);
    write!(
        text,
        "[ride_code]\nformat = \"opaque\"\nopaque_passenger = {{ offset = 0, length = 4 }}\n\
         [fare]\nscene = \"METRO\"\nbody = \"地铁代扣\"\nline_name = \"2号线\"\nflat_fen = 200\nmax_fen = 1000\n\
         discount_percent = {}\nmax_journey = \"{}\"\nreentry_within = \"{}\"\nunmatched_exit = \"{}\"\nunfinished_entry = \"{}\"\n{same_station}\
         [ledger]\nmin_free = \"1KiB\"\n\
         [wechat]\nbase_url = \"http://127.0.0.1:1\"\ndeduct_path = \"/deduct\"\nauth = \"none\"\nappid = \"wxsandbox\"\nmch_id = \"1900000001\"\n\
         [upload]\nconcurrency = {}\nretry_max = \"8s\"\nunknown_attempts = 2\nmax_age = \"{}\"\n",
        pick(random, &[100, 80]),
        pick(random, &["40s", "3m"]),
        pick(random, &["5s", "30s"]),
        if has_exits { pick(random, &["hold", "charge-max", "deny"]) } else { "hold" },
        if has_exits { pick(random, &["void", "charge-max"]) } else { "void" },
        1 + random.below(6),
        pick(random, &["2m", "5d"]),
    )
    .expect("a string takes everything");
    if random.below(5) == 0 {
        text.push_str("[exposure]\npassenger_count = 3\nat_limit = \"deny\"\n");
    }
    if random.below(4) == 0 {
        text.push_str("[deny]\nunpaid = true\n");
    }
    text
}

fn step(random: &mut Random, lanes: usize) -> Step {
    let lane = place(random, lanes);
    match random.below(100) {
        0..34 => Step::Taps(taps(random, lanes)),
        34..52 => Step::Pass { lane },
        52..66 => Step::Wait(Duration::from_millis(pick(random, &[20, 300, 1_500, 4_000, 12_000, 45_000]))),
        66..78 => Step::Weather(Weather::drawn(random)),
        78..85 => Step::Kill(death(random, lanes)),
        85..87 => Step::Stop { reboot: reboot(random) },
        87..89 => Step::Fire { lane, is_on: random.below(2) == 0 },
        89..91 => Step::Press { lane },
        91..93 => Step::Jam { lane, is_jammed: random.below(2) == 0 },
        93..94 => Step::ClockGoesWrong { by_ms: pick(random, &[-3_600_000, -90_000, 90_000, 86_400_000]) },
        94..96 => Step::ClockIsSet,
        96..97 => Step::NewFare { fen: pick(random, &[200, 300, 0]) },
        97..98 => Step::RetryParked,
        _ => Step::Void,
    }
}

fn taps(random: &mut Random, lanes: usize) -> Vec<Tap> {
    let first = tap(random, lanes);
    let second = tap(random, lanes);
    // At one reader there is one phone at a time; at two there may be the same.
    if first.lane != second.lane && random.below(3) == 0 { vec![first, second] } else { vec![first] }
}

fn tap(random: &mut Random, lanes: usize) -> Tap {
    Tap {
        lane: place(random, lanes),
        passenger: random.below(PASSENGERS),
        is_old_code: random.below(8) == 0,
        is_slow: random.below(6) == 0,
    }
}

fn death(random: &mut Random, lanes: usize) -> Death {
    let taps = if random.below(3) == 0 { Vec::new() } else { taps(random, lanes) };
    Death { taps, turns: random.below(16), reboot: reboot(random) }
}

fn reboot(random: &mut Random) -> Option<Reboot> {
    pick(random, &[None, None, Some(Reboot::Battery), Some(Reboot::Epoch)])
}
