//! What the parent's attention sublayers see and say: the data every student learns from, layer after layer, never all at once.

use burn::prelude::*;
use dtr_attention::{MixerBackend, precision};
use dtr_models::{Context, Decoder, Mixer};

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
    let mut x = model.embed(batch.ids.clone());
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
    /// Mean distance between a query and what it attends to, by head: `mean_i sum_j w_ij (i - j)`.
    pub distance: Vec<f32>,
    /// Entropy of the weights as a share of what it could be, by head: `mean_i H(w_i) / ln(i + 1)` over `i > 0`.
    pub entropy: Vec<f32>,
}

/// Measures the heads of one layer, on a batch without padding.
///
/// # Panics
/// If the mixer is not the parent's own attention.
pub fn attention<B: MixerBackend>(mixer: &Mixer<B>, input: Tensor<B, 3>, context: &Context<B>) -> Attention {
    let Mixer::Softmax(attention) = mixer else { panic!("only the parent's own attention has weights to measure") };
    let device = input.device();
    let weights = precision::single(attention.weights(input, context));
    let [_, heads, time, _] = weights.dims();
    let by_head = |x: Tensor<B, 4>| x.mean_dim(0).reshape([heads]).into_data().convert::<f32>().iter::<f32>().collect::<Vec<f32>>();
    let step = Tensor::<B, 1, Int>::arange(0..time as i64, &device).float();
    let distance = step.clone().reshape([time, 1]) - step.clone().reshape([1, time]);
    let distance = by_head((weights.clone() * distance.unsqueeze()).sum_dim(3).mean_dim(2));
    if time == 1 {
        return Attention { entropy: vec![0.0; heads], distance };
    }
    let nats = (weights.clone() * weights.add_scalar(f32::MIN_POSITIVE).log()).sum_dim(3).neg().narrow(2, 1, time - 1);
    let most = step.narrow(0, 1, time - 1).add_scalar(1.0).log().reshape([1, 1, time - 1, 1]);
    Attention { entropy: by_head((nats / most).mean_dim(2)), distance }
}
