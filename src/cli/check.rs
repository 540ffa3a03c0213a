//! `faregate check`: what is wrong with the settings.

use std::{
    io::{Write, stdout},
    path::Path,
};

use super::exit::{Code, Failure};
use crate::{
    config::{self, Finding, Format, Loaded, Settings, Severity},
    deny_list,
    ride_code::jtt1179::TrustStore,
};

pub(super) fn run(config: &Path) -> Result<(), Failure> {
    let loaded = config::load(config);
    let Some(settings) = &loaded.settings else { return Err(failure(&loaded)) };
    if let Format::Jtt1179 { roots } = &settings.ride_code.format {
        TrustStore::read(roots).map_err(|error| Failure { code: Code::Settings, messages: error.messages })?;
    }
    let findings: Vec<_> = loaded.findings.iter().cloned().chain(deny_list_warnings(settings)).collect();
    let mut out = stdout().lock();
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    let warnings = findings.len();
    let words = match warnings {
        0 => "no errors, no warnings".to_owned(),
        1 => "no errors, 1 warning".to_owned(),
        _ => format!("no errors, {warnings} warnings"),
    };
    Ok(writeln!(out, "{}: {words}", config.display())?)
}

/// What is wrong with the deny-list's file: the daemon runs without it, on the last good list.
fn deny_list_warnings(settings: &Settings) -> Vec<Finding> {
    let Some(Err(error)) = settings.deny.file.as_deref().map(deny_list::read) else { return Vec::new() };
    let warning = |finding: &Finding| Finding { severity: Severity::Warning, ..finding.clone() };
    error.findings().iter().map(warning).collect()
}

/// Settings that cannot be used, as a failure with every finding.
pub(super) fn failure(loaded: &Loaded) -> Failure {
    let mut messages: Vec<_> = loaded.findings.iter().map(ToString::to_string).collect();
    let errors = loaded.findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    messages.push(format!("{errors} error{} in the settings; mend and run: faregate check", if errors == 1 { "" } else { "s" }));
    Failure { code: Code::Settings, messages }
}
