//! `faregate completions`: what makes a shell complete the commands. Packages install it.

use std::io::{Write, stdout};

use clap_complete::{Shell, generate};

use super::exit::Failure;

pub(super) fn run(shell: Shell, commands: &mut clap::Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    generate(shell, commands, "faregate", &mut script);
    Ok(stdout().lock().write_all(&script)?)
}
