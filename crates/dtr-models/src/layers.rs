//! Small parts of a block: linear projection on rows, RMS norm, gated MLP. Field names are those of Hugging Face.

use burn::module::{Initializer, Module, ModuleMapper, Param};
use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::FloatDType;
use dtr_attention::precision::{like, single};
use dtr_attention::{MixerBackend, gate, norm};

/// A projection without weights of its own yet.
pub fn linear<B: Backend>(input: usize, output: usize, bias: bool, device: &B::Device) -> Linear<B> {
    LinearConfig::new(input, output).with_bias(bias).with_initializer(Initializer::Zeros).init(device)
}

/// `x W + b` over all rows at once, in the weights' element type: one large product in place of one a sequence.
///
/// # Shapes
/// `x [B, T, N]` -> `[B, T, M]`.
pub fn project<B: Backend>(linear: &Linear<B>, x: Tensor<B, 3>) -> Tensor<B, 3> {
    let [batch, time, width] = x.dims();
    let y = linear.forward(like(x, linear.weight.val().dtype()).reshape([batch * time, width]));
    let output = y.dims()[1];
    y.reshape([batch, time, output])
}

/// RMS norm with a weight.
#[derive(Module, Debug)]
pub struct RmsNorm<B: Backend> {
    /// `[N]`.
    pub weight: Param<Tensor<B, 1>>,
    eps: f64,
}

impl<B: Backend> RmsNorm<B> {
    /// A norm with weight 1.
    pub fn new(width: usize, eps: f64, device: &B::Device) -> Self {
        Self { weight: Initializer::Ones.init([width], device), eps }
    }
}

impl<B: MixerBackend> RmsNorm<B> {
    /// Normalises the last dimension.
    pub fn forward<const R: usize>(&self, x: Tensor<B, R>) -> Tensor<B, R> {
        norm::rms(x, self.weight.val(), self.eps)
    }

    /// Normalises each of `groups` parts of the last dimension by itself; the weight is one number a channel.
    pub fn by_group(&self, x: Tensor<B, 3>, groups: usize) -> Tensor<B, 3> {
        let [batch, time, channels] = x.dims();
        let even = Tensor::ones([channels / groups], &x.device());
        let x = norm::rms(x.reshape([batch, time, groups, channels / groups]), even, self.eps);
        x.reshape([batch, time, channels]) * self.weight.val().unsqueeze()
    }
}

/// `down(silu(gate(x)) * up(x))`.
#[derive(Module, Debug)]
#[expect(clippy::struct_field_names, reason = "the names of Hugging Face")]
pub struct Mlp<B: Backend> {
    gate_proj: Linear<B>,
    up_proj: Linear<B>,
    down_proj: Linear<B>,
}

impl<B: Backend> Mlp<B> {
    /// An MLP without weights of its own yet.
    pub fn new(hidden: usize, intermediate: usize, bias: bool, device: &B::Device) -> Self {
        Self {
            gate_proj: linear(hidden, intermediate, bias, device),
            up_proj: linear(hidden, intermediate, bias, device),
            down_proj: linear(intermediate, hidden, bias, device),
        }
    }
}

impl<B: MixerBackend> Mlp<B> {
    /// `x [B, T, N]` -> `[B, T, N]`.
    pub fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let inner = gate::swiglu(project(&self.gate_proj, x.clone()), project(&self.up_proj, x));
        project(&self.down_proj, inner)
    }
}

/// A module with its weights in another element type. Gradients flow through to the weights that it had.
#[must_use]
pub fn cast<B: Backend, M: Module<B>>(module: M, dtype: FloatDType) -> M {
    struct Cast(FloatDType);
    impl<B: Backend> ModuleMapper<B> for Cast {
        fn map_float<const R: usize>(&mut self, param: Param<Tensor<B, R>>) -> Param<Tensor<B, R>> {
            param.map(|weight| like(weight, self.0.into()))
        }
    }
    module.map(&mut Cast(dtype))
}

/// A module with single precision in place of half: weights that can be trained.
#[must_use]
pub fn in_single<B: Backend, M: Module<B>>(module: M) -> M {
    struct Single;
    impl<B: Backend> ModuleMapper<B> for Single {
        fn map_float<const R: usize>(&mut self, param: Param<Tensor<B, R>>) -> Param<Tensor<B, R>> {
            param.map(single)
        }
    }
    module.map(&mut Single)
}
