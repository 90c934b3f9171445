//! Feature maps: what linear attention puts in place of the exponential, `exp(q k) ~ phi(q) phi(k)`.
//!
//! All take `x [B, H, T, D]`. What must be positive for the normaliser to be so is; the maps of DPFP and of the Taylor series
//! can be used without one, too.
//!
//! Maps that need no function of their own: `relu`, `exp` and the softmax over features are Burn's.

use burn::prelude::*;
use burn::tensor::activation;
use burn::tensor::activation::softmax;

/// Hedgehog map, `phi(x) = [softmax(x W), softmax(-x W)]` per head: positive, spiky, learned.
///
/// # Shapes
/// `x [B, H, T, D]`, `weight [H, D, D]` (input, output) -> `[B, H, T, 2 D]`.
///
/// # Reference
/// arXiv 2402.04347, eq. 6, with the softmax normalisation of its section 4.2.
pub fn hedgehog<B: Backend>(x: Tensor<B, 4>, weight: Tensor<B, 3>) -> Tensor<B, 4> {
    let y = x.matmul(weight.unsqueeze());
    let halves = vec![softmax(y.clone(), 3), softmax(y.neg(), 3)];
    // Held until the step is registered: Burn 0.21 lets go of what is joined before that, and a backward pass on another thread would
    // then remove it, gradients and all.
    Tensor::cat(halves.clone(), 3)
}

/// `elu(x) + 1`: `x + 1` above 0, `exp(x)` below; `D` features.
///
/// # Reference
/// arXiv 2006.16236, eq. 7.
pub fn elu<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 4> {
    // The exponential of what is above 0 may overflow and counts for nothing.
    activation::relu(x.clone()) + x.clamp_max(0.0).exp()
}

/// T2R, `relu(x W + b)` per head: learned.
///
/// # Shapes
/// `x [B, H, T, D]`, `weight [H, D, F]` (input, output), `bias [H, F]` -> `[B, H, T, F]`.
///
/// # Reference
/// arXiv 2103.13076, section 2.2.
pub fn t2r<B: Backend>(x: Tensor<B, 4>, weight: Tensor<B, 3>, bias: Tensor<B, 2>) -> Tensor<B, 4> {
    activation::relu(x.matmul(weight.unsqueeze()) + bias.unsqueeze_dim::<3>(1).unsqueeze())
}

/// DPFP: with `y = [relu(x), relu(-x)]`, the products of `y` with itself rolled by `1..=nu`; `2 D nu` features.
///
/// # Reference
/// arXiv 2102.11174, eq. 35 to 37.
pub fn dpfp<B: Backend>(x: Tensor<B, 4>, nu: usize) -> Tensor<B, 4> {
    let y = Tensor::cat(vec![activation::relu(x.clone()), activation::relu(x.neg())], 3);
    let width = y.dims()[3];
    let rolled = |by: usize| Tensor::cat(vec![y.clone().narrow(3, width - by, by), y.clone().narrow(3, 0, width - by)], 3);
    Tensor::cat((1..=nu).map(|by| y.clone() * rolled(by % width)).collect(), 3)
}

/// Second-order Taylor series of `exp(q k / sqrt(D))`: `[1, x / D^(1/4), x_i^2 / sqrt(2 D), x_i x_j / sqrt(D) (i < j)]`,
/// `1 + D + D (D + 1) / 2` features.
///
/// # Reference
/// Based, arXiv 2402.18668, section 4.1; equal products are taken together.
pub fn taylor<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 4> {
    let [batch, heads, time, width] = x.dims();
    let root = (width as f64).sqrt();
    let (first, second): (Vec<i64>, Vec<i64>) = (0..width as i64).flat_map(|i| (i + 1..width as i64).map(move |j| (i, j))).unzip();
    let mut features = vec![
        Tensor::ones([batch, heads, time, 1], &x.device()),
        x.clone().div_scalar(root.sqrt()),
        x.clone().square().div_scalar(root * std::f64::consts::SQRT_2),
    ];
    if width > 1 {
        let columns = |indices: Vec<i64>| x.clone().select(3, Tensor::from_data(TensorData::from(&indices[..]), &x.device()));
        features.push((columns(first) * columns(second)).div_scalar(root));
    }
    Tensor::cat(features, 3)
}

/// Positive random features, `exp(x w_r - |x|^2 / 2) / sqrt(F)`: their products are `exp(q k)` in the mean over standard normal `w_r`.
///
/// Features of long inputs overflow: scale first, by `D^(-1/4)` for softmax attention.
///
/// # Shapes
/// `x [B, H, T, D]`, `projection [F, D]` -> `[B, H, T, F]`.
///
/// # Reference
/// FAVOR+, arXiv 2009.14794, lemma 1.
pub fn favor<B: Backend>(x: Tensor<B, 4>, projection: Tensor<B, 2>) -> Tensor<B, 4> {
    let count = projection.dims()[0] as f64;
    let length = x.clone().square().sum_dim(3).div_scalar(2.0);
    (x.matmul(projection.transpose().unsqueeze()) - length).exp().div_scalar(count.sqrt())
}
