//! How sure one can be of what examples say: bounds and tests on pairs.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution};
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// Resamples of a bootstrap: the 1 % quantile then rests on forty of them.
const RESAMPLES: usize = 4000;

/// Lower end of a one-sided confidence interval for `E[own] / E[parent]`, given `(own, parent)` of the same examples, by the
/// percentile bootstrap over examples: it lies above the truth with a probability of about `error`. The same for the same pairs.
///
/// A resample cannot hold what the sample lacks: losses too rare to be among the examples would count as impossible. So one lost
/// example is added to those that are there.
///
/// Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
///
/// # Panics
/// If there are no pairs.
pub fn lower_bound(pairs: &[(f32, f32)], error: f64) -> f64 {
    let mut sorted = pairs.to_vec();
    sorted.push((0.0, 1.0));
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    // Scores take few values: how often each pair occurs in a resample is all that its ratio depends on.
    let groups: Vec<((f64, f64), u64)> =
        sorted.chunk_by(|a, b| a == b).map(|group| ((f64::from(group[0].0), f64::from(group[0].1)), group.len() as u64)).collect();
    let mut random = ChaCha8Rng::seed_from_u64(pairs.len() as u64);
    let mut ratios: Vec<f64> = (0..RESAMPLES).map(|_| resampled_ratio(&groups, sorted.len() as u64, &mut random)).collect();
    let rank = ((error * RESAMPLES as f64) as usize).min(RESAMPLES - 1);
    *ratios.select_nth_unstable_by(rank, f64::total_cmp).1
}

/// Ratio of the sums over as many draws with replacement as there are pairs: group by group, given how many draws are left.
/// Scores that are no numbers, or a parent that scores nothing, count as the worst.
fn resampled_ratio(groups: &[((f64, f64), u64)], count: u64, random: &mut ChaCha8Rng) -> f64 {
    let (mut draws, mut pairs) = (count, count);
    let (mut own, mut parent) = (0.0, 0.0);
    for &(value, size) in groups {
        let share = (size as f64 / pairs as f64).min(1.0);
        let taken = Binomial::new(draws, share).expect("a share is a probability").sample(random);
        own += value.0 * taken as f64;
        parent += value.1 * taken as f64;
        (draws, pairs) = (draws - taken, pairs - size);
        if draws == 0 {
            break;
        }
    }
    let ratio = own / parent;
    if ratio.is_finite() { ratio } else { f64::NEG_INFINITY }
}

/// Whether the mean of `all` values, of which `values` are a random part, is negative, at a one-sided error of `error`: the normal
/// approximation for draws without replacement, `mean + z(1 - error) sd sqrt((1 - n / all) / n) < 0`.
///
/// Cochran, Sampling Techniques (1977), equation 2.20.
pub fn is_negative(values: impl Iterator<Item = f64> + Clone, all: usize, error: f64) -> bool {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    mean + quantile(1.0 - error) * (variance * (1.0 - count / all as f64) / count).sqrt() < 0.0
}

/// Mean, and half of its 95 % interval by Student's t; that half is NaN for fewer than two values.
///
/// # Panics
/// Never.
pub fn mean_and_margin(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    if values.len() < 2 {
        return (mean, f64::NAN);
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let t = StudentsT::new(0.0, 1.0, count - 1.0).expect("at least one degree of freedom").inverse_cdf(0.975);
    (mean, t * (variance / count).sqrt())
}

/// Quantile of the standard normal distribution.
fn quantile(probability: f64) -> f64 {
    Normal::standard().inverse_cdf(probability)
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn scores_that_say_nothing_give_no_bound() {
        assert!(lower_bound(&[(0.0, 0.0); 40], 0.05) <= 0.0, "no ratio, no bound");
        assert!(lower_bound(&[(f32::NAN, 1.0); 40], 0.05) < 0.0);
    }

    /// Few examples and rare losses: the hybrid keeps nine in ten, and often all of what is looked at.
    #[test]
    fn bound_holds_where_no_loss_was_seen() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let (trials, error) = (1000, 0.1);
        let above = (0..trials).filter(|_| {
            let pairs: Vec<(f32, f32)> = (0..24).map(|_| (f32::from(u8::from(random.random::<f64>() >= 0.1)), 1.0)).collect();
            lower_bound(&pairs, error) > 0.9
        });
        let rate = above.count() as f64 / f64::from(trials);
        assert!(rate <= error, "{rate}");
    }

    #[test]
    fn quantiles_are_those_of_tables() {
        assert!((quantile(0.95) - 1.644_853_626_951).abs() < 1e-9);
        assert!((quantile(0.975) - 1.959_963_984_540).abs() < 1e-9);
        // Four degrees of freedom: t = 2.776; the standard error of 1, 2, 3, 4, 5 is sqrt(1/2).
        let (mean, margin) = mean_and_margin(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert!((mean - 3.0).abs() < 1e-12 && (margin - 2.776_445_105 * 0.5_f64.sqrt()).abs() < 1e-6, "{mean} {margin}");
    }

    /// A parent that is right four times in five, and a hybrid that keeps exactly 95 % of that: it loses some examples and wins others.
    #[test]
    fn bound_is_above_the_truth_as_often_as_stated() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let (trials, error) = (1000, 0.05);
        let above = (0..trials).filter(|_| {
            let draw = |random: &mut ChaCha8Rng| match random.random::<f64>() {
                x if x < 0.08 => (0.0, 1.0),
                x if x < 0.8 => (1.0, 1.0),
                x if x < 0.84 => (1.0, 0.0),
                _ => (0.0, 0.0),
            };
            let pairs: Vec<(f32, f32)> = (0..400).map(|_| draw(&mut random)).collect();
            lower_bound(&pairs, error) > 0.95
        });
        let rate = above.count() as f64 / f64::from(trials);
        // Three standard errors of a rate of 5 % in 1000 trials are 2 %; the added example makes it lower.
        assert!((0.015..0.07).contains(&rate), "{rate}");
    }
}
