//! The random source of what the ledger keeps for ever, so that a simulation can put a seed in its stead.

/// Fills `bytes` with random ones.
///
/// # Errors
/// The system's random source does not answer.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    #[cfg(test)]
    #[cfg(feature = "sandbox")]
    if crate::clock::simulated::fill_random(bytes) {
        return Ok(());
    }
    getrandom::fill(bytes)
}

/// Whether nothing may be left to chance: only in simulations.
pub(crate) fn is_seeded() -> bool {
    #[cfg(test)]
    #[cfg(feature = "sandbox")]
    if crate::clock::simulated::is_installed() {
        return true;
    }
    false
}
