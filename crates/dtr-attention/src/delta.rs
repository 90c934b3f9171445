//! The gated delta rule: a matrix that is faded, corrected and read at every token.
//!
//! `S <- exp(g_t) S;  u_t = beta_t (v_t - k_t S);  S <- S + k_t^T u_t;  o_t = q_t S`, with `S [D, V]`, `g_t <= 0`, `0 <= beta_t <= 1`.
//!
//! `q` comes in scaled, `k` (and usually `q`) with unit length. Where a token is padding, `g = beta = 0` leaves the state as it is.
//! Reference: Gated Delta Networks, arXiv 2412.06464, eq. 10; the chunked form is its section 3.3.

use burn::prelude::*;
use burn::tensor::ops::FloatTensor;

use crate::backend::{MixerBackend, primitive, tensor};
use crate::chunks;

/// Chunk length of the composed form, a power of two.
const CHUNK: usize = 32;

/// What enters the rule at each token.
///
/// # Shapes
/// `q, k [B, H, T, D]`, `v [B, H, T, V]`, `g, beta [B, H, T]`.
#[derive(Debug, Clone)]
pub struct Inputs<B: Backend> {
    /// Queries, scaled.
    pub q: Tensor<B, 4>,
    /// Keys of unit length.
    pub k: Tensor<B, 4>,
    /// Values.
    pub v: Tensor<B, 4>,
    /// Logarithm of the decay, at most 0.
    pub g: Tensor<B, 3>,
    /// Write strength.
    pub beta: Tensor<B, 3>,
}

impl<B: Backend> Inputs<B> {
    fn narrow(&self, start: usize, length: usize) -> Self {
        let wide = |x: &Tensor<B, 4>| x.clone().narrow(2, start, length);
        let flat = |x: &Tensor<B, 3>| x.clone().narrow(2, start, length);
        Self { q: wide(&self.q), k: wide(&self.k), v: wide(&self.v), g: flat(&self.g), beta: flat(&self.beta) }
    }
}

/// State before the first token, `[B, H, D, V]`.
pub fn empty_state<B: Backend>(shape: [usize; 4], device: &B::Device) -> Tensor<B, 4> {
    Tensor::zeros(shape, device)
}

/// The whole rule from `state` on, by the backend's kernel: outputs `[B, H, T, V]` and the state after the last token.
pub fn scan<B: MixerBackend>(Inputs { q, k, v, g, beta }: Inputs<B>, state: Tensor<B, 4>) -> (Tensor<B, 4>, Tensor<B, 4>) {
    let (time, width) = (q.dims()[2], q.dims()[3]);
    let inputs = [primitive(q), primitive(k), primitive(v), primitive(g), primitive(beta), primitive(state)];
    let joined = tensor::<B, 4>(B::gated_delta(inputs));
    (joined.clone().narrow(2, 0, time), joined.narrow(2, time, width))
}

/// The fallback of [`scan`]: [`chunk`], outputs and state in one tensor because an operation has one result.
pub(crate) fn chunk_composed<B: Backend>([q, k, v, g, beta, state]: [FloatTensor<B>; 6]) -> FloatTensor<B> {
    let inputs = Inputs { q: tensor(q), k: tensor(k), v: tensor(v), g: tensor(g), beta: tensor(beta) };
    let (output, state) = chunk::<B>(inputs, tensor(state), CHUNK);
    primitive(Tensor::cat(vec![output, state], 2))
}

/// The definition, token by token. Returns `[B, H, T, V]` and the state after the last token.
pub fn naive<B: Backend>(inputs: &Inputs<B>, mut state: Tensor<B, 4>) -> (Tensor<B, 4>, Tensor<B, 4>) {
    let mut outputs = Vec::new();
    for t in 0..inputs.q.dims()[2] {
        let (output, next) = recurrent(inputs.narrow(t, 1), state);
        outputs.push(output);
        state = next;
    }
    (Tensor::cat(outputs, 2), state)
}

/// One token with state; `T = 1`. Returns `[B, H, 1, V]` and the next state.
pub fn recurrent<B: Backend>(Inputs { q, k, v, g, beta }: Inputs<B>, state: Tensor<B, 4>) -> (Tensor<B, 4>, Tensor<B, 4>) {
    let state = state * g.exp().unsqueeze_dim(3);
    let correction = (v - k.clone().matmul(state.clone())) * beta.unsqueeze_dim(3);
    let state = state + k.transpose().matmul(correction);
    (q.matmul(state.clone()), state)
}

/// Chunks of `chunk` tokens (a power of two): everything inside a chunk is matrix products, only the state passes from chunk to chunk.
///
/// Within a chunk, with `G = cumsum(g)` and `L[i, j] = exp(G_i - G_j)` for `i >= j`:
/// `T = (I + strict_lower(diag(beta) K K^T * L))^-1`, `U = T diag(beta) V`, `W = T diag(beta exp(G)) K`;
/// then `X = U - W S`, `O = diag(exp(G)) Q S + (Q K^T * L) X`, `S <- exp(G_C) S + (diag(exp(G_C - G)) K)^T X`.
pub fn chunk<B: Backend>(inputs: Inputs<B>, mut state: Tensor<B, 4>, chunk: usize) -> (Tensor<B, 4>, Tensor<B, 4>) {
    let Inputs { q, k, v, g, beta } = inputs;
    let device = q.device();
    let time = q.dims()[2];
    let chunk = chunk.min(time.next_power_of_two());
    let q = chunks::split(q, chunk);
    let k = chunks::split(k, chunk);
    let v = chunks::split(v, chunk);
    let beta = chunks::split(beta.unsqueeze_dim(3), chunk);
    let total = chunks::split(g.unsqueeze_dim(3), chunk).cumsum(3);
    let count = q.dims()[2];

    // exp(G_i - G_j) overflows above the diagonal, so the difference is cut off there before the exponential.
    let lower = chunks::lower::<B>(chunk, 0, &device).unsqueeze::<5>();
    let fade = ((total.clone() - total.clone().transpose()) * lower.clone()).exp() * lower;
    let strict = chunks::lower::<B>(chunk, 1, &device).unsqueeze::<5>();
    let overlap = k.clone().matmul(k.clone().transpose()) * fade.clone() * strict * beta.clone();
    let solve = unit_lower_inverse(overlap);
    let decay = total.clone().exp();
    let u = solve.clone().matmul(v * beta.clone());
    let w = solve.matmul(k.clone() * (beta * decay.clone()));
    let inside = q.clone().matmul(k.clone().transpose()) * fade;
    let q = q * decay.clone();
    let last = total.clone().narrow(3, chunk - 1, 1);
    let k = (k * (last.clone() - total).exp()).transpose();
    let last = last.exp();

    let mut outputs = Vec::with_capacity(count);
    for n in 0..count {
        let at = |x: &Tensor<B, 5>| x.clone().narrow(2, n, 1).squeeze_dim::<4>(2);
        let x = at(&u) - at(&w).matmul(state.clone());
        outputs.push(at(&q).matmul(state.clone()) + at(&inside).matmul(x.clone()));
        state = state * at(&last) + at(&k).matmul(x);
    }
    let output = Tensor::cat(outputs, 2);
    (if count * chunk == time { output } else { output.narrow(2, 0, time) }, state)
}

/// `(I + A)^-1` for strictly lower triangular `A [.., C, C]`, `C` a power of two.
///
/// Blocks are doubled: with `X` the inverse of the diagonal blocks and `A_s` what joins two neighbours, `X <- X - X A_s X`.
/// This is forward substitution by blocks, stable where the series `I - A + A^2 - ..` cancels. No gradient flows through it:
/// one Newton step `X (2 I - (I + A) X)` at the solution leaves the value and carries the exact derivative `-X dA X`.
fn unit_lower_inverse<B: Backend>(a: Tensor<B, 5>) -> Tensor<B, 5> {
    let device = a.device();
    let size = a.dims()[4];
    let one = Tensor::<B, 2>::eye(size, &device).unsqueeze::<5>();
    let constant = a.clone().detach();
    let mut inverse = one.clone();
    let mut block = 1;
    while block < size {
        let join = joins_neighbours::<B>(size, block, &device).unsqueeze::<5>();
        let across = constant.clone() * join;
        inverse = inverse.clone() - if block == 1 { across } else { inverse.clone().matmul(across).matmul(inverse) };
        block *= 2;
    }
    let residual = one.clone().mul_scalar(2.0) - (a + one).matmul(inverse.clone());
    inverse.matmul(residual)
}

/// `[C, C]` with 1 where the row lies in an odd block of length `block` and the column in the even block before it.
fn joins_neighbours<B: Backend>(size: usize, block: usize, device: &B::Device) -> Tensor<B, 2> {
    let mut mask = vec![0.0_f32; size * size];
    for row in 0..size {
        for column in 0..size {
            let (r, c) = (row / block, column / block);
            mask[row * size + column] = f32::from(u8::from(r % 2 == 1 && c + 1 == r));
        }
    }
    Tensor::from_data(TensorData::new(mask, [size, size]), device)
}
