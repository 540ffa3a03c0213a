//! `faregate doctor`: what this machine lacks of what a gate needs.

use std::{
    io::{Write, stdout},
    path::Path,
};

use super::{
    check,
    exit::{Code, Failure},
    source::holds,
};
use crate::{
    config,
    control::{Answer, Client, ClientError, Question, socket_path},
    doctor::{Look, Verdict, examine},
    monitor::Status,
};

pub(super) fn run(config: &Path) -> Result<(), Failure> {
    // Whoever may not read the secrets is to see the rest all the same.
    let loaded = config::load_without_named_files(config);
    let Some(settings) = &loaded.settings else { return Err(check::failure(&loaded)) };
    let looks = examine(settings, config, daemon(&settings.ledger.path)?.as_ref());
    let mut out = stdout().lock();
    for look in &looks {
        writeln!(out, "{look}")?;
    }
    match looks.iter().filter(|look| look.verdict == Verdict::Bad).count() {
        0 => Ok(()),
        count => Err(Failure::new(Code::Found, summary(count, &looks))),
    }
}

fn summary(count: usize, looks: &[Look]) -> String {
    format!("{count} of {} looks found an error; mend and look again: faregate doctor", looks.len())
}

/// What the daemon says that holds this ledger; `None` when there is none.
fn daemon(ledger: &Path) -> Result<Option<Status>, Failure> {
    let mut client = match Client::connect(&socket_path()) {
        Err(ClientError::NotRunning { .. }) => return Ok(None),
        connected => connected?,
    };
    if !holds(&mut client, ledger)? {
        return Ok(None);
    }
    match client.ask(&Question::Status)? {
        Answer::Status(status) => Ok(Some(*status)),
        _ => Err(Failure::strange_answer()),
    }
}
