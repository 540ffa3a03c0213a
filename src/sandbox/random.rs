//! Numbers that can be replayed from their seed (splitmix64), for faults and passengers. Never for anything that must be secret.

/// The same seed gives the same numbers, always.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `limit`, the limit excluded; 0 when it is 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next().checked_rem(limit).unwrap_or(0)
    }

    /// From 0 to 1, both excluded.
    pub(crate) fn unit(&mut self) -> f64 {
        // 32 bits fit a float exactly.
        let bits = u32::try_from(self.next() >> 32).unwrap_or(u32::MAX);
        (f64::from(bits) + 0.5) / (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_they_stay_in_their_range() {
        let (mut one, mut other) = (Random::new(7), Random::new(7));
        for _ in 0..1000 {
            assert_eq!(one.next(), other.next());
            assert!(one.below(3) < 3);
            other.below(3);
            let unit = one.unit();
            assert!(unit > 0.0 && unit < 1.0 && (unit - other.unit()).abs() < f64::EPSILON);
        }
        assert_eq!(one.below(0), 0);
    }
}
