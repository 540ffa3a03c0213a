//! The story of a deduction as a technician reads it: what it is, what that means and what to do, then each step in time order.
//!
//! The words of states and steps are those of `--json`; what they mean is said beside them.

use std::io::{self, Write};

use crate::ledger::{QueueEvent, QueueRow, QueueStory};

pub(super) fn write(out: &mut impl Write, story: &QueueStory) -> io::Result<()> {
    write_row(out, &story.row, meaning_in(story))?;
    writeln!(out)?;
    let width = story.events.iter().map(|event| event.event.len()).max().unwrap_or(0);
    story.events.iter().try_for_each(|event| writeln!(out, "{}  {:<width$}  {}", event.at, event.event, told(event)))
}

/// What the state means after all that happened.
fn meaning_in(story: &QueueStory) -> &'static str {
    let happened = |event: &str| story.events.iter().any(|known| known.event == event);
    if story.row.state == "void" && happened("accepted-after-void") {
        return "void here, but WeChat took it all the same; look it up there, and refund it";
    }
    meaning(&story.row.state)
}

fn write_row(out: &mut impl Write, row: &QueueRow, meaning: &str) -> io::Result<()> {
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let reason = row.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
    writeln!(out, "order      {}", row.order)?;
    writeln!(out, "state      {}{reason}: {meaning}", row.state)?;
    writeln!(out, "kind       {}", row.kind)?;
    writeln!(out, "flags      {}", if row.flags.is_empty() { "-".to_owned() } else { row.flags.join(", ") })?;
    writeln!(out, "where      gate {}, lane {}", row.gate, row.lane)?;
    writeln!(out, "passenger  {}", row.passenger)?;
    writeln!(out, "fare       {} fen, {} fen after discount", row.original_fen, row.total_fen)?;
    writeln!(out, "paid       {}", row.paid_fen.map_or("-".to_owned(), |fen| format!("{fen} fen")))?;
    writeln!(out, "trip       {} to {}", row.start_time, or_none(&row.end_time))?;
    writeln!(out, "attempts   {}", row.attempts)?;
    writeln!(out, "last error {}", or_none(&row.last_error))?;
    writeln!(out, "payment    {}", or_none(&row.transaction_id))
}

/// What a state means, and who does what next.
fn meaning(state: &str) -> &'static str {
    match state {
        "held" => "waits for the passage, or for an entry that is missing; nothing is sent meanwhile",
        "pending" => "waits to be sent, or for an answer; sent by itself until WeChat has taken it",
        "accepted" => "WeChat has taken it, and will tell whether it is paid",
        "paid" => "WeChat has charged it; nothing is left to do",
        "unpaid" => "WeChat could not collect it, and tells when it is repaid",
        "parked" => "not sent by itself any more; a person decides: queue retry, or queue void",
        "void" => "not sent any more; where it may have been sent before, WeChat may charge it all the same",
        _ => "a state that this version does not know",
    }
}

/// What happened, and what is known of it.
fn told(event: &QueueEvent) -> String {
    let detail = event.detail.as_deref().filter(|detail| !detail.is_empty());
    match (happened(&event.event), detail) {
        (Some(happened), Some(detail)) => format!("{happened}: {detail}"),
        (Some(words), None) | (None, Some(words)) => words.to_owned(),
        (None, None) => String::new(),
    }
}

/// `None` where the detail says it all.
fn happened(event: &str) -> Option<&'static str> {
    Some(match event {
        "recorded" => "scanned, admitted, and on the disk before anything opened",
        "opened" => "the turnstile opened",
        "opening-unconfirmed" => "the program ended before the turnstile had answered; it may have opened, so it is charged",
        "passed" => "somebody passed",
        "opened-again" => "shown again, and the turnstile opened again; charged once",
        "no-passage" => "opened, and nobody passed within passage_timeout",
        "passage-unseen" => "the program ended before it had seen whether somebody passed; taken for a passage",
        "attempt" => "sent, and not settled by what came back",
        "accepted" => "sent, and taken by WeChat",
        "parked" => "left to a person",
        "retried" => "to be sent again",
        "void" => "will not be sent any more",
        "paid-again" => "paid before, and paid again by another payment; give one back at WeChat",
        "accepted-after-void" => "WeChat took it although it was void here; look it up there",
        "answered-after-void" => "answered when it was void here already",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::STATES;

    fn event(event: &str, detail: Option<&str>) -> QueueEvent {
        QueueEvent { at: "2026-11-23T05:34:30.123Z".to_owned(), event: event.to_owned(), detail: detail.map(str::to_owned) }
    }

    #[test]
    fn every_state_says_what_it_means() {
        assert!(STATES.iter().all(|state| !meaning(state).contains("does not know")));
    }

    #[test]
    fn a_step_says_what_happened_and_keeps_its_evidence() {
        let attempt = told(&event("attempt", Some("errcode -1 system busy")));
        assert_eq!(attempt, "sent, and not settled by what came back: errcode -1 system busy");
        assert_eq!(told(&event("passed", None)), "somebody passed");
        assert_eq!(told(&event("something-new", Some("evidence"))), "evidence");
        assert_eq!(told(&event("something-new", None)), "");
    }

    #[test]
    fn a_void_order_is_not_said_to_be_uncharged_when_it_may_be_or_is() {
        assert!(!meaning("void").contains("never"));
        for step in ["passage-unseen", "opened-again", "no-passage", "paid-again"] {
            assert!(happened(step).is_some_and(|words| words.contains(' ')), "{step}");
        }
    }
}
