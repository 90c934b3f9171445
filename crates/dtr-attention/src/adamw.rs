//! One step of `AdamW`. It is no mixing of tokens, but students are small and many: composed of a dozen operations, their optimisers
//! take a noticeable share of distillation on a CPU.

use burn::prelude::*;
use burn::tensor::ops::FloatTensor;

use crate::backend::{MixerBackend, primitive, tensor};

/// The numbers of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Learning rate.
    pub rate: f64,
    /// Decoupled weight decay.
    pub decay: f64,
    /// Decay of the first and the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Nesterov's momentum: the first moment as it will be after one more step, were the next gradient none.
    pub nesterov: bool,
    /// Which step it is, from 1.
    pub time: usize,
}

impl Step {
    /// How much remains of a weight before it is moved.
    pub(crate) fn keep(&self) -> f64 {
        1.0 - self.rate * self.decay
    }

    /// What makes up for a moment that begins at 0, after `time` steps.
    fn unbiased(beta: f64, time: usize) -> f64 {
        (1.0 - beta.powf(time as f64)).recip()
    }

    /// The same of the second moment, now.
    pub(crate) fn unbias(&self) -> f64 {
        Self::unbiased(self.betas[1], self.time)
    }

    /// Learning rates of the first moment and of the gradient.
    pub(crate) fn rates(&self) -> [f64; 2] {
        let ([beta, _], now) = (self.betas, Self::unbiased(self.betas[0], self.time));
        let rates = if self.nesterov { [beta * Self::unbiased(beta, self.time + 1), (1.0 - beta) * now] } else { [now, 0.0] };
        rates.map(|rate| rate * self.rate)
    }
}

/// `m' = b1 m + (1 - b1) g`, `v' = b2 v + (1 - b2) g^2`, `w' = (1 - rate decay) w - rate n / (sqrt(v' / (1 - b2^t)) + eps)` with
/// `n = m' / (1 - b1^t)`, or, by Nesterov, `n = b1 m' / (1 - b1^(t + 1)) + (1 - b1) g / (1 - b1^t)`. Returns `w'` and `[m', v']`.
///
/// # Shapes
/// All equal.
///
/// # Reference
/// Loshchilov and Hutter, arXiv 1711.05101, algorithm 2; Dozat, "Incorporating Nesterov momentum into Adam", 2016, algorithm 8, with one
/// `b1` for all steps.
pub fn step<B: MixerBackend, const R: usize>(
    weight: Tensor<B, R>,
    grad: Tensor<B, R>,
    moments: [Tensor<B, R>; 2],
    step: Step,
) -> (Tensor<B, R>, [Tensor<B, R>; 2]) {
    let [weight, first, second] = B::adamw(primitive(weight), primitive(grad), moments.map(primitive), step);
    (tensor(weight), [tensor(first), tensor(second)])
}

/// The definition of [`step`].
pub(crate) fn composed<B: Backend>(
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    moments: [FloatTensor<B>; 2],
    step: Step,
) -> [FloatTensor<B>; 3] {
    let shape = burn::tensor::TensorMetadata::shape(&weight);
    let flat = |x| tensor::<B, 1>(B::float_reshape(x, [shape.num_elements()].into()));
    let (weight, grad, [m, v]) = (flat(weight), flat(grad), moments.map(flat));
    let ([b1, b2], [of_first, of_grad]) = (step.betas, step.rates());
    let m = m.mul_scalar(b1) + grad.clone().mul_scalar(1.0 - b1);
    let v = v.mul_scalar(b2) + grad.clone().square().mul_scalar(1.0 - b2);
    let ahead = m.clone().mul_scalar(of_first) + grad.mul_scalar(of_grad);
    let moved = ahead / v.clone().mul_scalar(step.unbias()).sqrt().add_scalar(step.eps);
    let weight = weight.mul_scalar(step.keep()) - moved;
    [weight, m, v].map(|x| B::float_reshape(primitive(x), shape.clone()))
}
