//! `faregate code`: what a captured ride code says, and what the gate makes of it.

use std::{
    fs::File,
    io::{Read, Write, stdin, stdout},
    path::{Path, PathBuf},
};

use clap::Subcommand;

use super::{
    check,
    exit::{Code, Failure},
};
use crate::{
    clock::Stamp,
    config::{self, Format},
    ride_code::jtt1179::{Masking, TrustStore, Verdict, decode_capture, explain},
};

/// A capture may hold white space and base64; a code is far shorter.
const CAPTURE_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Decode a captured JT/T 1179 ride code (raw, hexadecimal or base64), print every field and each check's verdict. Exits 1 when
    /// the gate would refuse it.
    Show {
        /// The file, or - for standard input.
        file: PathBuf,
        /// Do not mask the passenger: whoever sees the output can tell who rides.
        #[arg(long)]
        full: bool,
    },
}

pub(super) fn run(command: &Command, config: &Path) -> Result<(), Failure> {
    let Command::Show { file, full } = command;
    // Whoever looks at a code needs no secret; the roots are read on their own.
    let loaded = config::load_without_named_files(config);
    let Some(settings) = &loaded.settings else { return Err(check::failure(&loaded)) };
    let roots = match &settings.ride_code.format {
        Format::Jtt1179 { roots } => {
            Some(TrustStore::read(roots).map_err(|error| Failure { code: Code::Settings, messages: error.messages })?)
        }
        Format::Opaque { .. } => None,
    };
    let code = decode_capture(&read(file)?);
    let masking = if *full { Masking::Full } else { Masking::Masked };
    let explanation = explain(&code, roots.as_ref(), &settings.ride_code, &Stamp::now(), masking);
    let mut out = stdout().lock();
    write!(out, "{explanation}")?;
    if roots.is_none() {
        writeln!(
            out,
            "{}: ride_code.format = \"opaque\" names no roots, and a gate with it makes none of these checks",
            config.display()
        )?;
    }
    match explanation.verdict {
        Verdict::Good | Verdict::Unchecked => Ok(()),
        Verdict::Refused(refusal) => Err(Failure::new(Code::Found, format!("the gate refuses this code: {refusal}"))),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable = |error| {
        let file = file.display();
        Failure::new(
            Code::NotFound,
            format!("{file} cannot be read: {error}; name the file with the captured code, or - for standard input"),
        )
    };
    let mut capture = Vec::new();
    let source: Box<dyn Read> =
        if file == Path::new("-") { Box::new(stdin()) } else { Box::new(File::open(file).map_err(unreadable)?) };
    source.take(CAPTURE_BYTES_MAX).read_to_end(&mut capture).map_err(unreadable)?;
    Ok(capture)
}
