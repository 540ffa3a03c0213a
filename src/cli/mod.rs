//! The commands of `faregate`, one file each. Exit codes and messages are the contract's.

mod bench;
mod check;
mod clock_watch;
mod code;
mod completions;
mod demo;
mod deny;
mod doctor;
mod exit;
mod export;
mod fare;
mod fsck;
mod journeys;
mod queue;
mod recover;
mod run;
mod sandbox;
mod source;
mod status;
mod story;

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};

use exit::Code;

/// A fare gate: reads QR ride codes, opens the turnstile, and charges each passage once.
#[derive(Debug, Parser)]
#[command(name = "faregate", version, propagate_version = true, arg_required_else_help = true)]
struct Arguments {
    /// The settings file.
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/faregate/faregate.toml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gate, in the foreground, until SIGTERM or SIGINT.
    Run,
    /// Check the settings and the files that they name, never devices.
    Check,
    /// Look at this machine: readers, GPIO lines, clock, disk, network, secrets. Best run as root.
    Doctor,
    /// Measure this machine: disk, durable records, code checks, and the scan-to-open to expect.
    Bench,
    /// Show how the running daemon is doing.
    Status {
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Look at a captured ride code.
    #[command(subcommand)]
    Code(code::Command),
    /// Look at the deductions.
    #[command(subcommand)]
    Queue(queue::Command),
    /// Look at the journeys.
    #[command(subcommand)]
    Journeys(journeys::Command),
    /// Say what a journey between two stations would be charged, and why.
    Fare(fare::Arguments),
    /// Change or list who is not let in. For root and the user faregate.
    #[command(subcommand)]
    Deny(deny::Command),
    /// Write the deductions that were recorded within a time, to be compared with WeChat's bill.
    Export(export::Arguments),
    /// Check that the ledger is whole and every fen in it explained. Repairs nothing; the daemon may run. Exits 1 when something is
    /// wrong, 65 when the file is damaged.
    Fsck {
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Bring the deductions of a damaged ledger that was moved aside into the gate's own, to be charged under their numbers. The daemon must
    /// be stopped. Exits 65 when some cannot be brought over.
    Recover {
        /// The damaged ledger, or a copy; its log is looked for beside it.
        file: PathBuf,
    },
    /// See a whole gate at work, beside a WeChat of its own: needs no settings, no hardware, no network.
    Demo(demo::Arguments),
    /// Serve a WeChat for trials and tests, with faults on demand.
    Sandbox(Box<sandbox::Arguments>),
    /// Tell the gate, every few seconds, whether the clock is synchronized.
    #[command(hide = true)]
    ClockWatch,
    /// Write what makes a shell complete the commands.
    #[command(hide = true)]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// The whole program: reads the arguments, runs the command, tells what went wrong in one sentence.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let result = match arguments.command {
        Command::Run => run::run(&arguments.config),
        Command::Check => check::run(&arguments.config),
        Command::Doctor => doctor::run(&arguments.config),
        Command::Bench => bench::run(&arguments.config),
        Command::Status { json } => status::run(json),
        Command::Code(command) => code::run(&command, &arguments.config),
        Command::Queue(command) => queue::run(&command, &arguments.config),
        Command::Journeys(command) => journeys::run(&command, &arguments.config),
        Command::Fare(fare) => fare::run(&fare, &arguments.config),
        Command::Deny(command) => deny::run(&command, &arguments.config),
        Command::Export(options) => export::run(&options, &arguments.config),
        Command::Fsck { json } => fsck::run(&arguments.config, json),
        Command::Recover { file } => recover::run(&file, &arguments.config),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Sandbox(arguments) => sandbox::run(&arguments),
        Command::ClockWatch => clock_watch::run(),
        Command::Completions { shell } => completions::run(shell, &mut Arguments::command()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // The reader of a pipe that has seen enough is told nothing.
            let told = if failure.code == Code::OutputClosed { &[] } else { failure.messages.as_slice() };
            for line in told {
                // There is no other place to complain to.
                let _ = writeln!(std::io::stderr(), "faregate: {line}");
            }
            ExitCode::from(failure.code.number())
        }
    }
}

/// What the commands of the feature `sandbox` say in a program that was built without it.
#[cfg(not(feature = "sandbox"))]
fn without_sandbox(command: &str) -> exit::Failure {
    let message =
        format!("{command} is not part of this build, which is meant for gates; build one with: cargo build --features sandbox");
    exit::Failure::new(Code::Usage, message)
}

fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(Code::Usage.number()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_the_manual_page() {
        let page = include_str!("../../docs/man/faregate.1.md");
        for command in Arguments::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            assert!(page.contains(&format!("**{name}")), "{name}");
            for inner in command.get_subcommands() {
                assert!(page.contains(&format!("**{name} {}**", inner.get_name())), "{name} {}", inner.get_name());
            }
        }
    }
}
