//! The operations of token mixing, and the mixers made of them.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::activation::sigmoid;
use dtr_attention::precision::single;
use dtr_attention::recurrence::{self, Inputs as Recurrence};
use dtr_attention::{Positions, Span, TrainBackend, convolution, feature_map, gate, linear, loss, norm, rotary, softmax};
use dtr_experiment::schema::Precision;
use dtr_models::layers::cast;
use dtr_models::rope::{Rope, RopeScaling};
use dtr_models::{AttentionShape, Context, Mixer, MixerConfig};
use dtr_portability::outcome::{Kind, Numbers};

use super::{Inputs, Suite, numbers, tensor, values};

/// Two rows of 21 tokens, padded left and right.
fn padded() -> Positions {
    Positions::padded(&[(0..21).map(|i| i >= 5).collect(), (0..21).map(|i| i < 17).collect()], &[0, 0])
}

/// Decays, write strengths and keys as the recurrence wants them, of any numbers.
fn admissible<B: TrainBackend>(inputs: Inputs<B>, delta: bool) -> (Recurrence<B>, Tensor<B, 4>) {
    let [q, k, v, g, beta, state]: [Tensor<B, 4>; 6] = inputs.try_into().expect("six inputs");
    let flat = |x: Tensor<B, 4>| x.squeeze_dim::<3>(3);
    let k = if delta { norm::unit(k, 1.0, 1e-6) } else { k };
    (Recurrence { q, k, v, g: Some(sigmoid(g).neg()), beta: delta.then(|| flat(sigmoid(beta))) }, state)
}

impl<B: TrainBackend> Suite<'_, B> {
    pub(super) fn operations(&mut self) {
        self.around();
        self.attention();
        self.recurrences();
    }

    fn around(&mut self) {
        let rows = [2, 3, 7, 10];
        self.differentiable("rms norm", &[rows, [1, 1, 1, 10]], |mut inputs| {
            let weight = inputs.remove(1).reshape([10]);
            norm::rms(inputs.remove(0), weight, 1e-6)
        });
        self.differentiable("unit length", &[rows], |mut inputs| norm::unit(inputs.remove(0), 0.5, 1e-6));
        self.differentiable("rotary positions", &[rows], |mut inputs| {
            let x = inputs.remove(0);
            let rope = Rope { theta: 100.0, scaling: RopeScaling::Default };
            let tables = rope.tables(10, &Positions::range(3, 7), &x.device());
            rotary::rotate_half(x, tables.cos, tables.sin)
        });
        self.differentiable("gated silu", &[rows, rows], |inputs| gate::swiglu(inputs[0].clone(), inputs[1].clone()));
        self.differentiable("merged heads", &[rows], |mut inputs| softmax::merge_heads(inputs.remove(0)).unsqueeze_dim(1));
        self.differentiable("short convolution", &[[1, 2, 9, 6], [1, 1, 6, 4], [1, 2, 3, 6]], |inputs| {
            let [x, weight, state]: [Tensor<B, 4>; 3] = inputs.try_into().expect("three inputs");
            convolution::causal_silu(x.squeeze_dim(0), weight.reshape([6, 4]), state.squeeze_dim::<3>(0)).unsqueeze_dim(0)
        });
        self.differentiable("cross entropy", &[[1, 1, 6, 33]], |mut inputs| {
            let logits = inputs.remove(0).reshape([6, 33]);
            let targets = Tensor::from_data(TensorData::new(vec![3_i64, 0, 32, 7, 7, 15], [6]), &logits.device());
            loss::cross_entropy(logits, targets).reshape([1, 1, 1, 6])
        });
    }

    fn attention(&mut self) {
        let (queries, keys) = ([2, 4, 21, 6], [2, 2, 21, 6]);
        for (name, positions, span) in [
            ("softmax attention", Positions::range(0, 21), Span::FULL),
            ("softmax attention, padded", padded(), Span::FULL),
            ("softmax attention, window and sinks", padded(), Span { window: Some(7), sinks: 2 }),
        ] {
            self.differentiable(name, &[queries, keys, keys], |inputs| {
                let [q, k, v]: [Tensor<B, 4>; 3] = inputs.try_into().expect("three inputs");
                let output = softmax::attend(q, k, v, &positions, span, 0.4);
                match positions.tokens::<B>(&output.device()) {
                    Some(tokens) => single(output) * tokens.unsqueeze_dims::<4>(&[1, 3]),
                    None => output,
                }
            });
        }
        for time in [1, 21, 70] {
            let (wide, state) = ([2, 3, time, 6], [2, 3, 6, 6]);
            self.differentiable(&format!("linear attention, {time} tokens"), &[wide, wide, [2, 3, time, 5], state], |inputs| {
                let [q, k, v, state]: [Tensor<B, 4>; 4] = inputs.try_into().expect("four inputs");
                let (q, k, state) = (feature_map::elu(single(q)), feature_map::elu(single(k)), state.abs().add_scalar(1.0));
                let (output, state) = linear::scan(q, k, v, state);
                Tensor::cat(vec![single(output).reshape([1, 1, 1, 30 * time]), state.reshape([1, 1, 1, 216])], 3)
            });
        }
    }

    fn recurrences(&mut self) {
        for delta in [false, true] {
            for channels in [false, true] {
                for time in [1, 21, 70] {
                    let (rule, decay) = (if delta { "delta" } else { "additive" }, if channels { "channel" } else { "head" });
                    let name = format!("recurrence, {rule} rule, decay by {decay}, {time} tokens");
                    let wide = |width| [2, 3, time, width];
                    let shapes = [wide(6), wide(6), wide(5), wide(if channels { 6 } else { 1 }), wide(1), [2, 3, 6, 5]];
                    self.differentiable(&name, &shapes, move |inputs| {
                        let (inputs, state) = admissible(inputs, delta);
                        let (output, state) = recurrence::scan(inputs, state);
                        Tensor::cat(vec![single(output), state], 2)
                    });
                }
            }
        }
    }

    pub(super) fn mixers(&mut self) {
        for (operator, padding) in operators().into_iter().flat_map(|operator| [(operator.clone(), false), (operator, true)]) {
            let name = format!("{}{}", operator.name(), if padding { ", padded" } else { "" });
            self.record(&name, [Kind::Value, Kind::Gradient], |device, dtype| mixed::<B>(&operator, padding, dtype, device));
        }
    }
}

const SHAPE: AttentionShape = AttentionShape {
    hidden: 24,
    heads: 4,
    kv_heads: 2,
    head_dim: 6,
    qkv_bias: true,
    output_bias: false,
    qk_norm: true,
    causal: true,
    eps: 1e-6,
};

fn operators() -> Vec<MixerConfig> {
    vec![
        MixerConfig::Softmax { window: None },
        MixerConfig::Softmax { window: Some(5) },
        MixerConfig::SlidingWindow { window: 6, sinks: 2 },
        MixerConfig::Hedgehog {},
        MixerConfig::GatedDelta { convolution: 4, rotary: false },
        MixerConfig::GatedDelta { convolution: 1, rotary: true },
        MixerConfig::Mamba2 { state: 8, convolution: 4 },
        MixerConfig::LinearMap {},
    ]
}

/// Output of a mixer with arbitrary weights, read in two pieces, and the gradients of all its weights and of its input.
fn mixed<B: TrainBackend>(operator: &MixerConfig, padding: bool, dtype: Precision, device: &B::Device) -> [Numbers; 2] {
    let mixer: Mixer<B> = operator.init(&SHAPE, device).map(&mut Fill(100));
    let used = if dtype == Precision::F32 { mixer.clone() } else { cast(mixer.clone(), dtype.into()) };
    let positions = if padding { padded() } else { Positions::range(0, 21) };
    let rope = Rope { theta: 100.0, scaling: RopeScaling::Default };
    let context = |positions: Positions| Context {
        rotary: Some(rope.tables(SHAPE.head_dim, &positions, device)),
        tokens: positions.tokens(device),
        positions,
    };
    let x = tensor::<B, 3>(8, [2, 21, 24], device).require_grad();
    let (first, state) = used.forward(x.clone().narrow(1, 0, 13), &context(positions.narrow(0..13)), used.empty_state(2));
    let (second, _) = used.forward(x.clone().narrow(1, 13, 8), &context(positions.narrow(13..21)), state);
    let output = Tensor::cat(vec![first, second], 1);
    let output = match positions.tokens::<B>(device) {
        Some(tokens) => single(output) * tokens.unsqueeze_dim(2),
        None => output,
    };
    let output = single(output);
    let grads = (output.clone() * tensor(9, output.dims(), device)).sum().backward();
    let mut collect = Collect { grads: &grads, numbers: vec![x.grad(&grads).map_or_else(Vec::new, values)] };
    mixer.visit(&mut collect);
    [vec![values(output)], collect.numbers]
}

/// Weights that look random and do not let numbers grow; norms and rates around 1.
pub(super) struct Fill(pub u64);

impl<B: Backend> ModuleMapper<B> for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        self.0 += 1;
        let (shape, device) = (param.lazy_shape(), param.lazy_device());
        let count = shape.num_elements();
        let scaled = |x: f32| if D == 1 { 1.0 + x / 8.0 } else { x / 4.0 };
        let data: Vec<f32> = numbers(self.0, count).into_iter().map(scaled).collect();
        let tensor = Tensor::from_data(TensorData::new(data, shape), &device);
        Param::from_tensor(if B::ad_enabled(&device) { tensor.require_grad() } else { tensor })
    }
}

struct Collect<'a, B: TrainBackend> {
    grads: &'a B::Gradients,
    numbers: Numbers,
}

impl<B: TrainBackend> ModuleVisitor<B> for Collect<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(grad) = param.val().grad(self.grads) {
            self.numbers.push(values(grad));
        }
    }
}
