//! `faregate status`: how the running daemon is doing.

use std::io::{Write, stdout};

use super::exit::{Code, Failure};
use crate::control::{Answer, Client, Question, socket_path};

pub(super) fn run(json: bool) -> Result<(), Failure> {
    let Answer::Status(status) = Client::connect(&socket_path())?.ask(&Question::Status)? else {
        return Err(Failure::strange_answer());
    };
    let mut out = stdout().lock();
    if json {
        let text = serde_json::to_string_pretty(&status).map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
        writeln!(out, "{text}")?;
    } else {
        writeln!(out, "{status}")?;
    }
    Ok(())
}
