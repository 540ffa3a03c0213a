//! A turnstile without hardware: outputs are lines in a trace, inputs are lines from a FIFO. Both may be absent.
//!
//! The trace is the output: when the line that says `open` cannot be written, the turnstile has not opened.

use std::{io, path::Path};

use super::{
    TurnstileError,
    driver::{Driver, InputSink, Output},
    inputs::Inputs,
    trace::Trace,
};
use crate::config;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Simulated {
    trace: Option<Trace>,
    /// Held for its thread, which ends with it.
    _inputs: Option<Inputs>,
}

impl Simulated {
    /// `inputs`: the FIFO, and which lines are taken from it.
    pub(super) fn open(
        lane: &str,
        trace: Option<&Path>,
        inputs: Option<(&Path, config::Inputs)>,
        sink: InputSink,
    ) -> Result<Self, TurnstileError> {
        let trace = trace.map(|path| open_trace(path, lane)).transpose()?;
        let inputs = inputs.map(|(path, present)| Inputs::open(path, lane, present, sink)).transpose()?;
        Ok(Self { trace, _inputs: inputs })
    }
}

fn open_trace(path: &Path, lane: &str) -> Result<Trace, TurnstileError> {
    Trace::open(path, lane).map_err(|source| TurnstileError::Trace { lane: lane.to_owned(), path: path.to_owned(), source })
}

impl Driver for Simulated {
    fn set(&mut self, output: Output, active: bool, reason: Option<&'static str>) -> io::Result<()> {
        self.trace.as_mut().map_or(Ok(()), |trace| trace.write(output, active, reason))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        path::PathBuf,
        time::{Duration, Instant},
    };

    use serde_json::Value;
    use tempfile::TempDir;

    use crate::{
        config,
        turnstile::{Event, Lane, LaneSetup, Ticket, TurnstileError, TurnstileState, Turnstiles, start},
    };

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A gate with simulated turnstiles in a directory of its own. Every lane has every input.
    struct Gate {
        dir: TempDir,
        pulse: Duration,
    }

    impl Gate {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), pulse: Duration::from_millis(20) }
        }

        /// With a pulse that does not end by itself while a test runs.
        fn with_long_pulse() -> Self {
            Self { pulse: Duration::from_secs(600), ..Self::new() }
        }

        fn trace(&self) -> PathBuf {
            self.dir.path().join("trace.jsonl")
        }

        fn setup(&self, name: &str) -> LaneSetup {
            let inputs = Some(self.dir.path().join(format!("{name}-inputs")));
            let settings = config::Turnstile {
                driver: config::Driver::Simulated { trace: Some(self.trace()), inputs },
                pulse: self.pulse,
                pulse_gap: Duration::from_millis(5),
                passage_timeout: Duration::from_secs(8),
                no_passage: config::NoPassage::Void,
                inputs: config::Inputs { passage: true, fire_alarm: true, exit_button: true },
            };
            LaneSetup { name: name.to_owned(), settings }
        }

        fn start<const LANES: usize>(&self, names: [&str; LANES]) -> (Turnstiles, [Lane; LANES]) {
            let (turnstiles, lanes) = start(names.iter().map(|name| self.setup(name)).collect()).unwrap();
            (turnstiles, lanes.try_into().unwrap())
        }

        fn set_input(&self, lane: &str, input: &str, level: u8) {
            let text = format!("{{\"line\":\"{input}\",\"level\":{level}}}\n");
            std::fs::write(self.dir.path().join(format!("{lane}-inputs")), text).unwrap();
        }

        /// The trace so far; a line that is not whole fails the test.
        fn changes(&self) -> Vec<Value> {
            std::fs::read_to_string(self.trace()).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }

        /// The levels that an output of a lane has had.
        fn levels(&self, lane: &str, output: &str) -> Vec<u64> {
            let changes = self.changes();
            let of_output = changes.iter().filter(|change| change["lane"] == lane && change["line"] == output);
            of_output.map(|change| change["level"].as_u64().unwrap()).collect()
        }

        /// Waits until the output has had these levels, in this order, since start.
        fn wait_for_levels(&self, lane: &str, output: &str, levels: &[u64]) {
            let end = Instant::now() + PATIENCE;
            while !self.levels(lane, output).starts_with(levels) {
                assert!(Instant::now() < end, "{:?}", self.changes());
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn event(lane: &mut Lane) -> Event {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Ok(event) = lane.events.try_recv() {
                return event;
            }
            assert!(Instant::now() < end, "no event came");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn rest(mut lane: Lane) -> Vec<Event> {
        std::iter::from_fn(|| lane.events.blocking_recv()).collect()
    }

    fn open(lane: &Lane, number: u64) {
        lane.handle.open(Ticket(number), Instant::now() + PATIENCE);
    }

    #[test]
    fn a_ticket_is_a_pulse_in_the_trace_after_level_0_of_every_output() {
        let gate = Gate::new();
        let (_turnstiles, [mut lane]) = gate.start(["in"]);
        let begin: Vec<_> = gate.changes().iter().map(|change| (change["line"].clone(), change["level"].clone())).collect();
        assert_eq!(begin, ["open", "light_pass", "light_deny", "buzzer"].map(|line| (line.into(), 0.into())));
        open(&lane, 1);
        assert!(matches!(event(&mut lane), Event::Opened { ticket: Ticket(1), .. }));
        gate.wait_for_levels("in", "open", &[0, 1, 0]);
        gate.wait_for_levels("in", "light_pass", &[0, 1, 0]);
    }

    #[test]
    fn when_an_opening_is_told_it_is_in_the_trace() {
        let gate = Gate::with_long_pulse();
        let (_turnstiles, [mut lane]) = gate.start(["in"]);
        open(&lane, 1);
        event(&mut lane);
        assert_eq!(gate.levels("in", "open"), [0, 1]);
    }

    #[test]
    fn each_refusal_is_one_line_with_its_reason() {
        let gate = Gate::new();
        let (turnstiles, [lane]) = gate.start(["in"]);
        let reasons = ["expired", "expired", "duplicate"];
        for reason in reasons {
            lane.handle.deny(reason, crate::turnstile::Beeps::ThreeShort);
        }
        gate.wait_for_levels("in", "light_deny", &[0, 1, 0, 1, 0, 1]);
        turnstiles.stop();
        let changes = gate.changes();
        let told: Vec<_> = changes.iter().filter_map(|change| change.get("reason")).collect();
        assert_eq!(told, reasons);
        assert!(changes.iter().filter(|change| change.get("reason").is_some()).all(|change| change["line"] == "light_deny"));
    }

    #[test]
    fn stopping_ends_the_pulse_and_dismisses_who_waits() {
        let gate = Gate::with_long_pulse();
        let (turnstiles, [mut lane]) = gate.start(["in"]);
        lane.handle.out_of_order(Some("out-of-order"));
        lane.handle.open(Ticket(1), Instant::now() + PATIENCE);
        assert!(matches!(event(&mut lane), Event::Opened { .. }));
        let far = Instant::now() + Duration::from_secs(100_000);
        (2..50).for_each(|number| lane.handle.open(Ticket(number), far));
        lane.handle.deny("expired", crate::turnstile::Beeps::ThreeShort);
        let handle = lane.handle.clone();
        turnstiles.stop();
        assert_eq!(rest(lane), (2..50).map(|number| Event::NotOpened { ticket: Ticket(number) }).collect::<Vec<_>>());
        for output in ["open", "light_pass", "light_deny", "buzzer"] {
            assert_eq!(gate.levels("in", output).last(), Some(&0), "{output}");
        }
        let changes = gate.changes().len();
        handle.open(Ticket(99), far);
        assert_eq!((handle.state(), gate.changes().len()), (TurnstileState::Failed, changes));
    }

    #[test]
    fn stopping_a_lane_at_rest_changes_nothing() {
        let gate = Gate::new();
        let (turnstiles, _) = gate.start(["in"]);
        let changes = gate.changes();
        drop(turnstiles);
        assert_eq!(gate.changes(), changes);
    }

    #[test]
    fn a_fire_alarm_on_one_lane_opens_all_that_share_the_gate() {
        let gate = Gate::new();
        let (_turnstiles, [mut first, mut second]) = gate.start(["in", "out"]);
        gate.set_input("out", "fire_alarm", 1);
        for lane in [&mut first, &mut second] {
            assert_eq!(event(lane), Event::FireAlarm { active: true });
            assert_eq!(lane.handle.state(), TurnstileState::AlarmOpen);
        }
        gate.wait_for_levels("in", "open", &[0, 1]);
        gate.wait_for_levels("out", "open", &[0, 1]);
        gate.set_input("out", "fire_alarm", 0);
        gate.wait_for_levels("in", "open", &[0, 1, 0]);
        gate.wait_for_levels("out", "open", &[0, 1, 0]);
        assert_eq!(event(&mut first), Event::FireAlarm { active: false });
        assert_eq!(first.handle.state(), TurnstileState::Ok);
    }

    #[test]
    fn the_exit_button_opens_and_the_passage_is_told() {
        let gate = Gate::new();
        let (_turnstiles, [mut lane]) = gate.start(["in"]);
        gate.set_input("in", "exit_button", 1);
        assert!(matches!(event(&mut lane), Event::ExitButton { .. }));
        gate.set_input("in", "passage", 1);
        assert!(matches!(event(&mut lane), Event::Passage { active: true, .. }));
        gate.wait_for_levels("in", "open", &[0, 1, 0]);
    }

    #[test]
    fn lanes_that_share_a_trace_keep_their_lines_whole() {
        let gate = Gate::new();
        let (turnstiles, lanes) = gate.start(["in", "out"]);
        for _ in 0..200 {
            for lane in &lanes {
                lane.handle.deny("expired", crate::turnstile::Beeps::ThreeShort);
            }
        }
        for lane in ["in", "out"] {
            gate.wait_for_levels(lane, "light_deny", &[0, 1].repeat(200));
        }
        turnstiles.stop();
        assert_eq!(gate.levels("in", "light_deny"), [&[0, 1].repeat(200)[..], &[0]].concat());
    }

    #[test]
    fn a_trace_without_a_reader_is_never_waited_for() {
        let gate = Gate::new();
        rustix::fs::mkfifoat(rustix::fs::CWD, gate.trace(), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        let (_turnstiles, [mut lane]) = gate.start(["in"]);
        open(&lane, 1);
        assert!(matches!(event(&mut lane), Event::Opened { .. }));
        assert_eq!(lane.handle.state(), TurnstileState::Ok);
    }

    #[test]
    fn an_opening_that_cannot_be_written_has_not_happened_and_the_lane_recovers() {
        let gate = Gate::new();
        std::os::unix::fs::symlink("/dev/full", gate.trace()).unwrap();
        let (_turnstiles, [mut lane]) = gate.start(["in"]);
        assert!(matches!(event(&mut lane), Event::Failed { .. }));
        assert_eq!(lane.handle.state(), TurnstileState::Failed);
        open(&lane, 1);
        assert_eq!(event(&mut lane), Event::NotOpened { ticket: Ticket(1) });
        std::fs::remove_file(gate.trace()).unwrap();
        assert_eq!(event(&mut lane), Event::Restored);
        open(&lane, 2);
        assert!(matches!(event(&mut lane), Event::Opened { ticket: Ticket(2), .. }));
        assert_eq!(lane.handle.state(), TurnstileState::Ok);
    }

    #[test]
    fn a_trace_that_cannot_be_made_says_what_to_do() {
        let gate = Gate::new();
        let mut setup = gate.setup("in");
        setup.settings.driver = config::Driver::Simulated { trace: Some(gate.dir.path().join("missing/trace")), inputs: None };
        let error = start(vec![setup]).map(|_| ()).unwrap_err();
        assert!(matches!(error, TurnstileError::Trace { .. }));
        assert!(error.to_string().starts_with("lane in: ") && error.to_string().contains("create its directory"), "{error}");
    }
}
