//! Seeded random numbers: the same on every platform.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub(super) struct Draw(ChaCha8Rng);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A stream of its own for each `index`, so that what is drawn for one does not shift another.
    pub(super) fn nth(seed: u64, index: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index);
        Self(rng)
    }

    /// Uniform in `0..bound`; 0 where the bound is 0.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        // The upper half of a 64-bit product: no division, and a bias below 2^-32 * bound.
        ((u64::from(self.0.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    /// Uniform in `0.0..1.0`, 53 bits.
    pub(super) fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `-1.0..1.0`, 24 bits: exact in f32.
    pub(super) fn signed_unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1_u32 << 23) as f32 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_in_their_range_and_reach_its_ends() {
        let mut draw = Draw::new(1);
        let drawn: Vec<u32> = (0..400).map(|_| draw.below(7)).collect();
        assert!((0..7).all(|wanted| drawn.contains(&wanted)));
        assert!(drawn.iter().all(|&number| number < 7));
        assert!((0..400).map(|_| draw.unit()).all(|unit| (0.0..1.0).contains(&unit)));
        let signed: Vec<f32> = (0..400).map(|_| draw.signed_unit()).collect();
        assert!(signed.iter().all(|value| (-1.0..1.0).contains(value)));
        assert!(
            signed.iter().any(|&value| value < -0.9) && signed.iter().any(|&value| value > 0.9)
        );
    }

    #[test]
    fn a_seed_gives_the_same_numbers_and_each_index_others() {
        let first = |mut draw: Draw| [draw.below(1 << 30), draw.below(1 << 30)];
        assert_eq!(first(Draw::new(3)), first(Draw::new(3)));
        assert_eq!(first(Draw::nth(3, 5)), first(Draw::nth(3, 5)));
        assert_ne!(first(Draw::nth(3, 5)), first(Draw::nth(3, 6)));
        assert_ne!(first(Draw::new(3)), first(Draw::new(4)));
    }
}
