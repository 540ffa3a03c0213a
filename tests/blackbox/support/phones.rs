//! Passengers' phones, and the issuer behind them: the other side of a gate that takes codes of JT/T 1179.
//!
//! The one place where these tests use the library: `faregate::issuer`, which writes codes from the standard's field table and shares
//! nothing with what reads them. It is what a passenger brings, not what is under test.

use std::{
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use data_encoding::HEXLOWER;
pub(crate) use faregate::issuer::{CodeTerms, Spoil};
use faregate::issuer::{Issuer, Passenger, Root};

use super::{Gate, WeChat, gate::Builder};

/// The issuer's code, as in `issuer_clock_offset`.
pub(crate) const ISSUER: &str = "03664530";
/// Card accounts begin with this, so that a number can be looked for where it must not be.
const CARDS: u128 = 91_237_654_321_001_000_000;

/// One root, one issuer under it, and as many passengers as there are numbers.
pub(crate) struct Phones {
    root: Root,
    issuer: Issuer,
}

impl Phones {
    /// Whose root has this index, with keys that belong to it.
    pub(crate) fn under_root(index: u8) -> Self {
        let root = Root::from_seed(1, index);
        let issuer = root.certify(1, ISSUER.parse().unwrap(), 1235);
        Self { root, issuer }
    }

    /// The passenger's code with these terms.
    pub(crate) fn code(&self, passenger: u64, terms: &CodeTerms) -> Vec<u8> {
        self.issuer.issue(&Self::passenger(passenger), terms)
    }

    /// A code that the passenger's phone makes now.
    pub(crate) fn fresh(&self, passenger: u64) -> Vec<u8> {
        self.code(passenger, &CodeTerms::at(now_s()))
    }

    /// As [`Self::fresh`], but for one thing.
    pub(crate) fn spoiled(&self, passenger: u64, spoil: Spoil) -> Vec<u8> {
        self.issuer.spoil(&Self::passenger(passenger), &CodeTerms::at(now_s()), spoil)
    }

    /// The passenger's card account number.
    pub(crate) fn card(passenger: u64) -> String {
        (CARDS + u128::from(passenger)).to_string()
    }

    fn passenger(number: u64) -> Passenger {
        Passenger::from_seed(number, CARDS + u128::from(number))
    }
}

/// The machine's time, UTC seconds.
pub(crate) fn now_s() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// The text of a `roots.toml` that trusts these.
pub(crate) fn roots_toml(trusted: &[&Phones]) -> String {
    let mut text = String::new();
    for phones in trusted {
        let root = phones.root.root_key(2035, 12);
        let key = HEXLOWER.encode(&root.public_key);
        writeln!(text, "[[root]]\nindex = {}\npublic_key = \"{key}\"\nexpires = \"2035-12\"", root.index).unwrap();
    }
    text
}

/// Settings of a gate that takes ride codes of JT/T 1179; [`start`] writes the roots.
pub(crate) fn ride_code_gate(wechat: &WeChat) -> Builder {
    let builder = Gate::beside(wechat).set("ride_code", "format", "jtt1179").set("ride_code", "roots", "roots.toml");
    builder.set("scanner", "framing", "ride-code").set("gate", "passenger_interval", "1s")
}

/// Prepared, but not started, with these in `roots.toml`.
pub(crate) fn prepare(builder: Builder, trusted: &[&Phones]) -> Gate {
    let gate = builder.prepare();
    trust(&gate, trusted);
    gate
}

/// Started with these in `roots.toml`.
pub(crate) fn start(builder: Builder, trusted: &[&Phones]) -> Gate {
    let mut gate = prepare(builder, trusted);
    gate.start();
    gate
}

/// Replaces `roots.toml`.
pub(crate) fn trust(gate: &Gate, trusted: &[&Phones]) {
    std::fs::write(gate.path("roots.toml"), roots_toml(trusted)).unwrap();
}
