//! `faregate recover`: brings what can be read of a damaged ledger into the gate's own.

use std::{io::Write, path::Path};

use super::{
    exit::{Code, Failure},
    export::unreadable,
    source,
};
use crate::{
    ledger::{self, Recovered, Salvage},
    wechat,
};

pub(super) fn run(file: &Path, config: &Path) -> Result<(), Failure> {
    let path = source::own_ledger(config)?;
    if is_same(file, &path) {
        let message = format!(
            "{} is the gate's own ledger: stop the service, move it and its -wal into another folder, and name it there",
            path.display()
        );
        return Err(Failure::new(Code::Usage, message));
    }
    let salvage = Salvage::of(file)?;
    let recovered = ledger::recover(&path, &salvage, wechat::is_request_of, &file.display().to_string())?;
    let Recovered { brought, known, .. } = recovered;
    writeln!(std::io::stdout(), "{brought} deductions were brought into {}, {known} were there already", path.display())?;
    conclude(&recovered)
}

fn conclude(recovered: &Recovered) -> Result<(), Failure> {
    let mut messages = unreadable(&recovered.unreadable);
    messages.extend(
        recovered.refused.iter().map(|why| format!("a deduction cannot be brought over: {why}; see it with export --damaged")),
    );
    messages.extend(recovered.behind.iter().map(|order| {
        format!(
            "order {order} is in the ledger, and the damaged one knows more of it: compare queue show {order} with export --damaged"
        )
    }));
    if messages.is_empty() { Ok(()) } else { Err(Failure { code: Code::Ledger, messages }) }
}

fn is_same(one: &Path, other: &Path) -> bool {
    one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}
