//! One step of `AdamW`, with or without Nesterov's momentum, number by number: every weight, gradient and moment is read once and written once.

use rayon::prelude::*;

use crate::simd::{Arithmetic, Kernel, LANES, dispatch};
use crate::threads::for_each;

/// Numbers that one task handles.
const TASK: usize = 1 << 13;

/// Divisions and roots count for many multiplications.
const WORK: usize = 16;

/// The numbers of a step; those that depend on how many steps came before are in them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// How much remains of a weight before it is moved.
    pub keep: f32,
    /// Learning rates of the first moment and of the gradient, over their biases.
    pub rates: [f32; 2],
    /// `1 / (1 - beta_2^t)`.
    pub unbias: f32,
    /// Decay of both moments.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
}

/// `m' = b1 m + (1 - b1) g`; `v' = b2 v + (1 - b2) g^2`; `w' = keep w - (r1 m' + r2 g) / (sqrt(v' unbias) + eps)`.
/// Returns `[w', m', v']`.
///
/// # Panics
/// If lengths differ.
pub fn step(weights: &[f32], grad: &[f32], moments: [&[f32]; 2], step: Step) -> [Vec<f32>; 3] {
    let length = weights.len();
    assert!([grad, moments[0], moments[1]].iter().all(|each| each.len() == length), "as many gradients and moments as weights");
    let [mut w, mut m, mut v] = [(); 3].map(|()| vec![0.0; length]);
    let tasks = w.par_chunks_mut(TASK).zip(m.par_chunks_mut(TASK)).zip(v.par_chunks_mut(TASK)).enumerate();
    for_each(tasks, length * WORK, |(task, ((w, m), v))| {
        let part = task * TASK..task * TASK + w.len();
        let [weights, grad, first, second] = [weights, grad, moments[0], moments[1]].map(|each| &each[part.clone()]);
        dispatch(AdamW { from: [weights, grad, first, second], to: [w, m, v], step });
    });
    [w, m, v]
}

struct AdamW<'a> {
    from: [&'a [f32]; 4],
    to: [&'a mut [f32]; 3],
    step: Step,
}

impl Kernel for AdamW<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let ([w, grad, m, v], [to_w, to_m, to_v]) = (self.from.map(<[f32]>::as_chunks), self.to.map(<[f32]>::as_chunks_mut));
        let whole = to_w.0.iter_mut().zip(to_m.0).zip(to_v.0).zip(w.0.iter().zip(grad.0)).zip(m.0.iter().zip(v.0));
        for ((((to_w, to_m), to_v), (w, grad)), (m, v)) in whole {
            [*to_w, *to_m, *to_v] = moved::<A>([w, grad, m, v], self.step);
        }
        let filled = |part: &[f32]| {
            let mut filled = [0.0; LANES];
            filled[..part.len()].copy_from_slice(part);
            filled
        };
        let rest = moved::<A>([&filled(w.1), &filled(grad.1), &filled(m.1), &filled(v.1)], self.step);
        for (to, rest) in [to_w.1, to_m.1, to_v.1].into_iter().zip(rest) {
            to.copy_from_slice(&rest[..to.len()]);
        }
    }
}

/// On arrays, which cannot overlap: with as many slices the compiler gives up on vectors.
#[inline(always)]
fn moved<A: Arithmetic>([w, grad, m, v]: [&[f32; LANES]; 4], step: Step) -> [[f32; LANES]; 3] {
    let Step { keep, rates: [of_first, of_grad], unbias, betas: [b1, b2], eps } = step;
    let [mut to_w, mut to_m, mut to_v] = [[0.0; LANES]; 3];
    for i in 0..LANES {
        to_m[i] = A::fused(b1, m[i], (1.0 - b1) * grad[i]);
        to_v[i] = A::fused(b2, v[i], (1.0 - b2) * grad[i] * grad[i]);
        let moved = A::fused(of_first, to_m[i], of_grad * grad[i]) / ((to_v[i] * unbias).sqrt() + eps);
        to_w[i] = A::fused(keep, w[i], -moved);
    }
    [to_w, to_m, to_v]
}
