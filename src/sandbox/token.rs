//! Access tokens as the stable-token interface hands them out (`facts`: WeChat, section 2): one for every caller until shortly before
//! its end, then its successor, while both are good; `force_refresh` kills the old one. Pure.

use std::time::Duration;

use super::random::Random;

/// From here to the end of its life, a token and its successor are both good; a quarter of a shorter life.
const OVERLAP: Duration = Duration::from_secs(300);
/// `force_refresh`: so often a day, and with this pause between two.
const FORCED_PER_DAY: usize = 20;
const FORCED_PAUSE_MS: u64 = 30_000;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A request's token is no good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoGood {
    Missing,
    Expired,
    Unknown,
}

/// `force_refresh` was asked for too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TooOften {
    TooSoon,
    Today,
}

#[derive(Debug)]
struct Token {
    text: String,
    ends_ms: u64,
}

/// The tokens of one app.
#[derive(Debug)]
pub(super) struct Tokens {
    life_ms: u64,
    overlap_ms: u64,
    /// The one that is handed out last; before it the one that may still be good.
    issued: Vec<Token>,
    /// Told apart from unknown ones.
    expired: Option<String>,
    forced_ms: Vec<u64>,
}

impl Tokens {
    pub(super) fn new(life: Duration) -> Self {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let overlap_ms = ms(OVERLAP.min(life / 4));
        Self { life_ms: ms(life), overlap_ms, issued: Vec::new(), expired: None, forced_ms: Vec::new() }
    }

    /// The token to hand out, and the whole seconds for which it is still good.
    pub(super) fn issue(&mut self, now_ms: u64, random: &mut Random) -> (String, u64) {
        self.expire(now_ms);
        let is_fresh = |token: &Token| token.ends_ms > now_ms.saturating_add(self.overlap_ms);
        if !self.issued.last().is_some_and(is_fresh) {
            let text = format!("sandbox-{:016x}{:016x}", random.next(), random.next());
            self.issued.push(Token { text, ends_ms: now_ms.saturating_add(self.life_ms) });
        }
        self.issued.last().map_or_else(Default::default, |token| (token.text.clone(), (token.ends_ms - now_ms) / 1000))
    }

    /// `force_refresh`: what was handed out is no longer good.
    pub(super) fn force(&mut self, now_ms: u64) -> Result<(), TooOften> {
        self.forced_ms.retain(|at| now_ms.saturating_sub(*at) < DAY_MS);
        if self.forced_ms.last().is_some_and(|at| now_ms.saturating_sub(*at) < FORCED_PAUSE_MS) {
            return Err(TooOften::TooSoon);
        }
        if self.forced_ms.len() >= FORCED_PER_DAY {
            return Err(TooOften::Today);
        }
        self.forced_ms.push(now_ms);
        self.invalidate();
        Ok(())
    }

    /// What was handed out is no longer good.
    pub(super) fn invalidate(&mut self) {
        self.issued.clear();
    }

    pub(super) fn check(&mut self, token: Option<&str>, now_ms: u64) -> Result<(), NoGood> {
        self.expire(now_ms);
        let token = token.filter(|token| !token.is_empty()).ok_or(NoGood::Missing)?;
        if self.issued.iter().any(|issued| issued.text == token) {
            return Ok(());
        }
        Err(if self.expired.as_deref() == Some(token) { NoGood::Expired } else { NoGood::Unknown })
    }

    fn expire(&mut self, now_ms: u64) {
        if let Some(ended) = self.issued.iter().rev().find(|token| token.ends_ms <= now_ms) {
            self.expired = Some(ended.text.clone());
        }
        self.issued.retain(|token| token.ends_ms > now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(life_s: u64) -> (Tokens, Random) {
        (Tokens::new(Duration::from_secs(life_s)), Random::new(1))
    }

    #[test]
    fn everybody_gets_the_same_token_until_shortly_before_its_end_and_then_both_are_good() {
        let (mut tokens, mut random) = tokens(7200);
        let (first, expires_in) = tokens.issue(0, &mut random);
        assert_eq!((first.clone(), expires_in), tokens.issue(0, &mut random));
        assert_eq!(tokens.issue(6_899_000, &mut random), (first.clone(), 301));
        let (second, expires_in) = tokens.issue(6_900_000, &mut random);
        assert_eq!((second != first, expires_in), (true, 7200));
        assert_eq!((tokens.check(Some(&first), 7_199_999), tokens.check(Some(&second), 7_199_999)), (Ok(()), Ok(())));
        assert_eq!(tokens.check(Some(&first), 7_200_000), Err(NoGood::Expired));
    }

    #[test]
    fn a_token_that_expired_is_told_from_one_that_never_was_and_from_none() {
        let (mut tokens, mut random) = tokens(10);
        let (token, _) = tokens.issue(0, &mut random);
        assert_eq!(tokens.check(Some(&token), 10_000), Err(NoGood::Expired));
        assert_eq!(tokens.check(Some("other"), 0), Err(NoGood::Unknown));
        assert_eq!((tokens.check(None, 0), tokens.check(Some(""), 0)), (Err(NoGood::Missing), Err(NoGood::Missing)));
    }

    #[test]
    fn a_forced_refresh_kills_the_old_token_and_is_limited() {
        let (mut tokens, mut random) = tokens(7200);
        let (token, _) = tokens.issue(0, &mut random);
        assert_eq!(tokens.force(0), Ok(()));
        assert_eq!(tokens.check(Some(&token), 0), Err(NoGood::Unknown));
        assert_eq!(tokens.force(29_999), Err(TooOften::TooSoon));
        for count in 1..20 {
            assert_eq!(tokens.force(count * 30_000), Ok(()));
        }
        assert_eq!(tokens.force(20 * 30_000), Err(TooOften::Today));
        assert_eq!(tokens.force(DAY_MS), Ok(()));
    }
}
