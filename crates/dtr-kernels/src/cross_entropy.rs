//! Log-softmax cross-entropy of rows of logits, without the matrix of probabilities.

use rayon::prelude::*;

use crate::simd::{Arithmetic, Kernel, LANES, dispatch, exp};
use crate::threads::for_each;
use crate::view::Rows;

/// `log(sum(exp(x))) - x[target]` of each row; 0 where the target is negative.
///
/// # Panics
/// If targets differ from rows in number, or one lies beyond the width.
pub fn forward(logits: &Rows<'_>, targets: &[i64]) -> Vec<f32> {
    check(logits, targets);
    let mut losses = vec![0.0; targets.len()];
    for_each(losses.par_iter_mut().zip(targets).enumerate(), work(logits), |(row, (loss, &target))| {
        if let Ok(target) = usize::try_from(target) {
            dispatch(Loss { logits: logits.row(row), target, out: loss });
        }
    });
    losses
}

/// Gradient with respect to the logits, `(softmax(x) - [target]) * grad`.
///
/// # Panics
/// As [`forward`], and if gradients differ from rows in number.
pub fn backward(logits: &Rows<'_>, targets: &[i64], grad: &[f32]) -> Vec<f32> {
    check(logits, targets);
    assert_eq!(grad.len(), targets.len(), "one gradient a row");
    let mut by_logits = vec![0.0; logits.count() * logits.width];
    let tasks = by_logits.par_chunks_mut(logits.width.max(1)).zip(targets).zip(grad).enumerate();
    for_each(tasks, 2 * work(logits), |(row, ((by_logits, &target), &grad))| {
        if let Ok(target) = usize::try_from(target) {
            dispatch(LossBackward { logits: logits.row(row), target, grad, by_logits });
        }
    });
    by_logits
}

fn check(logits: &Rows<'_>, targets: &[i64]) {
    assert_eq!(targets.len(), logits.count(), "one target a row");
    assert!(targets.iter().all(|&target| target < logits.width as i64), "a target beyond the {} classes", logits.width);
}

/// Multiplications, about.
fn work(logits: &Rows<'_>) -> usize {
    logits.count() * logits.width * 12
}

struct Loss<'a> {
    logits: &'a [f32],
    target: usize,
    out: &'a mut f32,
}

impl Kernel for Loss<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let highest = highest::<A>(self.logits);
        // Sums by lane, then over the lanes: as exact as a pairwise sum of a few parts.
        let mut sums = [0.0; 4 * LANES];
        let mut parts = self.logits.chunks_exact(4 * LANES);
        for part in &mut parts {
            for (sum, &x) in sums.iter_mut().zip(part) {
                *sum += exp::<A>(x - highest);
            }
        }
        for (sum, &x) in sums.iter_mut().zip(parts.remainder()) {
            *sum += exp::<A>(x - highest);
        }
        *self.out = sums.iter().sum::<f32>().ln() + highest - self.logits[self.target];
    }
}

#[inline(always)]
fn highest<A: Arithmetic>(numbers: &[f32]) -> f32 {
    let mut best = A::splat(f32::MIN);
    let mut parts = numbers.chunks_exact(LANES);
    for part in &mut parts {
        best = A::max(best, A::load(part));
    }
    let mut lanes = [0.0; LANES];
    A::store(best, &mut lanes);
    lanes.iter().chain(parts.remainder()).copied().fold(f32::MIN, f32::max)
}

struct LossBackward<'a> {
    logits: &'a [f32],
    target: usize,
    grad: f32,
    by_logits: &'a mut [f32],
}

impl Kernel for LossBackward<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let highest = highest::<A>(self.logits);
        let mut sums = [0.0; 4 * LANES];
        for (to, from) in self.by_logits.chunks_mut(4 * LANES).zip(self.logits.chunks(4 * LANES)) {
            for ((to, &x), sum) in to.iter_mut().zip(from).zip(&mut sums) {
                *to = exp::<A>(x - highest);
                *sum += *to;
            }
        }
        let share = self.grad / sums.iter().sum::<f32>();
        for to in self.by_logits.iter_mut() {
            *to *= share;
        }
        self.by_logits[self.target] -= self.grad;
    }
}
