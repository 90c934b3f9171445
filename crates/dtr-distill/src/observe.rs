//! What the parent's attention sublayers see and say: the data every student learns from.

use burn::prelude::*;
use dtr_attention::{MixerBackend, Positions};
use dtr_models::{Context, Decoder, Mixer};

/// Inputs and outputs of every attention sublayer on one batch.
#[derive(Debug)]
pub struct Observation<B: Backend> {
    /// What all layers know about the tokens.
    pub context: Context<B>,
    /// Input of each layer's mixer, `[B, T, N]`.
    pub inputs: Vec<Tensor<B, 3>>,
    /// What the teacher's mixer makes of them, `[B, T, N]`.
    pub outputs: Vec<Tensor<B, 3>>,
}

/// Runs `model` over rows of equal length; where it has another mixer than `teacher`, the teacher's answers to the same inputs are
/// the outputs to imitate.
pub fn observe<B: MixerBackend>(model: &Decoder<B>, teacher: &Decoder<B>, rows: &[Vec<u32>], device: &B::Device) -> Observation<B> {
    let (count, length) = (rows.len(), rows[0].len());
    let ids: Vec<i64> = rows.iter().flatten().map(|&token| i64::from(token)).collect();
    let ids = Tensor::from_data(TensorData::new(ids, [count, length]), device);
    let context = model.context(Positions::range(0, length));
    let mut x = model.embed(ids);
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for (layer, teacher) in model.layers.iter().zip(&teacher.layers) {
        let input = layer.mixer_input(x.clone());
        let output = layer.mixer.mix(input.clone(), &context);
        x = layer.after_mixer(x, output.clone());
        let own = matches!(layer.mixer, Mixer::Softmax(_));
        outputs.push(if own { output } else { teacher.mixer.mix(input.clone(), &context) });
        inputs.push(input);
    }
    Observation { context, inputs, outputs }
}

/// Mean distance between a query and what it attends to, by head: `mean_i sum_j w_ij (i - j)`.
///
/// # Panics
/// If the mixer is not the parent's own attention.
pub fn attention_distance<B: MixerBackend>(mixer: &Mixer<B>, input: Tensor<B, 3>, context: &Context<B>) -> Vec<f32> {
    let Mixer::Softmax(attention) = mixer else { panic!("only the parent's own attention has distances to measure") };
    let device = input.device();
    let weights = attention.weights(input, context);
    let [_, heads, time, _] = weights.dims();
    let step = Tensor::<B, 1, Int>::arange(0..time as i64, &device).float();
    let distance = step.clone().reshape([time, 1]) - step.reshape([1, time]);
    let mean = (weights * distance.unsqueeze()).sum_dim(3).mean_dim(2).mean_dim(0);
    mean.reshape([heads]).into_data().convert::<f32>().iter::<f32>().collect()
}
