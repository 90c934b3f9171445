//! How sure a score is.

/// Two-sided 95 % of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// Wilson's score interval of a share `p` found on `n` examples,
/// `(p + z^2/2n ± z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n)`, with 95 % confidence.
///
/// Where an example scores 0 or 1, `p (1 - p)` is the variance; scores between them vary less, and the interval is then wider than it
/// need be. `None` without examples, or where the score is no share.
///
/// # Reference
/// Wilson, Probable inference, the law of succession, and statistical inference (1927).
pub fn wilson(p: f64, n: usize) -> Option<[f64; 2]> {
    if n == 0 || !(0.0..=1.0).contains(&p) {
        return None;
    }
    let n = n as f64;
    let (square, whole) = (Z * Z, 1.0 + Z * Z / n);
    let middle = (p + square / (2.0 * n)) / whole;
    let half = Z * (p * (1.0 - p) / n + square / (4.0 * n * n)).sqrt() / whole;
    Some([(middle - half).max(0.0), (middle + half).min(1.0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(right: f64, n: usize, expected: [f64; 2]) {
        let found = wilson(right / n as f64, n).expect("a share");
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 5e-5), "{right} of {n}: {found:?}, expected {expected:?}");
    }

    /// Newcombe, Two-sided confidence intervals for the single proportion (1998), table I, method 3.
    #[test]
    fn published_intervals_are_met() {
        check(81.0, 263, [0.2553, 0.3662]);
        check(15.0, 148, [0.0624, 0.1605]);
        check(0.0, 20, [0.0, 0.1611]);
        check(1.0, 29, [0.0061, 0.1718]);
    }

    #[test]
    fn nothing_is_said_without_examples() {
        assert_eq!(wilson(0.5, 0), None);
        assert_eq!(wilson(f64::NAN, 10), None);
    }
}
