//! Matrix-valued recurrences: a matrix that is faded, written to and read at every token.
//!
//! `S' = diag(exp(g_t)) S_(t-1);  u_t = v_t` or, by the delta rule, `u_t = beta_t (v_t - k_t S');  S_t = S' + k_t^T u_t;
//! o_t = q_t S_t`, with `S [D, V]`.
//!
//! Two choices make the family, decay (none, one number a head, one a channel) and rule (additive or delta):
//!
//! | decay | additive | delta, `0 <= beta <= 1` |
//! |---|---|---|
//! | none | linear attention (arXiv 2006.16236), with a feature map | `DeltaNet` (2406.06484) |
//! | a head, fixed | retention (2307.08621), see [`retention_decay`] | |
//! | a head | Mamba-2 (2405.21060), see [`crate::mamba2`] | Gated `DeltaNet` (2412.06464) |
//! | a channel | gated linear attention, GLA (2312.06635) | Kimi delta attention (2510.26692) |
//!
//! All cost `O(D V)` a token and keep `D V` numbers a head. `q` comes in scaled; by the delta rule `k` has unit length.
//! `beta` up to 2 gives negative eigenvalues (arXiv 2411.12537) and is as stable. Padding must neither write nor fade: see
//! [`Inputs::without_padding`]. A decay of minus infinity forgets all that was before. What is no number in an input is no
//! number in every later output of its head, and nowhere else.

use burn::prelude::*;
use burn::tensor::ops::FloatTensor;

use crate::backend::{MixerBackend, primitive, tensor};
use crate::chunks;
use crate::precision::{like, single};

/// Chunk length of the composed form where decays go by head, a power of two.
const CHUNK: usize = 32;

/// And where they go by channel: the form then has `C^2 D` numbers a chunk.
const CHUNK_BY_CHANNEL: usize = 16;

/// What enters the recurrence, for tensors or primitives `T`.
#[derive(Debug, Clone)]
pub struct RecurrenceInputs<T> {
    /// `[B, H, T, D]`.
    pub q: T,
    /// `[B, H, T, D]`.
    pub k: T,
    /// `[B, H, T, V]`.
    pub v: T,
    /// `[B, H, T, 1 or D]`.
    pub g: Option<T>,
    /// `[B, H, T]`.
    pub beta: Option<T>,
    /// `[B, H, D, V]`.
    pub state: T,
}

impl<T> RecurrenceInputs<T> {
    /// Each of them through `f`.
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> RecurrenceInputs<U> {
        RecurrenceInputs {
            q: f(self.q),
            k: f(self.k),
            v: f(self.v),
            g: self.g.map(&mut f),
            beta: self.beta.map(&mut f),
            state: f(self.state),
        }
    }

    /// Each of them with its counterpart.
    #[must_use]
    pub fn zip<U>(self, other: RecurrenceInputs<U>) -> RecurrenceInputs<(T, U)> {
        RecurrenceInputs {
            q: (self.q, other.q),
            k: (self.k, other.k),
            v: (self.v, other.v),
            g: self.g.zip(other.g),
            beta: self.beta.zip(other.beta),
            state: (self.state, other.state),
        }
    }

    /// One after the other, in the order of [`RecurrenceInputs::map`].
    pub fn list(self) -> Vec<T> {
        let mut all = Vec::with_capacity(6);
        self.map(|input| all.push(input));
        all
    }
}

/// What enters the recurrence at each token.
#[derive(Debug, Clone)]
pub struct Inputs<B: Backend> {
    /// Queries, scaled, `[B, H, T, D]`.
    pub q: Tensor<B, 4>,
    /// Keys, `[B, H, T, D]`.
    pub k: Tensor<B, 4>,
    /// Values, `[B, H, T, V]`.
    pub v: Tensor<B, 4>,
    /// Logarithm of the decay, at most 0: `[B, H, T, 1]` for a head, `[B, H, T, D]` for its channels; `None`: nothing fades.
    pub g: Option<Tensor<B, 4>>,
    /// Write strength of the delta rule, `[B, H, T]`; `None`: the additive rule.
    pub beta: Option<Tensor<B, 3>>,
}

/// Shapes that do not belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeError {
    /// The tensor.
    pub what: &'static str,
    /// Its shape as the others want it.
    pub expected: Vec<usize>,
    /// Its shape.
    pub found: Vec<usize>,
}

impl std::fmt::Display for ShapeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} has the shape {:?}, but the other inputs of the recurrence want {:?}", self.what, self.found, self.expected)
    }
}

impl std::error::Error for ShapeError {}

impl<B: Backend> Inputs<B> {
    /// The additive rule without decay.
    pub fn new(q: Tensor<B, 4>, k: Tensor<B, 4>, v: Tensor<B, 4>) -> Self {
        Self { q, k, v, g: None, beta: None }
    }

    /// With a decay.
    #[must_use]
    pub fn fading(self, g: Tensor<B, 4>) -> Self {
        Self { g: Some(g), ..self }
    }

    /// By the delta rule.
    #[must_use]
    pub fn correcting(self, beta: Tensor<B, 3>) -> Self {
        Self { beta: Some(beta), ..self }
    }

    /// Tokens where `tokens [B, T]` is 0 leave the state as it is; their outputs mean nothing.
    #[must_use]
    pub fn without_padding(self, tokens: Tensor<B, 2>) -> Self {
        let [batch, time] = tokens.dims();
        let tokens: Tensor<B, 4> = tokens.reshape([batch, 1, time, 1]);
        // Without a key nothing is written, and by the delta rule nothing is taken back.
        Self { k: self.k * tokens.clone(), g: self.g.map(|g| g * tokens), ..self }
    }

    /// Whether all shapes belong together, that of `state` included.
    ///
    /// # Errors
    /// Names the first that does not.
    pub fn check(&self, state: &Tensor<B, 4>) -> Result<(), ShapeError> {
        let [batch, heads, time, width] = self.q.dims();
        let values = self.v.dims()[3];
        let like = |what, found: &[usize], expected: &[usize]| {
            if found == expected { Ok(()) } else { Err(ShapeError { what, expected: expected.to_vec(), found: found.to_vec() }) }
        };
        like("k", &self.k.dims(), &[batch, heads, time, width])?;
        like("v", &self.v.dims(), &[batch, heads, time, values])?;
        if let Some(g) = &self.g {
            let wanted = if g.dims()[3] == width { width } else { 1 };
            like("g", &g.dims(), &[batch, heads, time, wanted])?;
        }
        if let Some(beta) = &self.beta {
            like("beta", &beta.dims(), &[batch, heads, time])?;
        }
        like("the state", &state.dims(), &[batch, heads, width, values])
    }

    /// The tokens from `start` on.
    #[must_use]
    pub fn narrow(&self, start: usize, length: usize) -> Self {
        let wide = |x: &Tensor<B, 4>| x.clone().narrow(2, start, length);
        Self {
            q: wide(&self.q),
            k: wide(&self.k),
            v: wide(&self.v),
            g: self.g.as_ref().map(wide),
            beta: self.beta.as_ref().map(|beta| beta.clone().narrow(2, start, length)),
        }
    }
}

/// State before the first token, `[B, H, D, V]`.
pub fn empty_state<B: Backend>(shape: [usize; 4], device: &B::Device) -> Tensor<B, 4> {
    Tensor::zeros(shape, device)
}

/// Logarithm of the decay of retention, `ln(1 - 2^(-5 - h))` for head `h`: `[1, H, 1, 1]`, to be expanded over batch and time.
///
/// # Reference
/// arXiv 2307.08621, section 3.2.
pub fn retention_decay<B: Backend>(heads: usize, device: &B::Device) -> Tensor<B, 4> {
    let decays: Vec<f64> = (0..heads).map(|head| (-f64::from(-5 - head as i32).exp2()).ln_1p()).collect();
    Tensor::from_data(TensorData::new(decays, [1, heads, 1, 1]).convert::<f32>(), device)
}

/// The whole recurrence from `state` on, by the backend's kernel and in single precision at least: outputs `[B, H, T, V]` and the state after the last token.
///
/// # Panics
/// If shapes do not belong together, see [`Inputs::check`].
pub fn scan<B: MixerBackend>(inputs: Inputs<B>, state: Tensor<B, 4>) -> (Tensor<B, 4>, Tensor<B, 4>) {
    inputs.check(&state).unwrap_or_else(|error| panic!("{error}"));
    let (shape, last, dtype) = (inputs.v.dims(), state.dims(), inputs.v.dtype());
    let Inputs { q, k, v, g, beta } = inputs;
    let result = B::recurrence(RecurrenceInputs {
        q: primitive(single(q)),
        k: primitive(single(k)),
        v: primitive(single(v)),
        g: g.map(|g| primitive(single(g))),
        beta: beta.map(|beta| primitive(single(beta))),
        state: primitive(single(state)),
    });
    let (output, state) = parted(tensor(result), shape, last);
    (like(output, dtype), state)
}

/// A number a token, `[B, H, T]`, as `[B, H, T, 1]`.
///
/// By a dimension in front that is moved behind: where the last dimension has length 1 and the tensor is not contiguous, such as `[B, T, H]` with its
/// heads in front of a single token, Burn 0.21 adds a last dimension wrongly on the backends of `CubeCL` (`burn_std::tensor::split_strides`).
pub fn column<B: Backend>(x: Tensor<B, 3>) -> Tensor<B, 4> {
    x.unsqueeze::<4>().permute([1, 2, 3, 0])
}

/// Outputs and states from a tensor that has them one after the other: contiguous both.
pub(crate) fn parted<B: Backend>(joined: Tensor<B, 1>, outputs: [usize; 4], states: [usize; 4]) -> (Tensor<B, 4>, Tensor<B, 4>) {
    let [count, kept] = [outputs, states].map(|shape| shape.iter().product());
    let states = joined.clone().narrow(0, count, kept).reshape(states);
    if count == 0 {
        return (Tensor::zeros(outputs, &joined.device()), states);
    }
    (joined.narrow(0, 0, count).reshape(outputs), states)
}

/// The inverse of [`parted`].
pub(crate) fn joined<B: Backend>(outputs: Tensor<B, 4>, states: Tensor<B, 4>) -> FloatTensor<B> {
    let flat = |x: Tensor<B, 4>| x.flatten::<1>(0, 3);
    primitive(Tensor::cat(vec![flat(outputs), flat(states)], 0))
}

/// The fallback of [`scan`]: [`chunk`], outputs and states one after the other because an operation has one result.
pub(crate) fn composed<B: Backend>(inputs: RecurrenceInputs<FloatTensor<B>>) -> FloatTensor<B> {
    let RecurrenceInputs { q, k, v, g, beta, state } = inputs;
    let inputs = Inputs { q: tensor(q), k: tensor(k), v: tensor(v), g: g.map(tensor), beta: beta.map(tensor) };
    let by_channel = inputs.g.as_ref().is_some_and(|g| g.dims()[3] > 1);
    let (output, state) = chunk::<B>(inputs, tensor(state), if by_channel { CHUNK_BY_CHANNEL } else { CHUNK });
    joined(output, state)
}

/// Read from both ends: `forward` holds the tokens in their order, `backward` from the last to the first. What both make of a token is
/// added: `o_t = o_t(forward) + o_t(backward)`. For encoders; there is no state to go on from.
///
/// # Shapes
/// -> `[B, H, T, V]`.
///
/// # Panics
/// As [`scan`], and if the two differ in shape.
pub fn both_ways<B: MixerBackend>(forward: Inputs<B>, backward: Inputs<B>) -> Tensor<B, 4> {
    let ([batch, heads, _, width], values) = (forward.q.dims(), forward.v.dims()[3]);
    let empty = empty_state([batch, heads, width, values], &forward.q.device());
    let (from_left, _) = scan(forward, empty.clone());
    let (from_right, _) = scan(backward, empty);
    from_left + from_right.flip([2])
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
    let state = match g {
        Some(g) => state * g.exp().transpose(),
        None => state,
    };
    let written = match beta {
        Some(beta) => (v - k.clone().matmul(state.clone())) * column(beta),
        None => v,
    };
    let state = state + k.transpose().matmul(written);
    (q.matmul(state.clone()), state)
}

/// Chunks of `chunk` tokens (for the delta rule a power of two): inside a chunk all is matrix products, only the state passes on.
///
/// Within a chunk, with `G = cumsum(g)`, `[Q K^T]_ij = sum_d q_id k_jd exp(G_id - G_jd)` for `i >= j`, else 0: the additive rule
/// writes `X = V`. The delta rule writes `X = T diag(beta) (V - diag(exp(G)) K S)` with `T = (I + strict_lower(diag(beta) [K K^T]))^-1`.
/// Then `O = (Q exp(G)) S + [Q K^T] X` and `S <- exp(G_C) S + (K exp(G_C - G))^T X`.
///
/// # Panics
/// If `chunk` is 0.
///
/// # Reference
/// arXiv 2412.06464, section 3.3; with decay by channel arXiv 2510.26692, section 3.
pub fn chunk<B: Backend>(inputs: Inputs<B>, mut state: Tensor<B, 4>, chunk: usize) -> (Tensor<B, 4>, Tensor<B, 4>) {
    assert!(chunk > 0, "a chunk has one token at least");
    let Inputs { q, k, v, g, beta } = inputs;
    let device = q.device();
    let time = q.dims()[2];
    let chunk = chunk.min(time.next_power_of_two());
    let [q, k, v] = [q, k, v].map(|x| chunks::split(x, chunk));
    let total = g.map(|g| chunks::split(g, chunk).cumsum(3));
    let count = q.dims()[2];

    let inside = products(q.clone(), k.clone(), total.as_ref(), 0);
    let (u, w) = match beta {
        None => (v, None),
        Some(beta) => {
            let beta = chunks::split(column(beta), chunk);
            let solve = unit_lower_inverse(products(k.clone(), k.clone(), total.as_ref(), 1) * beta.clone());
            let recalled = k.clone() * beta.clone();
            let recalled = match &total {
                Some(total) => recalled * total.clone().exp(),
                None => recalled,
            };
            (solve.clone().matmul(v * beta), Some(solve.matmul(recalled)))
        }
    };
    let (q, k, last) = match total {
        None => (q, k.transpose(), None),
        Some(total) => {
            let last = total.clone().narrow(3, chunk - 1, 1);
            (q * total.clone().exp(), (k * (last.clone() - total).exp()).transpose(), Some(last.exp().transpose()))
        }
    };

    let mut outputs = Vec::with_capacity(count);
    for n in 0..count {
        let at = |x: &Tensor<B, 5>| x.clone().narrow(2, n, 1).squeeze_dim::<4>(2);
        let x = match &w {
            Some(w) => at(&u) - at(w).matmul(state.clone()),
            None => at(&u),
        };
        outputs.push(at(&q).matmul(state.clone()) + at(&inside).matmul(x.clone()));
        let kept = match &last {
            Some(last) => state * at(last),
            None => state,
        };
        state = kept + at(&k).matmul(x);
    }
    if outputs.is_empty() {
        let [batch, heads, _, values] = state.dims();
        return (Tensor::zeros([batch, heads, 0, values], &device), state);
    }
    let output = Tensor::cat(outputs, 2);
    (if count * chunk == time { output } else { output.narrow(2, 0, time) }, state)
}

/// `[A K^T]_ij = sum_d a_id k_jd exp(G_id - G_jd)` where `i - j >= offset`, else 0; `[.., C, C]`.
///
/// `exp(G_i - G_j)` overflows above the diagonal, so the difference is cut off there before the exponential.
fn products<B: Backend>(a: Tensor<B, 5>, k: Tensor<B, 5>, total: Option<&Tensor<B, 5>>, offset: i64) -> Tensor<B, 5> {
    let [.., size, width] = k.dims();
    let lower = chunks::lower::<B>(size, offset, &a.device());
    match total {
        None => a.matmul(k.transpose()) * lower.unsqueeze::<5>(),
        Some(total) if total.dims()[4] == 1 => {
            let lower = lower.unsqueeze::<5>();
            let fade = ((total.clone() - total.clone().transpose()) * lower.clone()).exp() * lower;
            a.matmul(k.transpose()) * fade
        }
        Some(total) => {
            debug_assert_eq!(total.dims()[4], width);
            let lower: Tensor<B, 6> = lower.unsqueeze_dim::<3>(2).unsqueeze();
            let apart = total.clone().unsqueeze_dim::<6>(4) - total.clone().unsqueeze_dim(3);
            let fade = (apart * lower.clone()).exp() * lower;
            (a.unsqueeze_dim::<6>(4) * k.unsqueeze_dim(3) * fade).sum_dim(5).squeeze_dim(5)
        }
    }
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
