//! The seam to WeChat: a body out, a [`Verdict`] back.
//!
//! Here, and only here, what the client tells ([`Answer`]) becomes what the uploader acts on.

use std::{future::Future, time::Duration};

use crate::{
    clock::Stamp,
    wechat::{Answer, Class, NoToken, Pause, WeChatClient, slow_down_pause},
};

/// What came of one send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What to do about it.
    pub verdict: Verdict,
    /// For people, without secrets.
    pub evidence: String,
}

/// What one send means for the row and for the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// WeChat took it.
    Accepted,
    /// This row can never succeed.
    Park,
    /// An answer about this row that nobody has explained.
    Unknown,
    /// No answer, or one that says nothing about the row: the queue backs off.
    NoAnswer {
        /// Whether WeChat may have got the request.
        may_have_been_taken: bool,
        /// How long WeChat asks to wait.
        retry_after: Option<Duration>,
    },
    /// Too many requests: the queue pauses.
    SlowDown {
        /// For so long.
        pause: Duration,
    },
    /// The quota of the day is used up: the queue pauses.
    DailyQuota {
        /// For so long.
        pause: Duration,
    },
    /// Somebody must set something right: the queue pauses.
    Operator {
        /// How long WeChat asks to wait.
        retry_after: Option<Duration>,
    },
    /// No token, or one that is refused twice in a row: the queue pauses.
    TokenTrouble {
        /// How long WeChat asks to wait.
        retry_after: Option<Duration>,
    },
}

/// Sends deductions. Clones share what they hold.
pub trait Deduct: Clone + Send + Sync + 'static {
    /// Sends one body. May be dropped at any time. `is_wanted` is asked again before anything is sent late or once more; `None` when it
    /// says no, and nothing is known of the row then but what it knew before.
    fn deduct<F: Future<Output = bool> + Send>(
        &self,
        body: Vec<u8>,
        is_wanted: impl Fn() -> F + Send + Sync,
    ) -> impl Future<Output = Option<Outcome>> + Send;
}

impl Deduct for WeChatClient {
    async fn deduct<F: Future<Output = bool> + Send>(
        &self,
        body: Vec<u8>,
        is_wanted: impl Fn() -> F + Send + Sync,
    ) -> Option<Outcome> {
        let answer = self.deduct_if(body, is_wanted).await?;
        // Without randomness gates only come back together.
        let draw = getrandom::u32().unwrap_or_default();
        Some(Outcome { verdict: verdict(&answer, &Stamp::now(), draw), evidence: answer.to_string() })
    }
}

/// `at`: when the answer came. `draw`: any number, a different one each time.
fn verdict(answer: &Answer, at: &Stamp, draw: u32) -> Verdict {
    let no_answer = |retry_after| Verdict::NoAnswer { may_have_been_taken: answer.may_have_been_taken(), retry_after };
    match answer {
        Answer::Errcode { errcode, class, .. } => match class {
            Class::Accepted => Verdict::Accepted,
            Class::Park => Verdict::Park,
            Class::Unknown => Verdict::Unknown,
            Class::Transient => no_answer(None),
            Class::SlowDown => slow_down(*errcode, at, draw),
            Class::Operator => Verdict::Operator { retry_after: None },
            Class::Token => Verdict::TokenTrouble { retry_after: None },
        },
        Answer::NoAnswer(reason) | Answer::NoToken(NoToken::NoAnswer(reason)) => no_answer(reason.retry_after),
        Answer::HttpRefused { retry_after, .. } => Verdict::Operator { retry_after: *retry_after },
        Answer::NoToken(NoToken::Errcode { errcode, class, .. }) => match class {
            Class::Transient => no_answer(None),
            Class::SlowDown => slow_down(*errcode, at, draw),
            Class::Operator => Verdict::Operator { retry_after: None },
            Class::Accepted | Class::Token | Class::Park | Class::Unknown => Verdict::TokenTrouble { retry_after: None },
        },
        Answer::NoToken(NoToken::HttpRefused { retry_after, .. }) => Verdict::TokenTrouble { retry_after: *retry_after },
        Answer::NoToken(NoToken::File { .. }) => Verdict::TokenTrouble { retry_after: None },
    }
}

fn slow_down(errcode: i64, at: &Stamp, draw: u32) -> Verdict {
    match slow_down_pause(errcode, at, draw) {
        Pause::Rate(pause) => Verdict::SlowDown { pause },
        Pause::DailyQuota(pause) => Verdict::DailyQuota { pause },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wechat::{NoAnswer, NoAnswerKind};

    fn no_answer(kind: NoAnswerKind, retry_after: Option<Duration>) -> NoAnswer {
        NoAnswer { kind, detail: "no answer".to_owned(), retry_after }
    }

    const OPERATOR: Verdict = Verdict::Operator { retry_after: None };
    const TOKEN_TROUBLE: Verdict = Verdict::TokenTrouble { retry_after: None };

    fn judged(answer: &Answer) -> Verdict {
        verdict(answer, &Stamp { utc_ms: 0, boottime_ms: 0, synchronized: true }, 0)
    }

    #[test]
    fn every_class_of_errcode_has_its_verdict() {
        let table = [
            (Class::Accepted, Verdict::Accepted),
            (Class::Park, Verdict::Park),
            (Class::Unknown, Verdict::Unknown),
            (Class::Transient, Verdict::NoAnswer { may_have_been_taken: true, retry_after: None }),
            (Class::SlowDown, Verdict::SlowDown { pause: Duration::from_secs(60) }),
            (Class::Operator, OPERATOR),
            (Class::Token, TOKEN_TROUBLE),
        ];
        for (class, wanted) in table {
            let answer = Answer::Errcode { errcode: 45011, errmsg: String::new(), class };
            assert_eq!(judged(&answer), wanted, "{class:?}");
        }
    }

    #[test]
    fn the_daily_quota_pauses_until_shortly_after_midnight_in_beijing() {
        let answer = Answer::Errcode { errcode: 45009, errmsg: String::new(), class: Class::SlowDown };
        assert_eq!(judged(&answer), Verdict::DailyQuota { pause: Duration::from_secs(16 * 60 * 60 + 60) });
    }

    #[test]
    fn only_what_was_sent_may_have_been_taken() {
        let wait = Some(Duration::from_secs(3));
        let cut = Answer::NoAnswer(no_answer(NoAnswerKind::Cut, wait));
        assert_eq!(judged(&cut), Verdict::NoAnswer { may_have_been_taken: true, retry_after: wait });
        let refused = Answer::NoAnswer(no_answer(NoAnswerKind::Connect, None));
        assert_eq!(judged(&refused), Verdict::NoAnswer { may_have_been_taken: false, retry_after: None });
        let no_token = Answer::NoToken(NoToken::NoAnswer(no_answer(NoAnswerKind::Timeout, None)));
        assert_eq!(judged(&no_token), Verdict::NoAnswer { may_have_been_taken: false, retry_after: None });
    }

    #[test]
    fn trouble_with_the_token_is_the_operators_unless_it_passes() {
        let errcode = |class| Answer::NoToken(NoToken::Errcode { errcode: 45011, errmsg: String::new(), class });
        assert_eq!(judged(&errcode(Class::Operator)), OPERATOR);
        assert_eq!(judged(&errcode(Class::Token)), TOKEN_TROUBLE);
        assert_eq!(judged(&errcode(Class::Unknown)), TOKEN_TROUBLE);
        assert_eq!(judged(&errcode(Class::SlowDown)), Verdict::SlowDown { pause: Duration::from_secs(60) });
        assert_eq!(judged(&errcode(Class::Transient)), Verdict::NoAnswer { may_have_been_taken: false, retry_after: None });
        let retry_after = Some(Duration::from_secs(9));
        let refused = Answer::HttpRefused { status: 403, detail: String::new(), retry_after };
        assert_eq!(judged(&refused), Verdict::Operator { retry_after });
        let refused = Answer::NoToken(NoToken::HttpRefused { detail: String::new(), retry_after });
        assert_eq!(judged(&refused), Verdict::TokenTrouble { retry_after });
    }
}
