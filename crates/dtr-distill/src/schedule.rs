//! Learning rate over the run: linear warm-up, then half a cosine to zero.

/// Learning rate of `step` (from 0) out of `steps`; `warmup` is the share of steps spent rising to `peak`.
pub fn warmup_cosine(step: usize, steps: usize, peak: f64, warmup: f64) -> f64 {
    let rising = (warmup * steps as f64).ceil();
    let step = step as f64;
    if step < rising {
        return peak * (step + 1.0) / rising;
    }
    let done = (step - rising) / (steps as f64 - rising).max(1.0);
    peak * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
}

#[cfg(test)]
mod tests {
    use super::warmup_cosine;

    #[test]
    fn rises_then_falls_to_zero() {
        let rate = |step| warmup_cosine(step, 100, 1.0, 0.1);
        assert!((rate(0) - 0.1).abs() < 1e-12);
        assert!((rate(9) - 1.0).abs() < 1e-12);
        assert!((rate(10) - 1.0).abs() < 1e-12);
        assert!((rate(55) - 0.5).abs() < 1e-12);
        assert!(rate(99) < 1e-3);
        assert!((10..99).all(|step| rate(step) > rate(step + 1)));
    }
}
