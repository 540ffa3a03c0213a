//! What the sandbox does wrong on purpose: how slow it is, and which requests it spoils, when. Pure values and a schedule.
//!
//! Of several rules the first that applies spoils the request. This file knows neither HTTP nor deductions.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::random::Random;

/// Rules at once.
pub const RULES_MAX: usize = 32;
/// No answer is delayed for longer.
pub const LATENCY_MAX_MS: u32 = 60_000;

/// Everything that can be switched: the body of `POST /sandbox/faults`. Empty: no faults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Faults {
    /// How long answers take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Latency>,
    /// Which requests are spoilt; at most [`RULES_MAX`].
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// Half of all answers take at most `p50` milliseconds, 99 of 100 at most `p99` (log-normal, cut at [`LATENCY_MAX_MS`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// Milliseconds.
    pub p50: u32,
    /// Milliseconds, at least `p50`.
    pub p99: u32,
}

/// Which requests are spoilt, and how. What is absent does not restrict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// How.
    pub fault: Fault,
    /// With [`Fault::Errcode`]: the code, not 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errcode: Option<i64>,
    /// With [`Fault::Http`]: the status, 300 to 599.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// With `http`, `html` and `hang`: the deduction is charged all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub taken: bool,
    /// Which interface.
    #[serde(default)]
    pub on: On,
    /// Only the next so many requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// Only this part of them, 0 to 1, by chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// From so many milliseconds after the rule was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
    /// For so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
    /// Again after so many milliseconds, counted from the beginning of the window; needs `for_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
}

/// How a request is spoilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Taken, then the connection is cut: the gate cannot know.
    Drop,
    /// The connection is cut, nothing is taken: an outage.
    Refuse,
    /// Not taken: an errcode.
    Errcode,
    /// An HTTP status without JSON.
    Http,
    /// 200 with a page, as a captive portal answers.
    Html,
    /// No answer, until the gate goes away.
    Hang,
}

/// An interface of WeChat's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum On {
    /// Deductions.
    #[default]
    Deduct,
    /// Tokens.
    Token,
    /// Both.
    All,
}

impl Rule {
    /// Spoils every deduction from now on.
    #[must_use]
    pub fn always(fault: Fault) -> Self {
        Self {
            fault,
            errcode: None,
            status: None,
            taken: false,
            on: On::Deduct,
            next: None,
            share: None,
            after_ms: None,
            for_ms: None,
            every_ms: None,
        }
    }

    /// Whether a deduction that this spoils is charged.
    #[must_use]
    pub fn takes(&self) -> bool {
        self.fault == Fault::Drop || self.taken
    }

    fn check(&self) -> Result<(), &'static str> {
        let share_ok = self.share.is_none_or(|share| (0.0..=1.0).contains(&share));
        let is_window_ok = match (self.for_ms, self.every_ms) {
            (Some(long), Some(every)) => long <= every && every > 0,
            (None, Some(_)) => false,
            _ => true,
        };
        match self.fault {
            Fault::Errcode if self.errcode.unwrap_or(0) == 0 => Err("fault errcode needs errcode, a number other than 0"),
            Fault::Http if !self.status.is_some_and(|status| (300..600).contains(&status)) => {
                Err("fault http needs status, from 300 to 599")
            }
            fault if self.errcode.is_some() && fault != Fault::Errcode => Err("errcode goes with fault errcode only"),
            fault if self.status.is_some() && fault != Fault::Http => Err("status goes with fault http only"),
            Fault::Drop | Fault::Refuse | Fault::Errcode if self.taken => Err("taken goes with http, html and hang only"),
            _ if !share_ok => Err("share is from 0 to 1"),
            _ if !is_window_ok => Err("every_ms needs for_ms, and is at least as long"),
            _ => Ok(()),
        }
    }

    fn is_due(&self, since_ms: u64) -> bool {
        let Some(in_ms) = since_ms.checked_sub(self.after_ms.unwrap_or(0)) else { return false };
        let in_window_ms = self.every_ms.and_then(|every| in_ms.checked_rem(every)).unwrap_or(in_ms);
        self.for_ms.is_none_or(|long| in_window_ms < long)
    }

    fn concerns(&self, on: On) -> bool {
        self.on == On::All || self.on == on
    }
}

impl Faults {
    /// # Errors
    /// What makes no sense, in one sentence.
    pub fn check(&self) -> Result<(), String> {
        if self.rules.len() > RULES_MAX {
            return Err(format!("at most {RULES_MAX} rules"));
        }
        if let Some(Err(problem)) = self.latency_ms.map(Latency::check) {
            return Err(format!("latency_ms: {problem}"));
        }
        let mut rules = self.rules.iter().enumerate();
        rules.try_for_each(|(at, rule)| rule.check().map_err(|problem| format!("rules[{at}]: {problem}")))
    }
}

impl Latency {
    /// # Errors
    /// What makes no sense.
    pub(super) fn check(self) -> Result<(), String> {
        let is_sensible = self.p50 <= self.p99 && self.p99 <= LATENCY_MAX_MS;
        if is_sensible { Ok(()) } else { Err(format!("p50 <= p99 <= {LATENCY_MAX_MS}")) }
    }

    /// One answer's.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Between 0 and LATENCY_MAX_MS.
    pub(super) fn draw(self, random: &mut Random) -> Duration {
        // The 99th percentile of a normal distribution lies this many deviations from its middle.
        const Z99: f64 = 2.326;
        if self.p99 == 0 {
            return Duration::ZERO;
        }
        let (middle, high) = (f64::from(self.p50.max(1)), f64::from(self.p99.max(1)));
        let deviation = (high / middle).ln() / Z99;
        let normal = (-2.0 * random.unit().ln()).sqrt() * (std::f64::consts::TAU * random.unit()).cos();
        let ms = (middle * (deviation * normal).exp()).clamp(0.0, f64::from(LATENCY_MAX_MS));
        Duration::from_micros((ms * 1000.0) as u64)
    }
}

/// The faults that are set, and how far they have got.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    faults: Faults,
    set_at_ms: u64,
    used: Vec<u64>,
}

/// What is set, and how many requests each rule has spoilt: the answer of `GET /sandbox/faults`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FaultsInForce {
    /// As it was set.
    pub faults: Faults,
    /// In the order of the rules.
    pub used: Vec<u64>,
}

impl Schedule {
    /// Replaces what was set.
    pub(super) fn set(&mut self, faults: Faults, now_ms: u64) {
        *self = Self { used: vec![0; faults.rules.len()], faults, set_at_ms: now_ms };
    }

    pub(super) fn in_force(&self) -> FaultsInForce {
        FaultsInForce { faults: self.faults.clone(), used: self.used.clone() }
    }

    /// What spoils this request, if anything does.
    pub(super) fn spoil(&mut self, on: On, now_ms: u64, random: &mut Random) -> Option<Rule> {
        let since_ms = now_ms.saturating_sub(self.set_at_ms);
        let mut rules = self.faults.rules.iter().zip(&mut self.used);
        let (rule, used) = rules.find(|(rule, used)| {
            let is_left = rule.next.is_none_or(|next| **used < next);
            is_left && rule.concerns(on) && rule.is_due(since_ms) && rule.share.is_none_or(|share| random.unit() < share)
        })?;
        *used += 1;
        Some(rule.clone())
    }

    pub(super) fn latency(&self, random: &mut Random) -> Duration {
        self.faults.latency_ms.map_or(Duration::ZERO, |latency| latency.draw(random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(rules: Vec<Rule>) -> (Schedule, Random) {
        let mut schedule = Schedule::default();
        schedule.set(Faults { latency_ms: None, rules }, 1000);
        (schedule, Random::new(1))
    }

    fn spoilt_at(rule: Rule, times_ms: &[u64]) -> Vec<u64> {
        let (mut schedule, mut random) = schedule(vec![rule]);
        times_ms.iter().copied().filter(|&at| schedule.spoil(On::Deduct, at, &mut random).is_some()).collect()
    }

    #[test]
    fn an_outage_window_begins_ends_and_comes_back() {
        let once = Rule { after_ms: Some(100), for_ms: Some(50), ..Rule::always(Fault::Refuse) };
        assert_eq!(spoilt_at(once.clone(), &[1000, 1099, 1100, 1149, 1150, 1300]), [1100, 1149]);
        let again = Rule { every_ms: Some(200), ..once };
        assert_eq!(spoilt_at(again, &[1000, 1100, 1150, 1299, 1300, 1349, 1350, 1500]), [1100, 1300, 1349, 1500]);
    }

    #[test]
    fn a_rule_for_the_next_requests_gives_way_to_the_one_after_it() {
        let rules = vec![Rule { next: Some(1), ..Rule::always(Fault::Drop) }, Rule::always(Fault::Refuse)];
        let (mut schedule, mut random) = schedule(rules);
        let faults: Vec<_> = (0..3).filter_map(|_| schedule.spoil(On::Deduct, 1000, &mut random)).map(|rule| rule.fault).collect();
        assert_eq!(faults, [Fault::Drop, Fault::Refuse, Fault::Refuse]);
        assert_eq!(schedule.in_force().used, [1, 2]);
    }

    #[test]
    fn a_rule_spoils_only_its_interface_and_its_share() {
        let token = Rule { on: On::Token, ..Rule::always(Fault::Hang) };
        assert_eq!(spoilt_at(token, &[1000]), [0_u64; 0]);
        let half = Rule { share: Some(0.5), ..Rule::always(Fault::Hang) };
        let spoilt = spoilt_at(half, &[1000; 1000]).len();
        assert!((400..600).contains(&spoilt), "{spoilt} of 1000");
    }

    #[test]
    fn answers_take_as_long_as_the_percentiles_say() {
        let (latency, mut random) = (Latency { p50: 40, p99: 400 }, Random::new(1));
        let mut drawn: Vec<_> = (0..10_000).map(|_| latency.draw(&mut random).as_millis()).collect();
        drawn.sort_unstable();
        assert!((35..45).contains(&drawn[5000]), "p50 is {}", drawn[5000]);
        assert!((300..520).contains(&drawn[9900]), "p99 is {}", drawn[9900]);
    }

    #[test]
    fn the_quickest_answers_take_no_time_and_the_slowest_no_longer_than_the_limit() {
        let mut random = Random::new(1);
        assert_eq!(Latency { p50: 0, p99: 0 }.draw(&mut random), Duration::ZERO);
        let slowest = Latency { p50: LATENCY_MAX_MS, p99: LATENCY_MAX_MS };
        assert!((0..1000).all(|_| slowest.draw(&mut random) <= Duration::from_millis(LATENCY_MAX_MS.into())));
        let wide = Latency { p50: 0, p99: LATENCY_MAX_MS };
        assert!((0..1000).all(|_| wide.draw(&mut random) <= Duration::from_millis(LATENCY_MAX_MS.into())));
    }

    #[test]
    fn faults_that_make_no_sense_are_refused_with_their_place() {
        let of =
            |text: &str| serde_json::from_str::<Faults>(text).map_err(|error| error.to_string()).and_then(|faults| faults.check());
        assert_eq!(of("{}"), Ok(()));
        assert_eq!(of(r#"{"rules":[{"fault":"refuse","on":"all","after_ms":1,"for_ms":2,"every_ms":3}]}"#), Ok(()));
        for (text, problem) in [
            (r#"{"rules":[{"fault":"refuse"},{"fault":"errcode"}]}"#, "rules[1]: fault errcode needs errcode"),
            (r#"{"rules":[{"fault":"http","status":200}]}"#, "rules[0]: fault http needs status"),
            (r#"{"rules":[{"fault":"errcode","errcode":0}]}"#, "rules[0]: fault errcode needs errcode"),
            (r#"{"rules":[{"fault":"refuse","errcode":-1}]}"#, "rules[0]: errcode goes with"),
            (r#"{"rules":[{"fault":"html","status":500}]}"#, "rules[0]: status goes with"),
            (r#"{"rules":[{"fault":"http","status":600}]}"#, "rules[0]: fault http needs status"),
            (r#"{"rules":[{"fault":"drop","taken":true}]}"#, "rules[0]: taken goes"),
            (r#"{"rules":[{"fault":"drop","for_ms":6,"every_ms":5}]}"#, "rules[0]: every_ms"),
            (r#"{"rules":[{"fault":"drop","for_ms":0,"every_ms":0}]}"#, "rules[0]: every_ms"),
            (r#"{"latency_ms":{"p50":9,"p99":60001}}"#, "latency_ms"),
            (r#"{"rules":[{"fault":"drop","share":1.5}]}"#, "rules[0]: share"),
            (r#"{"rules":[{"fault":"drop","every_ms":5}]}"#, "rules[0]: every_ms"),
            (r#"{"latency_ms":{"p50":9,"p99":3}}"#, "latency_ms"),
            (r#"{"rule":[]}"#, "unknown field `rule`"),
            (r#"{"rules":[{"fault":"explode"}]}"#, "unknown variant `explode`"),
        ] {
            let said = of(text).unwrap_err();
            assert!(said.contains(problem), "{text}: {said}");
        }
        let rules = |count: usize| Faults { latency_ms: None, rules: vec![Rule::always(Fault::Drop); count] }.check();
        assert_eq!((rules(RULES_MAX), rules(RULES_MAX + 1)), (Ok(()), Err("at most 32 rules".to_owned())));
    }
}
