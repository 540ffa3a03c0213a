//! `faregate deny`: who is not let in.
//!
//! Numbers are shown whole, for these commands are only for root and the user faregate, and what `list` prints is what `import`
//! takes. Errors, which end up in logs, show their last 4 digits.

use std::{
    io::{BufWriter, Write, stdout},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    exit::{Code, Failure},
    source::Source,
};
use crate::{
    deny_list::{self, DenyListError},
    journal::printable,
    ledger::{
        DENY_BATCH_MAX, DenyCard, DenyChangeKind, DenyChanged, DenyPage, DenyPageRequest, DenySource, DenyState, ImportStep, Reason,
    },
    ride_code::CardAccount,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Replace the imported list by that of a file: card account numbers, 20 digits a line, # comments. What `add` put on the list
    /// stays. The gate goes on; the new list counts from one moment to the next, or not at all.
    Import {
        /// The file.
        file: PathBuf,
    },
    /// List every number, those that were added here first, in the form that `import` takes.
    List {
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Put numbers on the list. They stay there, whatever is imported, until they are removed.
    Add(Change),
    /// Take numbers off the list, however they came there. One that the next import brings is on it again.
    Remove(Change),
}

#[derive(Debug, Args)]
pub(super) struct Change {
    /// Card account numbers, 20 digits each.
    #[arg(required = true)]
    numbers: Vec<String>,
    /// Why, in a few words; kept with the change.
    #[arg(long, value_name = "TEXT", value_parser = Reason::parse)]
    reason: Reason,
}

pub(super) fn run(command: &Command, config: &Path) -> Result<(), Failure> {
    match command {
        Command::Import { file } => import(config, file),
        Command::List { json } => list(config, *json),
        Command::Add(change) => add(config, change),
        Command::Remove(change) => remove(config, change),
    }
}

fn import(config: &Path, file: &Path) -> Result<(), Failure> {
    let list = deny_list::read(file).map_err(|error| unusable(&error))?;
    let detail = file.to_string_lossy().chars().map(printable).collect();
    match Source::new(config)?.import_deny_list(&list.cards, detail)? {
        ImportStep::Taken => Ok(writeln!(stdout(), "{} numbers imported from {}", list.cards.len(), file.display())?),
        ImportStep::Superseded => {
            let message = "another import has begun, or the daemon was started anew; the list stays as it was: import it again";
            Err(Failure::new(Code::Found, message))
        }
    }
}

/// A file that is not there, or one that holds something else.
fn unusable(error: &DenyListError) -> Failure {
    let (code, mut messages) = match error {
        DenyListError::Unreadable(finding) => (Code::NotFound, vec![finding.to_string()]),
        DenyListError::Bad(findings) => (Code::Found, findings.iter().map(ToString::to_string).collect::<Vec<_>>()),
    };
    messages.push("nothing was imported; the list stays as it was".to_owned());
    Failure { code, messages }
}

fn add(config: &Path, change: &Change) -> Result<(), Failure> {
    let (DenyChanged { changed, unchanged }, _) = apply(config, DenyChangeKind::Add, change)?;
    writeln!(stdout(), "{changed} numbers added")?;
    if !unchanged.is_empty() {
        writeln!(stdout(), "{} had been added before, and keep their reason", unchanged.len())?;
    }
    Ok(())
}

fn remove(config: &Path, change: &Change) -> Result<(), Failure> {
    let (DenyChanged { changed, unchanged }, cards) = apply(config, DenyChangeKind::Remove, change)?;
    writeln!(stdout(), "{changed} numbers removed")?;
    if unchanged.is_empty() {
        return Ok(());
    }
    let missing: Vec<_> = unchanged.iter().filter_map(|place| cards.get(*place)).map(ToString::to_string).collect();
    let message = format!("not on the list: {}; faregate deny list shows what is", missing.join(", "));
    Err(Failure::new(Code::NotFound, message))
}

fn apply(config: &Path, kind: DenyChangeKind, change: &Change) -> Result<(DenyChanged, Vec<CardAccount>), Failure> {
    let cards = cards(&change.numbers)?;
    Ok((Source::new(config)?.change_deny_list(kind, cards.clone(), change.reason.clone())?, cards))
}

/// The numbers of the command line, all of them right.
fn cards(numbers: &[String]) -> Result<Vec<CardAccount>, Failure> {
    if numbers.len() > DENY_BATCH_MAX {
        let message = format!("{} numbers are too many for one command; write them into a file and import it", numbers.len());
        return Err(Failure::new(Code::Usage, message));
    }
    let card = |(number, place): (&String, usize)| {
        let message = || format!("number {place} of the command line is no card account number, which has 20 digits");
        CardAccount::from_digits(number).ok_or_else(|| Failure::new(Code::Usage, message()))
    };
    numbers.iter().zip(1..).map(card).collect()
}

fn list(config: &Path, json: bool) -> Result<(), Failure> {
    let source = Source::new(config)?;
    let (local, imported) = first_pages(&source)?;
    let mut listing = Listing { source, state: local.state.clone(), json, written: 0 };
    let mut out = BufWriter::new(stdout().lock());
    listing.head(&mut out)?;
    listing.part(&mut out, DenySource::Local, local)?;
    listing.part(&mut out, DenySource::Imported, imported)?;
    if json {
        writeln!(out, "\n]}}")?;
    }
    Ok(out.flush()?)
}

/// Of one and the same list, whatever is imported meanwhile.
fn first_pages(source: &Source) -> Result<(DenyPage, DenyPage), Failure> {
    let first = |of| source.deny_page(DenyPageRequest { source: of, after: None });
    let mut local = first(DenySource::Local)?;
    loop {
        let imported = first(DenySource::Imported)?;
        if imported.state == local.state {
            return Ok((local, imported));
        }
        local = first(DenySource::Local)?;
    }
}

/// A list on its way out.
struct Listing {
    source: Source,
    state: DenyState,
    json: bool,
    written: usize,
}

impl Listing {
    fn head(&self, out: &mut impl Write) -> Result<(), Failure> {
        let DenyState { version, imported, local } = self.state;
        if self.json {
            write!(out, "{{\"version\":{version},\"imported\":{imported},\"local\":{local},\"cards\":[")?;
        } else {
            writeln!(out, "# version {version}: {imported} imported, {local} added here")?;
        }
        Ok(())
    }

    /// What comes from one source, whose first page is known.
    fn part(&mut self, out: &mut impl Write, source: DenySource, mut page: DenyPage) -> Result<(), Failure> {
        loop {
            if page.state.version != self.state.version {
                let message = "another list was imported meanwhile; list it again";
                return Err(Failure::new(Code::Found, message).after_rows(self.written));
            }
            for card in &page.cards {
                write_card(out, card, self.json, self.written == 0)?;
                self.written += 1;
            }
            let Some(last) = page.cards.last().filter(|_| page.has_more) else { return Ok(()) };
            let request = DenyPageRequest { source, after: Some(last.card) };
            page = self.source.deny_page(request).map_err(|failure| failure.after_rows(self.written))?;
        }
    }
}

fn write_card(out: &mut impl Write, card: &DenyCard, json: bool, is_first: bool) -> Result<(), Failure> {
    if json {
        write!(out, "{}\n{}", if is_first { "" } else { "," }, json!(card))?;
        return Ok(());
    }
    write!(out, "{}", card.card.digits())?;
    if let (Some(at), Some(uid), Some(reason)) = (&card.added_at, card.uid, &card.reason) {
        write!(out, " # added {at} by uid {uid}: {reason}")?;
    }
    Ok(writeln!(out)?)
}
