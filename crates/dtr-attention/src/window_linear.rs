//! Softmax over a window of late tokens and linear attention over all earlier ones, normalised together.
//!
//! `o_i = (gamma sum_near exp(s_ij - c_i) v_j + sum_far phi(q_i) phi(k_j) v_j) / (gamma sum_near exp(s_ij - c_i) + sum_far phi(q_i) phi(k_j))`
//! with `s_ij = scale q_i k_j`, `c_i` the largest of them, near: `i - j < window`, far: all earlier tokens.
//!
//! The state is the linear attention's and the window's keys, values and key features. Reference: `LoLCATs`, arXiv 2410.10254, eq. 6.

use burn::prelude::*;

use crate::backend::MixerBackend;
use crate::linear;

/// What enters at each token.
#[derive(Debug, Clone)]
pub struct Inputs<B: Backend> {
    /// `[B, H, T, D]`.
    pub q: Tensor<B, 4>,
    /// `[B, H, T, D]`.
    pub k: Tensor<B, 4>,
    /// `[B, H, T, V]`.
    pub v: Tensor<B, 4>,
    /// Features of the queries, at least 0, `[B, H, T, F]`.
    pub q_features: Tensor<B, 4>,
    /// Features of the keys, at least 0, `[B, H, T, F]`.
    pub k_features: Tensor<B, 4>,
    /// Weight of the window, `[H]`.
    pub gamma: Tensor<B, 1>,
    /// 1 for tokens, 0 for padding, `[B, T]`; `None` without padding, which may only stand in front.
    pub tokens: Option<Tensor<B, 2>>,
}

/// What is kept between calls.
#[derive(Debug, Clone)]
pub struct State<B: Backend> {
    /// Sums over all tokens that have left the window, `[B, H, F, V + 1]`.
    pub sums: Tensor<B, 4>,
    /// The last `window` tokens' keys, values, key features and whether they are tokens: `[B, H, window, D + V + F + 1]`.
    pub late: Tensor<B, 4>,
}

/// State before the first token. `shape` is `[B, H, D, V, F]`.
pub fn empty_state<B: Backend>([batch, heads, width, value, features]: [usize; 5], window: usize, device: &B::Device) -> State<B> {
    State {
        sums: linear::empty_state([batch, heads, features, value], device),
        late: Tensor::zeros([batch, heads, window, width + value + features + 1], device),
    }
}

/// The definition, quadratic in time, from no state.
pub fn naive<B: Backend>(inputs: &Inputs<B>, window: usize, scale: f64) -> Tensor<B, 4> {
    let (device, time, heads) = (inputs.q.device(), inputs.q.dims()[2], inputs.gamma.dims()[0]);
    let ones = Tensor::<B, 2>::ones([time, time], &device);
    let past = ones.clone().tril(0).unsqueeze::<4>();
    let far = ones.tril(-(window as i64)).unsqueeze::<4>();
    let tokens = inputs.tokens.clone().map(|tokens| tokens.unsqueeze_dims::<4>(&[1, 2]));
    let (near, far) = match tokens {
        Some(tokens) => ((past - far.clone()) * tokens.clone(), far * tokens),
        None => (past - far.clone(), far),
    };
    let scores = inputs.q.clone().matmul(inputs.k.clone().transpose()).mul_scalar(scale);
    let near = softened(scores, near) * inputs.gamma.clone().reshape([1, heads, 1, 1]);
    let far = inputs.q_features.clone().matmul(inputs.k_features.clone().transpose()) * far;
    let weights = near + far;
    weights.clone().matmul(inputs.v.clone()) / weights.sum_dim(3).add_scalar(linear::EPS)
}

/// `exp(score - largest)` where `seen` is 1, else 0. The largest among those seen counts.
fn softened<B: Backend>(scores: Tensor<B, 4>, seen: Tensor<B, 4>) -> Tensor<B, 4> {
    let seen = seen.expand(scores.shape());
    let scores = scores.mask_fill(seen.clone().equal_elem(0.0), -1e30);
    let largest = scores.clone().max_dim(3);
    (scores - largest).exp() * seen
}

/// Blocks of `window` queries against the keys of their own and the block before; linear attention by the backend's kernel.
///
/// Linear in time; prefill and, with `T = 1`, decoding. Returns `[B, H, T, V]` and the state after the last token.
///
/// # Panics
/// If `window` is 0 or not that of `state`.
pub fn scan<B: MixerBackend>(inputs: Inputs<B>, state: State<B>, window: usize, scale: f64) -> (Tensor<B, 4>, State<B>) {
    assert!(window > 0 && state.late.dims()[2] == window, "a state of a window of {window} tokens");
    let [batch, heads, time, width] = inputs.q.dims();
    let (value, device) = (inputs.v.dims()[3], inputs.q.device());
    let valid = match inputs.tokens {
        Some(tokens) => tokens.reshape([batch, 1, time, 1]).expand([batch, heads, time, 1]),
        None => Tensor::ones([batch, heads, time, 1], &device),
    };
    // The window before the first token, then the tokens: column `window + t` is token `t`.
    let all = Tensor::cat(vec![state.late, Tensor::cat(vec![inputs.k, inputs.v, inputs.k_features, valid], 3)], 2);
    let features = inputs.q_features.dims()[3];
    let part = |x: &Tensor<B, 4>, from: usize, length: usize| x.clone().narrow(3, from, length);

    // A token enters the sums when it leaves the window: as many tokens as come in.
    let leaving = all.clone().narrow(2, 0, time);
    let left = part(&leaving, width + value + features, 1);
    let written = Tensor::cat(vec![part(&leaving, width, value), Tensor::ones([batch, heads, time, 1], &device)], 3);
    let far = crate::recurrence::Inputs::new(inputs.q_features, part(&leaving, width + value, features) * left, written);
    let (far, sums) = crate::recurrence::scan(far, state.sums);

    let gamma: Tensor<B, 4> = inputs.gamma.reshape([1, heads, 1, 1]);
    let blocks = (0..time).step_by(window).map(|start| {
        let length = window.min(time - start);
        // Query `start + i` sees columns `start + i + 1 ..= start + i + window`.
        let keys = all.clone().narrow(2, start + 1, window + length - 1);
        let shape = [length, window + length - 1];
        let ones = Tensor::<B, 2>::ones(shape, &device);
        let band = ones.clone().tril(window as i64 - 1) - ones.tril(-1);
        let seen = band.unsqueeze::<4>() * part(&keys, width + value + features, 1).transpose();
        let scores = inputs.q.clone().narrow(2, start, length).matmul(part(&keys, 0, width).transpose()).mul_scalar(scale);
        let weights = softened(scores, seen) * gamma.clone();
        Tensor::cat(vec![weights.clone().matmul(part(&keys, width, value)), weights.sum_dim(3)], 3)
    });
    let near = Tensor::cat(blocks.collect(), 2);
    let state = State { sums, late: all.narrow(2, time, window) };
    (linear::normalised(near + far), state)
}
