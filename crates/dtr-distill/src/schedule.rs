//! Learning rate over the run: linear warm-up, then down to zero.

use serde::{Deserialize, Serialize};

/// How the learning rate falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Along half a cosine. Loshchilov and Hutter, arXiv 1608.03983.
    #[default]
    Cosine,
    /// In a straight line. Bergsma et al., arXiv 2502.15938.
    Linear,
}

impl Schedule {
    /// Learning rate of `step` (from 0) out of `steps` as a share of the largest; `warmup` is the share of steps spent rising to it.
    pub fn share(self, step: usize, steps: usize, warmup: f64) -> f64 {
        let rising = (warmup * steps as f64).ceil();
        let step = step as f64;
        if step < rising {
            return (step + 1.0) / rising;
        }
        let done = (step - rising) / (steps as f64 - rising).max(1.0);
        match self {
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            Self::Linear => 1.0 - done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;

    #[test]
    fn rises_then_falls_to_zero() {
        for schedule in [Schedule::Cosine, Schedule::Linear] {
            let rate = |step| schedule.share(step, 100, 0.1);
            assert!((rate(0) - 0.1).abs() < 1e-12);
            assert!((rate(9) - 1.0).abs() < 1e-12);
            assert!((rate(10) - 1.0).abs() < 1e-12);
            assert!((rate(55) - 0.5).abs() < 1e-12);
            assert!(rate(99) < 0.02);
            assert!((10..99).all(|step| rate(step) > rate(step + 1)));
        }
        assert!(Schedule::Cosine.share(30, 100, 0.1) > Schedule::Linear.share(30, 100, 0.1));
    }
}
