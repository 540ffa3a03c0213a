//! Whose codes the demo's passengers show, and what the gate's settings must say so that it takes them. The only file of the demo
//! that knows what a code looks like.

use data_encoding::HEXLOWER;

use super::passengers::Kind;
use crate::{
    issuer::{self, CodeTerms, Root, Spoil},
    sandbox::random::Random,
};

const ROOT_INDEX: u8 = 1;
const ISSUER_CODE: u32 = 3_664_530;
/// December 2099, so that the demo never grows too old.
const CERTIFICATE_EXPIRY: u16 = 1299;
/// Card accounts begin here.
const CARDS: u128 = 91_237_654_321_000_000_000;
/// A bit of the certificate's fixed bytes that no framing looks at.
const DAMAGED_BIT: usize = 32;

/// Somebody with a phone.
#[derive(Clone)]
pub(super) struct Passenger {
    phone: issuer::Passenger,
    number: u64,
    tail: u64,
    /// When the phone has made its last code, epoch seconds.
    made_s: u32,
}

impl Passenger {
    /// For people: the last 4 digits.
    pub(super) fn shown(&self) -> String {
        format!("passenger ..{:04}", self.tail)
    }

    /// Nobody else's.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

/// Makes genuine codes of JT/T 1179, and those that a gate must refuse.
pub(super) struct Issuer {
    issuer: issuer::Issuer,
    passengers: u64,
}

impl Issuer {
    pub(super) fn new() -> Self {
        Self { issuer: root().certify(1, ISSUER_CODE, CERTIFICATE_EXPIRY), passengers: 0 }
    }

    /// The table `[ride_code]` of a gate that takes these codes, with [`Self::roots`] in the file of that name.
    pub(super) fn settings(roots: &str) -> String {
        format!("format = \"jtt1179\"\nroots = \"{roots}\"\n")
    }

    /// What a `roots.toml` must hold.
    pub(super) fn roots() -> String {
        let key = HEXLOWER.encode(&root().root_key(2099, 12).public_key);
        format!("[[root]]\nindex = {ROOT_INDEX}\npublic_key = \"{key}\"\nexpires = \"2099-12\"\n")
    }

    /// Somebody who has not been there yet.
    pub(super) fn passenger(&mut self, random: &mut Random) -> Passenger {
        self.passengers += 1;
        let tail = random.below(10_000);
        let card = CARDS + u128::from(self.passengers) * 10_000 + u128::from(tail);
        let phone = issuer::Passenger::from_seed(self.passengers, card);
        Passenger { phone, number: self.passengers, tail, made_s: 0 }
    }

    /// What the passenger's phone shows at `now_s`, epoch seconds; genuine unless `kind` says otherwise.
    pub(super) fn code(&self, passenger: &mut Passenger, kind: Kind, now_s: u32) -> Vec<u8> {
        // A phone makes one code a second.
        passenger.made_s = now_s.max(passenger.made_s + 1);
        let terms = CodeTerms::at(passenger.made_s);
        let spoil = match kind {
            Kind::Fresh | Kind::Repeat | Kind::Again | Kind::Screenshot | Kind::Replayed | Kind::Refreshed => {
                return self.issuer.issue(&passenger.phone, &terms);
            }
            Kind::Smudged => Spoil::BitFlip(DAMAGED_BIT),
            Kind::Expired => Spoil::Expired,
            Kind::Future => Spoil::Future,
            Kind::Forged => Spoil::WrongRoot,
            Kind::Tampered => Spoil::TamperedField,
            Kind::Stolen => Spoil::ForgedUser,
        };
        self.issuer.spoil(&passenger.phone, &terms, spoil)
    }
}

fn root() -> Root {
    Root::from_seed(1, ROOT_INDEX)
}
