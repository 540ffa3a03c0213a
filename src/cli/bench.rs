//! `faregate bench`: how fast this machine is as a gate.

use std::{
    io::{Write, stdout},
    path::Path,
    time::Duration,
};

use super::{
    check,
    exit::{Code, Failure},
};
use crate::{
    bench::{BenchError, Measured, Spread, measure, rates, wire_time},
    config::{self, Settings},
};

pub(super) fn run(config: &Path) -> Result<(), Failure> {
    let loaded = config::load_without_named_files(config);
    let Some(settings) = &loaded.settings else { return Err(check::failure(&loaded)) };
    let measured = measure(settings)?;
    Ok(show(&mut stdout().lock(), settings, &measured)?)
}

fn show(out: &mut impl Write, settings: &Settings, measured: &Measured) -> std::io::Result<()> {
    writeln!(out, "{:<52}{:>10}{:>10}   (in {})", "milliseconds", "p50", "p99", measured.folder.display())?;
    row(out, "disk: 4 KiB overwritten and synced", &measured.disk)?;
    row(out, "ledger: one passage recorded durably", &measured.record)?;
    row(out, "ride code: checked, passenger known", &measured.check_known)?;
    row(out, "ride code: checked, nothing known", &measured.check_new)?;
    for baud in rates(settings.lanes.iter().map(|lane| &lane.scanner)) {
        writeln!(
            out,
            "{:<52}{:>10}   {}",
            format!("serial: a code at {baud} baud"),
            ms(wire_time(baud)),
            lanes_at(settings, baud)
        )?;
    }
    let (usual, seldom) = measured.scan_to_open();
    writeln!(out, "{:<52}{:>10}{:>10}", "to expect: last byte of a scan to open turnstile", ms(usual), ms(seldom))
}

fn row(out: &mut impl Write, what: &str, spread: &Spread) -> std::io::Result<()> {
    writeln!(out, "{what:<52}{:>10}{:>10}", ms(spread.percentile(50)), ms(spread.percentile(99)))
}

fn lanes_at(settings: &Settings, baud: u32) -> String {
    let lanes = settings.lanes.iter().filter(|lane| lane.scanner.baud == baud);
    lanes.map(|lane| format!("lane {}", lane.name)).collect::<Vec<_>>().join(", ")
}

fn ms(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64() * 1e3)
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::Ledger(error) => error.into(),
            BenchError::Folder { ref source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Self::new(Code::NotAllowed, error.to_string())
            }
            other => Self::new(Code::Internal, other.to_string()),
        }
    }
}
