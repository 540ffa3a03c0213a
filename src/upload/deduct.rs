//! The seam to WeChat: a body out, a [`Verdict`] back.
//!
//! Here, and only here, what the client tells ([`Answer`]) becomes what the uploader acts on.

use std::{future::Future, time::Duration};

use crate::{
    clock::Stamp,
    wechat::{Answer, Class, NoToken, WeChatClient, slow_down_pause},
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
    /// Somebody must set something right: the queue pauses.
    Operator,
    /// No token, or one that is refused twice in a row: the queue pauses.
    TokenTrouble,
}

/// Sends deductions. Clones share what they hold.
pub trait Deduct: Clone + Send + Sync + 'static {
    /// Sends one body. May be dropped at any time.
    fn deduct(&self, body: Vec<u8>) -> impl Future<Output = Outcome> + Send;
}

impl Deduct for WeChatClient {
    async fn deduct(&self, body: Vec<u8>) -> Outcome {
        let answer = Self::deduct(self, body).await;
        Outcome { verdict: verdict(&answer, Stamp::now().utc_ms), evidence: answer.to_string() }
    }
}

/// `utc_ms`: when the answer came.
fn verdict(answer: &Answer, utc_ms: i64) -> Verdict {
    let no_answer = |retry_after| Verdict::NoAnswer { may_have_been_taken: answer.may_have_been_taken(), retry_after };
    match answer {
        Answer::Errcode { errcode, class, .. } => match class {
            Class::Accepted => Verdict::Accepted,
            Class::Park => Verdict::Park,
            Class::Unknown => Verdict::Unknown,
            Class::Transient => no_answer(None),
            Class::SlowDown => Verdict::SlowDown { pause: slow_down_pause(*errcode, utc_ms) },
            Class::Operator => Verdict::Operator,
            Class::Token => Verdict::TokenTrouble,
        },
        Answer::NoAnswer(reason) | Answer::NoToken(NoToken::NoAnswer(reason)) => no_answer(reason.retry_after),
        Answer::HttpRefused { .. } => Verdict::Operator,
        Answer::NoToken(NoToken::Errcode { errcode, class, .. }) => match class {
            Class::Transient => no_answer(None),
            Class::SlowDown => Verdict::SlowDown { pause: slow_down_pause(*errcode, utc_ms) },
            Class::Operator => Verdict::Operator,
            Class::Accepted | Class::Token | Class::Park | Class::Unknown => Verdict::TokenTrouble,
        },
        Answer::NoToken(NoToken::File { .. } | NoToken::HttpRefused { .. }) => Verdict::TokenTrouble,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wechat::{NoAnswer, NoAnswerKind};

    fn no_answer(kind: NoAnswerKind, retry_after: Option<Duration>) -> NoAnswer {
        NoAnswer { kind, detail: "no answer".to_owned(), retry_after }
    }

    #[test]
    fn every_class_of_errcode_has_its_verdict() {
        let table = [
            (Class::Accepted, Verdict::Accepted),
            (Class::Park, Verdict::Park),
            (Class::Unknown, Verdict::Unknown),
            (Class::Transient, Verdict::NoAnswer { may_have_been_taken: true, retry_after: None }),
            (Class::SlowDown, Verdict::SlowDown { pause: Duration::from_secs(60) }),
            (Class::Operator, Verdict::Operator),
            (Class::Token, Verdict::TokenTrouble),
        ];
        for (class, wanted) in table {
            let answer = Answer::Errcode { errcode: 45011, errmsg: String::new(), class };
            assert_eq!(verdict(&answer, 0), wanted, "{class:?}");
        }
    }

    #[test]
    fn the_daily_quota_pauses_until_midnight_in_beijing() {
        let answer = Answer::Errcode { errcode: 45009, errmsg: String::new(), class: Class::SlowDown };
        assert_eq!(verdict(&answer, 0), Verdict::SlowDown { pause: Duration::from_secs(16 * 60 * 60) });
    }

    #[test]
    fn only_what_was_sent_may_have_been_taken() {
        let wait = Some(Duration::from_secs(3));
        let cut = Answer::NoAnswer(no_answer(NoAnswerKind::Cut, wait));
        assert_eq!(verdict(&cut, 0), Verdict::NoAnswer { may_have_been_taken: true, retry_after: wait });
        let refused = Answer::NoAnswer(no_answer(NoAnswerKind::Connect, None));
        assert_eq!(verdict(&refused, 0), Verdict::NoAnswer { may_have_been_taken: false, retry_after: None });
        let no_token = Answer::NoToken(NoToken::NoAnswer(no_answer(NoAnswerKind::Timeout, None)));
        assert_eq!(verdict(&no_token, 0), Verdict::NoAnswer { may_have_been_taken: false, retry_after: None });
    }

    #[test]
    fn trouble_with_the_token_is_the_operators_unless_it_passes() {
        let errcode = |class| Answer::NoToken(NoToken::Errcode { errcode: 45011, errmsg: String::new(), class });
        assert_eq!(verdict(&errcode(Class::Operator), 0), Verdict::Operator);
        assert_eq!(verdict(&errcode(Class::Token), 0), Verdict::TokenTrouble);
        assert_eq!(verdict(&errcode(Class::Unknown), 0), Verdict::TokenTrouble);
        assert_eq!(verdict(&errcode(Class::SlowDown), 0), Verdict::SlowDown { pause: Duration::from_secs(60) });
        assert_eq!(verdict(&errcode(Class::Transient), 0), Verdict::NoAnswer { may_have_been_taken: false, retry_after: None });
        let refused = Answer::HttpRefused { status: 403, detail: String::new() };
        assert_eq!(verdict(&refused, 0), Verdict::Operator);
    }
}
