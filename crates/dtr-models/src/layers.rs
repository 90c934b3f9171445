//! Small parts of a model: linear projection on rows, norms, MLP, pooler. Field names are those of Hugging Face's Llama.

use burn::module::{Initializer, Module, ModuleMapper, Param};
use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::FloatDType;
use burn::tensor::activation::{relu, tanh};
use dtr_attention::precision::{like, single};
use dtr_attention::{MixerBackend, gate, norm};

use crate::config::{Activation, NormKind, Squash};

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

/// Layer norm with a weight and a bias.
#[derive(Module, Debug)]
pub struct LayerNorm<B: Backend> {
    /// `[N]`.
    pub weight: Param<Tensor<B, 1>>,
    /// `[N]`.
    pub bias: Param<Tensor<B, 1>>,
    eps: f64,
}

/// The norm of a family.
#[derive(Module, Debug)]
pub enum Norm<B: Backend> {
    /// By the root mean square.
    Rms(RmsNorm<B>),
    /// By mean and variance.
    Layer(LayerNorm<B>),
}

impl<B: Backend> Norm<B> {
    /// A norm that scales by 1.
    pub fn new(kind: NormKind, width: usize, eps: f64, device: &B::Device) -> Self {
        match kind {
            NormKind::Rms => Self::Rms(RmsNorm::new(width, eps, device)),
            NormKind::Layer => Self::Layer(LayerNorm {
                weight: Initializer::Ones.init([width], device),
                bias: Initializer::Zeros.init([width], device),
                eps,
            }),
        }
    }
}

impl<B: MixerBackend> Norm<B> {
    /// Normalises the last dimension.
    pub fn forward<const R: usize>(&self, x: Tensor<B, R>) -> Tensor<B, R> {
        match self {
            Self::Rms(norm) => norm.forward(x),
            Self::Layer(norm) => norm::layer(x, norm.weight.val(), norm.bias.val(), norm.eps),
        }
    }
}

/// `down(silu(gate(x)) * up(x))`, or without a gate `down(gelu(up(x)))`.
#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    gate_proj: Option<Linear<B>>,
    up_proj: Linear<B>,
    down_proj: Linear<B>,
    #[module(skip)]
    activation: Activation,
}

impl<B: Backend> Mlp<B> {
    /// An MLP without weights of its own yet.
    pub fn new(hidden: usize, intermediate: usize, activation: Activation, bias: bool, device: &B::Device) -> Self {
        let gated = activation == Activation::SwiGlu;
        Self {
            gate_proj: gated.then(|| linear(hidden, intermediate, bias, device)),
            up_proj: linear(hidden, intermediate, bias, device),
            down_proj: linear(intermediate, hidden, bias, device),
            activation,
        }
    }
}

impl<B: MixerBackend> Mlp<B> {
    /// `x [B, T, N]` -> `[B, T, N]`.
    pub fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let up = project(&self.up_proj, x.clone());
        let inner = match &self.gate_proj {
            Some(gate_proj) => gate::swiglu(project(gate_proj, x), up),
            None => gate::gelu(up, self.activation == Activation::GeluTanh),
        };
        project(&self.down_proj, inner)
    }
}

/// `f(x W + b)`: what an encoder makes of the hidden state of a text's first token.
#[derive(Module, Debug)]
pub struct Pooler<B: Backend> {
    dense: Linear<B>,
    #[module(skip)]
    squash: Squash,
}

impl<B: Backend> Pooler<B> {
    /// A pooler without weights of its own yet.
    pub fn new(hidden: usize, squash: Squash, device: &B::Device) -> Self {
        Self { dense: linear(hidden, hidden, true, device), squash }
    }

    /// `x [B, T, N]` -> `[B, T, N]`.
    pub fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let x = project(&self.dense, x);
        match self.squash {
            Squash::Tanh => tanh(x),
            Squash::Relu => relu(x),
        }
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
