//! What the parent's attention sublayers see and say: the data every student learns from, layer after layer, never all at once.

use burn::prelude::*;
use dtr_attention::{MixerBackend, precision};
use dtr_models::{Context, Decoder, Mixer, mixer};

use crate::batch::Batch;

/// One attention sublayer on one batch.
#[derive(Debug, Clone)]
pub struct Seen<B: Backend> {
    /// What all layers know about the tokens.
    pub context: Context<B>,
    /// Input of the layer's mixer, `[B, T, N]`.
    pub input: Tensor<B, 3>,
    /// What the teacher's mixer makes of it, `[B, T, N]`.
    pub output: Tensor<B, 3>,
    /// Weight of each output in the losses, `[B, T]`; `None` where all are 1.
    pub weights: Option<Tensor<B, 2>>,
}

/// Runs `model` over a batch and shows each layer as it comes by; where it has another mixer than `teacher`, the teacher's answers to
/// the same inputs are the outputs to imitate. Holds the states of one layer at a time.
pub fn observe<B: MixerBackend>(model: &Decoder<B>, teacher: &Decoder<B>, batch: &Batch<B>, mut show: impl FnMut(usize, Seen<B>)) {
    let context = model.context(batch.positions.clone());
    let mut x = model.embed(batch.ids.clone(), &batch.positions);
    let last = model.layers.len() - 1;
    for (index, (layer, teacher)) in model.layers.iter().zip(&teacher.layers).enumerate() {
        let input = layer.mixer_input(x.clone());
        let own = layer.mixer.mix(input.clone(), &context);
        let output = if matches!(layer.mixer, Mixer::Softmax(_)) { own.clone() } else { teacher.mixer.mix(input.clone(), &context) };
        show(index, Seen { context: context.clone(), input, output, weights: batch.weights.clone() });
        if index < last {
            x = layer.after_mixer(x, own);
        }
    }
}

/// How each head of the parent's attention looks around.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Mean distance between a query and what it attends to, by head: `mean_i sum_j w_ij |i - j|`.
    pub distance: Vec<f32>,
    /// Entropy of the weights as a share of what it could be, by head: `mean_i H(w_i) / ln(n_i)` over the queries that see `n_i > 1` tokens.
    pub entropy: Vec<f32>,
}

/// The parent's attention weights, `[B, H, T, T]`.
///
/// # Panics
/// If the mixer is not the parent's own attention.
pub fn weights<B: MixerBackend>(mixer: &Mixer<B>, input: Tensor<B, 3>, context: &Context<B>) -> Tensor<B, 4> {
    precision::single(own(mixer).weights(input, context))
}

fn own<B: Backend>(mixer: &Mixer<B>) -> &mixer::Attention<B> {
    let Mixer::Softmax(attention) = mixer else { panic!("only the parent's own attention has weights to measure") };
    attention
}

/// The largest weight that each token gets from any that looks at it, by head, `[B, T, H]`, from [`weights`]. Padding looks at nothing.
pub fn received<B: Backend>(weights: Tensor<B, 4>, context: &Context<B>) -> Tensor<B, 3> {
    let weights = match &context.tokens {
        Some(tokens) => weights * tokens.clone().unsqueeze_dims::<4>(&[1, 3]),
        None => weights,
    };
    weights.max_dim(2).squeeze_dim::<3>(2).swap_dims(1, 2)
}

/// Measures the heads of one layer by their [`weights`]. Padding counts for nothing.
///
/// # Panics
/// If the mixer is not the parent's own attention.
pub fn attention<B: MixerBackend>(mixer: &Mixer<B>, weights: Tensor<B, 4>, context: &Context<B>) -> Attention {
    let (device, hidden) = (weights.device(), own(mixer).hidden(context));
    let [batch, heads, time, _] = weights.dims();
    let tokens = context.tokens.clone().unwrap_or_else(|| Tensor::ones([batch, time], &device)).reshape([batch, 1, time, 1]);
    // Means over the queries that count, `[B, H, T, 1]` to one number a head.
    let mean = |x: Tensor<B, 4>, counted: &Tensor<B, 4>| {
        let [batch, _, time, _] = counted.dims();
        let sums = (x * counted.clone().expand([batch, heads, time, 1])).sum_dim(0).sum_dim(2).reshape([heads]);
        (sums / counted.clone().sum().clamp_min(1.0)).into_data().convert::<f32>().iter::<f32>().collect::<Vec<f32>>()
    };
    let step = Tensor::<B, 1, Int>::arange(0..time as i64, &device).float();
    let distance = (step.clone().reshape([time, 1]) - step.reshape([1, time])).abs();
    let distance = mean((weights.clone() * distance.unsqueeze()).sum_dim(3), &tokens);
    let nats = (weights.clone() * weights.add_scalar(f32::MIN_POSITIVE).log()).sum_dim(3).neg();
    let seen = hidden.expand([batch, 1, time, time]).float().neg().add_scalar(1.0).sum_dim(3);
    let several = tokens * seen.clone().greater_elem(1.0).float();
    let most = seen.clamp_min(2.0).log();
    Attention { entropy: mean(nats / most, &several), distance }
}
