//! Random streams by name: what is drawn for one purpose never depends on what is drawn for another.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// FNV-1a, 64 bits.
pub fn fnv1a(text: impl AsRef<[u8]>) -> u64 {
    text.as_ref().iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

/// The stream called `name`.
pub fn stream(name: &str) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(fnv1a(name))
}
