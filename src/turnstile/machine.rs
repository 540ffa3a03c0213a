//! What one lane's turnstile does: pulses, who waits for one, the fire alarm, a driver that fails. Pure: it is handed the time and
//! what happened, and says what to set and what to tell. It must not know drivers or threads.
//!
//! - `open` is active only for a ticket, the exit button or the fire alarm; a ticket or button holds it for `pulse`.
//! - Without the alarm, `pulse_gap` lies between two pulses, and a pulse serves exactly one ticket or button.
//! - With it, `open` is active already: tickets are opened at once, without a pulse; each still has `pulse` to pass, even when
//!   the alarm ends before that.
//! - Those who wait are served in the order in which they came. When each will be is known exactly, so a ticket that would be
//!   served after its deadline is late at once. A button waits without a deadline, but only once.
//! - After a failure the level of `open` counts as unknown: it is set again before anything else, with the next order or after
//!   [`RETRY_AFTER`]. Whoever waits when it fails is not opened.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    Event, Ticket, TurnstileState,
    signals::{Beeps, Set, Signals},
};

/// At most this many tickets wait on a lane; more are late at once.
pub(super) const WAITING_MAX: usize = 64;
/// How long after a failure `open` is set again without an order.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(250);

/// What happened.
#[derive(Debug)]
pub(super) enum Input {
    /// Somebody may pass, if the pulse starts at or before `deadline`.
    Open { ticket: Ticket, deadline: Instant },
    /// Somebody is refused.
    Deny { reason: &'static str, beeps: Beeps },
    /// The lane is out of order, or no longer.
    OutOfOrder { reason: Option<&'static str> },
    /// The level of the passage sensor.
    Passage { active: bool },
    /// The level of the exit button.
    ExitButton { active: bool },
    /// Whether any lane's fire alarm is on.
    FireAlarm { active: bool },
    /// The answer to [`Actions::open`], or the driver's words why not. Comes before any other input.
    OpenSet(Result<(), String>),
    /// Nothing but time.
    Time,
    /// No more openings from now on, and everything inactive.
    Stop,
    /// Somebody asks whether the thread still works.
    Ping,
}

/// A pulse that runs at a stop goes on for its passenger, but no longer than this.
pub(super) const LAST_PULSE_MAX: Duration = Duration::from_secs(2);

/// What to do about it, in this order.
#[derive(Debug, Default)]
pub(super) struct Actions {
    /// Set `open` to this level, and hand back the outcome as [`Input::OpenSet`] when the rest is done.
    pub(super) open: Option<bool>,
    /// Tell the lane.
    pub(super) events: Vec<Event>,
    /// Set lights and buzzer.
    pub(super) sets: Vec<Set>,
}

/// One lane's turnstile.
#[derive(Debug)]
pub(super) struct Machine {
    pulse: Duration,
    pulse_gap: Duration,
    relay: Relay,
    /// The level that `open` is being set to, until [`Input::OpenSet`].
    asked: Option<bool>,
    waiting: VecDeque<Waiting>,
    inputs: Inputs,
    failed: bool,
    stopped: bool,
    signals: Signals,
}

/// The levels of the inputs.
#[derive(Debug, Default)]
struct Inputs {
    passage: bool,
    exit_button: bool,
    /// Of any lane.
    fire_alarm: bool,
}

/// What is known of the `open` output.
#[derive(Debug, Clone, Copy)]
enum Relay {
    /// A ticket or button holds it until then, the fire alarm as long as it lasts.
    Active { held_until: Instant },
    /// The next pulse must not start before.
    Inactive { not_before: Instant },
    /// Setting it failed, or was not yet tried.
    Unknown { retry_at: Instant },
}

/// Who waits for a pulse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Ticket { ticket: Ticket, deadline: Instant },
    ExitButton,
}

impl Machine {
    /// The first [`Input::Time`] sets `open` inactive.
    pub(super) fn new(pulse: Duration, pulse_gap: Duration, now: Instant) -> Self {
        Self {
            pulse,
            pulse_gap,
            relay: Relay::Unknown { retry_at: now },
            asked: None,
            waiting: VecDeque::new(),
            inputs: Inputs::default(),
            failed: false,
            stopped: false,
            signals: Signals::default(),
        }
    }

    /// Takes note of what happened at `now`. Time that has passed counts first.
    pub(super) fn handle(&mut self, now: Instant, input: Input) -> Actions {
        let mut actions = Actions::default();
        self.signals.elapse(now, &mut actions.sets);
        if self.stopped {
            self.take_when_stopped(now, input, &mut actions);
        } else {
            self.take(now, input, &mut actions);
        }
        self.advance(now, &mut actions);
        actions
    }

    /// When [`Input::Time`] is due, if nothing else happens before.
    pub(super) fn next_wakeup(&self) -> Option<Instant> {
        let relay = match self.relay {
            Relay::Active { held_until } => (!self.inputs.fire_alarm).then_some(held_until),
            Relay::Inactive { not_before } => (!self.waiting.is_empty()).then_some(not_before),
            Relay::Unknown { retry_at } => Some(retry_at),
        };
        relay.into_iter().chain(self.signals.next_wakeup()).min()
    }

    /// How the turnstile is.
    pub(super) fn state(&self) -> TurnstileState {
        match (self.failed, self.inputs.fire_alarm) {
            (true, _) => TurnstileState::Failed,
            (false, true) => TurnstileState::AlarmOpen,
            (false, false) => TurnstileState::Ok,
        }
    }

    fn take(&mut self, now: Instant, input: Input, actions: &mut Actions) {
        match input {
            Input::Open { ticket, deadline } => self.enqueue(now, ticket, deadline, actions),
            Input::Deny { reason, beeps } => self.signals.refused(now, reason, beeps, &mut actions.sets),
            Input::OutOfOrder { reason } => self.signals.out_of_order(reason, &mut actions.sets),
            Input::Passage { active } => self.sense_passage(now, active, actions),
            Input::ExitButton { active } => self.press(now, active),
            Input::FireAlarm { active } => self.alarm(now, active, actions),
            Input::OpenSet(outcome) => self.open_set(now, outcome, actions),
            Input::Ping => actions.events.push(Event::Alive),
            Input::Time => {}
            Input::Stop => self.stop(now, actions),
        }
    }

    fn take_when_stopped(&mut self, now: Instant, input: Input, actions: &mut Actions) {
        match input {
            Input::Open { ticket, .. } => actions.events.push(Event::NotOpened { ticket }),
            Input::OpenSet(outcome) => self.open_set(now, outcome, actions),
            _ => {}
        }
    }

    fn enqueue(&mut self, now: Instant, ticket: Ticket, deadline: Instant, actions: &mut Actions) {
        let tickets = self.waiting.iter().filter(|waiting| **waiting != Waiting::ExitButton).count();
        if tickets >= WAITING_MAX {
            actions.events.push(Event::Late { ticket });
            return;
        }
        self.waiting.push_back(Waiting::Ticket { ticket, deadline });
        self.retry_now(now);
    }

    fn sense_passage(&mut self, now: Instant, active: bool, actions: &mut Actions) {
        if self.inputs.passage != active {
            self.inputs.passage = active;
            actions.events.push(Event::Passage { active, at: now });
        }
    }

    fn press(&mut self, now: Instant, active: bool) {
        let pressed = active && !self.inputs.exit_button;
        self.inputs.exit_button = active;
        if pressed && !self.waiting.contains(&Waiting::ExitButton) {
            self.waiting.push_back(Waiting::ExitButton);
            self.retry_now(now);
        }
    }

    fn alarm(&mut self, now: Instant, active: bool, actions: &mut Actions) {
        if self.inputs.fire_alarm != active {
            self.inputs.fire_alarm = active;
            actions.events.push(Event::FireAlarm { active });
            self.retry_now(now);
        }
    }

    fn stop(&mut self, now: Instant, actions: &mut Actions) {
        self.stopped = true;
        self.inputs.fire_alarm = false;
        self.dismiss_waiting(actions);
        self.signals.stop(&mut actions.sets);
        if let Relay::Active { held_until } = &mut self.relay {
            *held_until = (*held_until).min(now + LAST_PULSE_MAX);
        }
        self.retry_now(now);
    }

    /// Whether `open` is not active, as far as is known: a stop can be completed.
    pub(super) fn is_at_rest(&self) -> bool {
        !matches!(self.relay, Relay::Active { .. })
    }

    fn retry_now(&mut self, now: Instant) {
        if let Relay::Unknown { retry_at } = &mut self.relay {
            *retry_at = now;
        }
    }

    /// Those who wait are not opened.
    fn dismiss_waiting(&mut self, actions: &mut Actions) {
        actions.events.extend(self.waiting.drain(..).filter_map(|waiting| match waiting {
            Waiting::Ticket { ticket, .. } => Some(Event::NotOpened { ticket }),
            Waiting::ExitButton => None,
        }));
    }

    fn open_set(&mut self, now: Instant, outcome: Result<(), String>, actions: &mut Actions) {
        let Some(active) = self.asked.take() else { return };
        match outcome {
            Ok(()) => self.open_is(now, active, actions),
            Err(reason) => self.open_failed(now, active, reason, actions),
        }
    }

    fn open_is(&mut self, now: Instant, active: bool, actions: &mut Actions) {
        if std::mem::take(&mut self.failed) {
            actions.events.push(Event::Restored);
        }
        if active {
            self.relay = Relay::Active { held_until: now };
            self.signals.opened(&mut actions.sets);
            self.serve_next(now, actions);
        } else {
            self.relay = Relay::Inactive { not_before: now + self.pulse_gap };
            self.signals.closed(&mut actions.sets);
        }
    }

    fn open_failed(&mut self, now: Instant, active: bool, reason: String, actions: &mut Actions) {
        // The line may have moved all the same: an opening that failed is taken back at once, the alarm's is not.
        let take_back = active && !self.inputs.fire_alarm;
        self.relay = Relay::Unknown { retry_at: if take_back { now } else { now + RETRY_AFTER } };
        self.dismiss_waiting(actions);
        if !std::mem::replace(&mut self.failed, true) {
            actions.events.push(Event::Failed { reason });
        }
    }

    /// `open` is active for the first of those who wait.
    fn serve_next(&mut self, now: Instant, actions: &mut Actions) {
        let Some(waiting) = self.waiting.pop_front() else { return };
        self.relay = Relay::Active { held_until: now + self.pulse };
        actions.events.push(match waiting {
            Waiting::Ticket { ticket, .. } => Event::Opened { ticket, at: now },
            Waiting::ExitButton => Event::ExitButton { at: now },
        });
        self.signals.admitted(now, &mut actions.sets);
    }

    fn advance(&mut self, now: Instant, actions: &mut Actions) {
        self.drop_late(now, actions);
        while self.inputs.fire_alarm && matches!(self.relay, Relay::Active { .. }) && !self.waiting.is_empty() {
            self.serve_next(now, actions);
        }
        self.asked = self.level_to_set(now);
        actions.open = self.asked;
    }

    /// Tells who cannot start in time: those before them, the running pulse and the gaps are what they wait for.
    fn drop_late(&mut self, now: Instant, actions: &mut Actions) {
        let mut start = self.earliest_start(now);
        let step = if self.inputs.fire_alarm { Duration::ZERO } else { self.pulse + self.pulse_gap };
        self.waiting.retain(|waiting| {
            match *waiting {
                Waiting::Ticket { ticket, deadline } if start > deadline => {
                    actions.events.push(Event::Late { ticket });
                    return false;
                }
                _ => start += step,
            }
            true
        });
    }

    fn earliest_start(&self, now: Instant) -> Instant {
        match self.relay {
            _ if self.inputs.fire_alarm => now,
            Relay::Active { held_until } => held_until.max(now) + self.pulse_gap,
            Relay::Inactive { not_before } => not_before.max(now),
            Relay::Unknown { retry_at } => retry_at.max(now) + self.pulse_gap,
        }
    }

    fn level_to_set(&self, now: Instant) -> Option<bool> {
        match self.relay {
            Relay::Active { held_until } => (!self.inputs.fire_alarm && held_until <= now).then_some(false),
            Relay::Inactive { not_before } => {
                (self.inputs.fire_alarm || (!self.waiting.is_empty() && not_before <= now)).then_some(true)
            }
            Relay::Unknown { retry_at } => (retry_at <= now).then_some(self.inputs.fire_alarm),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::turnstile::driver::Output;

    const PULSE_MS: u64 = 500;
    const GAP_MS: u64 = 100;

    /// A lane with a relay that obeys unless it is broken, and a clock that only this moves. Times are milliseconds since start.
    struct Bench {
        machine: Machine,
        start: Instant,
        now_ms: u64,
        /// How late the thread wakes up.
        lag_ms: u64,
        broken: bool,
        open: bool,
        /// Changes of `open`.
        edges: Vec<(u64, bool)>,
        told: Vec<(u64, Event)>,
        lit: [bool; Output::ALL.len()],
        reasons: Vec<&'static str>,
    }

    impl Bench {
        fn new() -> Self {
            let start = Instant::now();
            let machine = Machine::new(Duration::from_millis(PULSE_MS), Duration::from_millis(GAP_MS), start);
            let mut bench = Self {
                machine,
                start,
                now_ms: 0,
                lag_ms: 0,
                broken: false,
                open: false,
                edges: Vec::new(),
                told: Vec::new(),
                lit: [false; Output::ALL.len()],
                reasons: Vec::new(),
            };
            bench.give(Input::Time);
            bench.wait(GAP_MS);
            bench
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn give(&mut self, input: Input) {
            let mut next = Some(input);
            while let Some(input) = next.take() {
                let actions = self.machine.handle(self.at(self.now_ms), input);
                next = actions.open.map(|active| Input::OpenSet(self.set_open(active)));
                self.told.extend(actions.events.into_iter().map(|event| (self.now_ms, event)));
                for set in actions.sets {
                    assert_ne!((set.output, self.lit[set.output as usize]), (Output::Open, set.active), "a change that is none");
                    self.lit[set.output as usize] = set.active;
                    self.reasons.extend(set.reason);
                }
            }
        }

        fn set_open(&mut self, active: bool) -> Result<(), String> {
            if self.broken {
                return Err("broken".to_owned());
            }
            if self.open != active {
                self.open = active;
                self.edges.push((self.now_ms, active));
            }
            Ok(())
        }

        fn ticket(&mut self, number: u64, within_ms: u64) {
            let deadline = self.at(self.now_ms + within_ms);
            self.give(Input::Open { ticket: Ticket(number), deadline });
        }

        fn press(&mut self) {
            self.give(Input::ExitButton { active: true });
            self.give(Input::ExitButton { active: false });
        }

        fn alarm(&mut self, active: bool) {
            self.give(Input::FireAlarm { active });
        }

        /// Lets time pass, and wakes the machine up when it wants to be.
        fn wait(&mut self, ms: u64) {
            let end_ms = self.now_ms + ms;
            while let Some(wakeup) = self.machine.next_wakeup() {
                let wakeup_ms = u64::try_from(wakeup.saturating_duration_since(self.start).as_millis()).unwrap();
                let woken_ms = (wakeup_ms + self.lag_ms).max(self.now_ms);
                if woken_ms > end_ms {
                    break;
                }
                self.now_ms = woken_ms;
                self.give(Input::Time);
            }
            self.now_ms = end_ms;
        }

        /// What was told since the last look.
        fn events(&mut self) -> Vec<Event> {
            self.told.drain(..).map(|(_, event)| event).collect()
        }

        fn opened(&self, number: u64, at_ms: u64) -> Event {
            Event::Opened { ticket: Ticket(number), at: self.at(at_ms) }
        }
    }

    fn late(number: u64) -> Event {
        Event::Late { ticket: Ticket(number) }
    }

    fn not_opened(number: u64) -> Event {
        Event::NotOpened { ticket: Ticket(number) }
    }

    fn failed() -> Event {
        Event::Failed { reason: "broken".to_owned() }
    }

    #[test]
    fn the_first_thing_that_is_done_is_to_close() {
        let mut machine = Machine::new(Duration::from_millis(PULSE_MS), Duration::from_millis(GAP_MS), Instant::now());
        assert_eq!(machine.handle(Instant::now(), Input::Time).open, Some(false));
    }

    #[test]
    fn a_ticket_opens_at_once_for_exactly_one_pulse() {
        let mut bench = Bench::new();
        bench.ticket(1, 0);
        bench.wait(5000);
        assert_eq!(bench.edges, [(100, true), (600, false)]);
        assert_eq!(bench.events(), [bench.opened(1, 100)]);
        assert_eq!(bench.machine.next_wakeup(), None);
    }

    #[test]
    fn the_pass_light_is_on_for_the_pulse_and_a_beep_sounds() {
        let mut bench = Bench::new();
        bench.ticket(1, 0);
        assert!(bench.lit[Output::LightPass as usize] && bench.lit[Output::Buzzer as usize]);
        bench.wait(PULSE_MS);
        assert_eq!(bench.lit, [false; 4]);
    }

    #[test]
    fn each_ticket_has_a_pulse_of_its_own_after_the_gap() {
        let mut bench = Bench::new();
        bench.ticket(1, 3000);
        bench.wait(50);
        bench.ticket(2, 3000);
        bench.ticket(3, 3000);
        bench.wait(5000);
        assert_eq!(bench.edges, [(100, true), (600, false), (700, true), (1200, false), (1300, true), (1800, false)]);
        assert_eq!(bench.events(), [bench.opened(1, 100), bench.opened(2, 700), bench.opened(3, 1300)]);
    }

    #[test]
    fn a_ticket_that_comes_in_the_gap_waits_for_its_end() {
        let mut bench = Bench::new();
        bench.ticket(1, 0);
        bench.wait(PULSE_MS + 1);
        bench.ticket(2, GAP_MS);
        bench.wait(5000);
        assert_eq!(bench.events(), [bench.opened(1, 100), bench.opened(2, 700)]);
    }

    #[test]
    fn a_ticket_that_cannot_start_in_time_is_late_at_once() {
        let mut bench = Bench::new();
        bench.ticket(1, 0);
        bench.ticket(2, PULSE_MS + GAP_MS);
        bench.ticket(3, PULSE_MS + GAP_MS);
        assert_eq!(bench.events(), [bench.opened(1, 100), late(3)]);
        bench.wait(5000);
        assert_eq!(bench.events(), [bench.opened(2, 700)]);
    }

    #[test]
    fn a_late_ticket_takes_no_turn() {
        let mut bench = Bench::new();
        bench.ticket(1, 0);
        bench.ticket(2, 10);
        bench.ticket(3, PULSE_MS + GAP_MS);
        bench.wait(5000);
        assert_eq!(bench.events(), [bench.opened(1, 100), late(2), bench.opened(3, 700)]);
    }

    #[test]
    fn a_thread_that_sleeps_too_long_opens_for_nobody_after_the_deadline() {
        let mut bench = Bench::new();
        bench.ticket(1, 0);
        bench.ticket(2, PULSE_MS + GAP_MS);
        bench.lag_ms = 1;
        bench.wait(5000);
        assert_eq!(bench.events(), [bench.opened(1, 100), late(2)]);
    }

    #[test]
    fn more_tickets_than_may_wait_are_late_at_once() {
        let mut bench = Bench::new();
        let many = u64::try_from(WAITING_MAX).unwrap() + 2;
        (1..=many).for_each(|number| bench.ticket(number, 1_000_000));
        assert_eq!(bench.events(), [bench.opened(1, 100), late(many)]);
    }

    #[test]
    fn refusals_never_close_or_shorten_a_pulse() {
        let mut bench = Bench::new();
        bench.ticket(1, 0);
        for _ in 0..4 {
            bench.wait(100);
            bench.give(Input::Deny { reason: "expired", beeps: Beeps::ThreeShort });
        }
        bench.wait(5000);
        assert_eq!(bench.edges, [(100, true), (600, false)]);
        assert_eq!(bench.reasons, ["expired"; 4]);
    }

    #[test]
    fn the_exit_button_opens_once_a_press_even_out_of_order() {
        let mut bench = Bench::new();
        bench.give(Input::OutOfOrder { reason: Some("out-of-order") });
        bench.give(Input::ExitButton { active: true });
        bench.wait(2000);
        bench.give(Input::ExitButton { active: true });
        bench.wait(2000);
        assert_eq!(bench.edges, [(100, true), (600, false)]);
        assert_eq!(bench.events(), [Event::ExitButton { at: bench.at(100) }]);
    }

    #[test]
    fn a_button_that_is_hammered_waits_once_and_in_turn() {
        let mut bench = Bench::new();
        bench.ticket(1, 0);
        (0..10).for_each(|_| bench.press());
        bench.ticket(2, 3000);
        bench.wait(5000);
        assert_eq!(bench.events(), [bench.opened(1, 100), Event::ExitButton { at: bench.at(700) }, bench.opened(2, 1300)]);
    }

    #[test]
    fn the_fire_alarm_holds_open_as_long_as_it_lasts() {
        let mut bench = Bench::new();
        bench.alarm(true);
        assert_eq!(bench.machine.state(), TurnstileState::AlarmOpen);
        bench.wait(60_000);
        bench.alarm(false);
        bench.wait(5000);
        assert_eq!(bench.edges, [(100, true), (60_100, false)]);
        assert_eq!(bench.events(), [Event::FireAlarm { active: true }, Event::FireAlarm { active: false }]);
        assert_eq!(bench.machine.state(), TurnstileState::Ok);
    }

    #[test]
    fn the_fire_alarm_does_not_wait_for_the_gap() {
        let mut bench = Bench::new();
        bench.ticket(1, 0);
        bench.wait(PULSE_MS + 1);
        bench.alarm(true);
        assert_eq!(bench.edges.last(), Some(&(601, true)));
    }

    #[test]
    fn tickets_during_the_fire_alarm_are_opened_at_once_and_leave_no_pulse_behind() {
        let mut bench = Bench::new();
        bench.ticket(1, 0);
        bench.ticket(2, 3000);
        bench.wait(100);
        bench.alarm(true);
        bench.ticket(3, 0);
        bench.wait(2000);
        bench.alarm(false);
        bench.wait(5000);
        assert_eq!(bench.edges, [(100, true), (2200, false)]);
        let alarm = |active| Event::FireAlarm { active };
        assert_eq!(bench.events(), [bench.opened(1, 100), alarm(true), bench.opened(2, 200), bench.opened(3, 200), alarm(false)]);
    }

    #[test]
    fn a_fire_alarm_that_flickers_takes_nobodys_time_to_pass() {
        let mut bench = Bench::new();
        bench.ticket(1, 0);
        bench.wait(200);
        bench.alarm(true);
        bench.alarm(false);
        bench.wait(5000);
        assert_eq!(bench.edges, [(100, true), (600, false)]);
    }

    #[test]
    fn the_passage_sensor_is_passed_on_when_it_changes() {
        let mut bench = Bench::new();
        for active in [false, true, true, false] {
            bench.wait(10);
            bench.give(Input::Passage { active });
        }
        let passage = |active, at_ms| Event::Passage { active, at: bench.at(at_ms) };
        let expected = [passage(true, 120), passage(false, 140)];
        assert_eq!(bench.events(), expected);
    }

    #[test]
    fn an_opening_that_fails_is_told_taken_back_and_tried_again_with_the_next_ticket() {
        let mut bench = Bench::new();
        bench.broken = true;
        bench.ticket(1, 3000);
        assert_eq!(bench.events(), [not_opened(1), failed()]);
        assert_eq!(bench.machine.state(), TurnstileState::Failed);
        bench.ticket(2, 3000);
        assert_eq!(bench.events(), [not_opened(2)]);
        bench.broken = false;
        bench.ticket(3, 3000);
        assert_eq!(bench.events(), [Event::Restored]);
        bench.wait(GAP_MS);
        assert_eq!(bench.events(), [bench.opened(3, 200)]);
        assert_eq!(bench.machine.state(), TurnstileState::Ok);
    }

    #[test]
    fn an_opening_that_fails_is_followed_by_closing_because_the_line_may_have_moved() {
        let mut bench = Bench::new();
        let deadline = bench.at(3000);
        let now = bench.at(bench.now_ms);
        assert_eq!(bench.machine.handle(now, Input::Open { ticket: Ticket(1), deadline }).open, Some(true));
        assert_eq!(bench.machine.handle(now, Input::OpenSet(Err("broken".to_owned()))).open, Some(false));
    }

    #[test]
    fn closing_that_fails_is_tried_until_it_succeeds() {
        let mut bench = Bench::new();
        bench.ticket(1, 0);
        bench.ticket(2, 3000);
        bench.broken = true;
        bench.wait(10_000);
        assert_eq!(bench.events(), [bench.opened(1, 100), not_opened(2), failed()]);
        bench.broken = false;
        bench.wait(1000);
        assert_eq!(bench.events(), [Event::Restored]);
        assert_eq!(bench.edges.len(), 2);
        assert!(!bench.lit[Output::LightPass as usize]);
    }

    #[test]
    fn the_fire_alarm_tries_to_open_until_it_succeeds() {
        let mut bench = Bench::new();
        bench.broken = true;
        bench.alarm(true);
        bench.wait(10_000);
        bench.broken = false;
        bench.wait(u64::try_from(RETRY_AFTER.as_millis()).unwrap());
        assert!(bench.open);
        assert_eq!(bench.machine.state(), TurnstileState::AlarmOpen);
    }

    #[test]
    fn stopping_lets_the_running_pulse_end_and_opens_for_nobody_any_more() {
        let mut bench = Bench::new();
        bench.ticket(1, 0);
        bench.ticket(2, 3000);
        bench.press();
        bench.give(Input::Deny { reason: "expired", beeps: Beeps::ThreeShort });
        bench.give(Input::Stop);
        bench.ticket(3, 3000);
        bench.press();
        bench.alarm(true);
        assert_eq!(bench.events(), [bench.opened(1, 100), not_opened(2), not_opened(3)]);
        assert_eq!(bench.edges, [(100, true)]);
        bench.wait(PULSE_MS);
        assert_eq!(bench.edges, [(100, true), (100 + PULSE_MS, false)]);
        assert_eq!(bench.lit, [false; 4]);
    }

    #[test]
    fn a_ping_is_answered_while_the_thread_works_and_changes_nothing() {
        let mut bench = Bench::new();
        bench.give(Input::Ping);
        bench.give(Input::Stop);
        bench.give(Input::Ping);
        assert_eq!(bench.events(), [Event::Alive]);
        assert_eq!(bench.edges, []);
    }

    #[test]
    fn stopping_waits_for_a_long_pulse_only_so_long() {
        let start = Instant::now();
        let mut machine = Machine::new(Duration::from_secs(60), Duration::ZERO, start);
        for input in
            [Input::Time, Input::OpenSet(Ok(())), Input::Open { ticket: Ticket(1), deadline: start }, Input::OpenSet(Ok(()))]
        {
            machine.handle(start, input);
        }
        assert!(!machine.is_at_rest());
        machine.handle(start, Input::Stop);
        assert_eq!(machine.next_wakeup(), Some(start + LAST_PULSE_MAX));
        machine.handle(start + LAST_PULSE_MAX, Input::Time);
        machine.handle(start + LAST_PULSE_MAX, Input::OpenSet(Ok(())));
        assert!(machine.is_at_rest());
    }

    #[test]
    fn stopping_ends_the_fire_alarms_hold() {
        let mut bench = Bench::new();
        bench.alarm(true);
        bench.give(Input::Stop);
        assert!(!bench.open);
    }

    #[derive(Debug, Clone, Copy)]
    enum Op {
        Ticket { within_ms: u64 },
        Deny,
        OutOfOrder(bool),
        Button(bool),
        Passage(bool),
        Alarm(bool),
        Broken(bool),
        Wait { ms: u64 },
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (0..3000_u64).prop_map(|within_ms| Op::Ticket { within_ms }),
            6 => (0..800_u64).prop_map(|ms| Op::Wait { ms }),
            2 => Just(Op::Deny),
            1 => any::<bool>().prop_map(Op::OutOfOrder),
            2 => any::<bool>().prop_map(Op::Button),
            1 => any::<bool>().prop_map(Op::Passage),
            1 => any::<bool>().prop_map(Op::Alarm),
        ]
    }

    fn op_with_failures() -> impl Strategy<Value = Op> {
        prop_oneof![6 => op(), 1 => any::<bool>().prop_map(Op::Broken)]
    }

    /// What was asked for while the operations ran.
    struct Asked {
        /// Deadline of each ticket, by number.
        deadlines_ms: Vec<u64>,
        /// From, to.
        alarms_ms: Vec<(u64, u64)>,
    }

    /// Does what is asked, then mends everything and lets it come to rest.
    fn run(ops: Vec<Op>, lag_ms: u64) -> (Bench, Asked) {
        let mut bench = Bench::new();
        bench.lag_ms = lag_ms;
        let mut asked = Asked { deadlines_ms: Vec::new(), alarms_ms: Vec::new() };
        for op in ops {
            apply(op, &mut bench, &mut asked);
        }
        for op in [Op::Broken(false), Op::Alarm(false), Op::OutOfOrder(false), Op::Wait { ms: 100_000 }] {
            apply(op, &mut bench, &mut asked);
        }
        (bench, asked)
    }

    fn apply(op: Op, bench: &mut Bench, asked: &mut Asked) {
        if matches!(op, Op::Alarm(_)) {
            // No alarm shorter than the clock can tell.
            bench.wait(1);
        }
        let now_ms = bench.now_ms;
        match op {
            Op::Ticket { within_ms } => {
                bench.ticket(asked.deadlines_ms.len().try_into().unwrap(), within_ms);
                asked.deadlines_ms.push(now_ms + within_ms);
            }
            Op::Deny => bench.give(Input::Deny { reason: "expired", beeps: Beeps::ThreeShort }),
            Op::OutOfOrder(active) => bench.give(Input::OutOfOrder { reason: active.then_some("out-of-order") }),
            Op::Button(active) => bench.give(Input::ExitButton { active }),
            Op::Passage(active) => bench.give(Input::Passage { active }),
            Op::Alarm(active) => {
                match asked.alarms_ms.last_mut().filter(|(_, to_ms)| *to_ms == u64::MAX) {
                    Some((_, to_ms)) if !active => *to_ms = now_ms,
                    None if active => asked.alarms_ms.push((now_ms, u64::MAX)),
                    _ => {}
                }
                bench.alarm(active);
            }
            Op::Broken(broken) => bench.broken = broken,
            Op::Wait { ms } => bench.wait(ms),
        }
    }

    fn assert_each_ticket_has_one_answer(bench: &Bench, asked: &Asked) {
        let mut answers = vec![0; asked.deadlines_ms.len()];
        for (_, event) in &bench.told {
            if let Event::Opened { ticket, .. } | Event::Late { ticket } | Event::NotOpened { ticket } = event {
                answers[usize::try_from(ticket.0).unwrap()] += 1;
            }
        }
        assert!(answers.iter().all(|count| *count == 1), "{answers:?}");
    }

    fn assert_answers_are_in_time(bench: &Bench, asked: &Asked) {
        let deadline_ms = |ticket: &Ticket| asked.deadlines_ms[usize::try_from(ticket.0).unwrap()];
        for (at_ms, event) in &bench.told {
            match event {
                Event::Opened { ticket, at } => {
                    assert_eq!(*at, bench.at(*at_ms));
                    assert!(*at_ms <= deadline_ms(ticket), "{event:?}");
                }
                Event::Late { ticket } => assert!(*at_ms <= deadline_ms(ticket) + bench.lag_ms, "{event:?} at {at_ms}"),
                _ => {}
            }
        }
    }

    /// When each person was let through.
    fn served_ms(bench: &Bench) -> Vec<u64> {
        let is_served = |event: &Event| matches!(event, Event::Opened { .. } | Event::ExitButton { .. });
        bench.told.iter().filter(|(_, event)| is_served(event)).map(|(at_ms, _)| *at_ms).collect()
    }

    /// `open` as intervals: from, to.
    fn intervals_ms(bench: &Bench) -> Vec<(u64, u64)> {
        assert_eq!(bench.edges.len() % 2, 0, "left open");
        bench.edges.chunks(2).map(|edges| (edges[0].0, edges[1].0)).collect()
    }

    fn assert_open_is_active_for_a_cause_and_as_long_as_it_must(bench: &Bench, asked: &Asked) {
        let served_ms = served_ms(bench);
        for (from_ms, to_ms) in intervals_ms(bench) {
            let served = served_ms.iter().filter(|at_ms| (from_ms..to_ms).contains(*at_ms));
            let alarms = asked.alarms_ms.iter().filter(|alarm| alarm.0 < to_ms && alarm.1 > from_ms);
            let causes_ms = served.clone().map(|at_ms| at_ms + PULSE_MS).chain(alarms.clone().map(|alarm| alarm.1));
            let end_ms = causes_ms.max().expect("open without a cause");
            assert!((end_ms..=end_ms + bench.lag_ms).contains(&to_ms), "open {from_ms}..{to_ms}, should end at {end_ms}");
            let begun = served.clone().any(|at_ms| *at_ms == from_ms) || alarms.clone().any(|alarm| alarm.0 <= from_ms);
            assert!(begun, "opened at {from_ms} without a cause");
            assert!(alarms.count() > 0 || served.count() == 1, "one pulse for several");
        }
        assert!(served_ms.iter().all(|at_ms| intervals_ms(bench).iter().any(|(from, to)| (from..to).contains(&at_ms))));
    }

    fn assert_gaps_are_kept(bench: &Bench, asked: &Asked) {
        for pair in intervals_ms(bench).windows(2) {
            let (closed_ms, open_ms) = (pair[0].1, pair[1].0);
            let alarm = asked.alarms_ms.iter().any(|(from_ms, to_ms)| (*from_ms..=*to_ms).contains(&open_ms));
            assert!(alarm || open_ms - closed_ms >= GAP_MS, "closed at {closed_ms}, open at {open_ms}");
        }
    }

    fn assert_at_rest(bench: &Bench) {
        assert!(!bench.open);
        assert_eq!(bench.lit, [false; 4]);
        assert_eq!(bench.machine.next_wakeup(), None);
        assert_eq!(bench.machine.state(), TurnstileState::Ok);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_happens_openings_are_caused_timed_and_answered(
            ops in prop::collection::vec(op(), 0..60),
            lag_ms in prop_oneof![Just(0), 0..30_u64],
        ) {
            let (bench, asked) = run(ops, lag_ms);
            assert_each_ticket_has_one_answer(&bench, &asked);
            assert_answers_are_in_time(&bench, &asked);
            assert_open_is_active_for_a_cause_and_as_long_as_it_must(&bench, &asked);
            assert_gaps_are_kept(&bench, &asked);
            assert_at_rest(&bench);
        }

        #[test]
        fn whatever_fails_each_ticket_is_answered_and_the_lane_recovers(
            ops in prop::collection::vec(op_with_failures(), 0..60),
        ) {
            let (mut bench, asked) = run(ops, 0);
            assert_each_ticket_has_one_answer(&bench, &asked);
            assert_answers_are_in_time(&bench, &asked);
            let turns = bench.told.iter().filter(|(_, event)| matches!(event, Event::Failed { .. } | Event::Restored));
            for (index, (_, event)) in turns.enumerate() {
                prop_assert_eq!(*event == Event::Restored, index % 2 == 1, "failures are told once");
            }
            assert_at_rest(&bench);
            bench.told.clear();
            bench.ticket(1_000_000, 0);
            prop_assert_eq!(bench.events(), [bench.opened(1_000_000, bench.now_ms)]);
        }
    }
}
