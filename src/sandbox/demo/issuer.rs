//! Whose codes the demo's passengers show, and what the gate's settings must say so that it takes them. The only file of the demo
//! that knows what a code looks like.

use crate::sandbox::random::Random;

/// The first so many bytes of a code are the passenger.
const PASSENGER_BYTES: usize = 16;

/// Somebody with a phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Passenger {
    number: String,
}

impl Passenger {
    /// For people: the last 4 digits.
    pub(super) fn shown(&self) -> String {
        format!("passenger ..{}", &self.number[self.number.len().saturating_sub(4)..])
    }
}

/// Makes codes: a passenger's number, and bytes that are new each time.
#[derive(Debug)]
pub(super) struct Issuer {
    passengers: u64,
    codes: u64,
}

impl Issuer {
    pub(super) fn new() -> Self {
        Self { passengers: 0, codes: 0 }
    }

    /// The table `[ride_code]` of a gate that takes these codes.
    pub(super) fn settings() -> String {
        format!("format = \"opaque\"\nopaque_passenger = {{ offset = 0, length = {PASSENGER_BYTES} }}\n")
    }

    /// Somebody who has not been there yet.
    pub(super) fn passenger(&mut self, random: &mut Random) -> Passenger {
        self.passengers += 1;
        Passenger { number: format!("{:08}{:08}", self.passengers % 100_000_000, random.below(100_000_000)) }
    }

    /// A code that the phone has just made.
    pub(super) fn code(&mut self, passenger: &Passenger, random: &mut Random) -> Vec<u8> {
        self.codes += 1;
        let mut code = passenger.number.clone().into_bytes();
        code.extend(self.codes.to_be_bytes());
        for _ in 0..3 {
            code.extend(random.next().to_be_bytes());
        }
        code
    }
}
