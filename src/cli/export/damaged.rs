//! `faregate export --damaged`: the rows of a ledger that cannot be opened any more, and which of them are missing.

use std::{io::stdout, path::Path};

use super::{Arguments, table::Table};
use crate::{
    cli::exit::{Code, Failure},
    clock::rfc3339_ms,
    ledger::{OrderNumber, Salvage, Unreadable},
    wechat,
};

pub(super) fn write(arguments: &Arguments, file: &Path) -> Result<(), Failure> {
    let salvage = Salvage::of(file)?;
    let request = arguments.request();
    let mut table = Table::new(stdout().lock(), arguments.format, arguments.bom, request.requests)?;
    let mut written = 0_u64;
    let unreadable = salvage.each_row(&request, wechat::is_request_of, |row| {
        written += 1;
        table.write(row)
    })?;
    table.end()?;
    let mut messages = sentences(&unreadable);
    if messages.is_empty() {
        return Ok(());
    }
    messages.insert(0, format!("{written} deductions could be read"));
    Err(Failure { code: Code::Ledger, messages })
}

/// How many are missing first, then which; nothing when none is.
pub(in crate::cli) fn sentences(unreadable: &Unreadable) -> Vec<String> {
    let Unreadable { orders, unnamed, doubtful } = unreadable;
    let mut sentences = Vec::new();
    let lost = orders.len() as u64 + unnamed;
    if lost > 0 {
        sentences.push(format!("{lost} deductions cannot be read: look for them in WeChat's bill, and keep the damaged file"));
    }
    if *unnamed > 0 {
        sentences.push(format!("{unnamed} of them are counted in the ledger's sums, and nothing else is known of them"));
    }
    sentences.extend(orders.iter().map(|order| format!("order {order}, recorded at {}: its row cannot be read", made_at(order))));
    sentences.extend(doubtful.iter().map(|order| {
        format!(
            "order {order}: its row and its request do not say the same, so one of them is spoiled: compare it with WeChat's bill"
        )
    }));
    sentences
}

fn made_at(order: &OrderNumber) -> String {
    rfc3339_ms(order.utc_ms())
}
