//! Where a student starts: the parent's projections, gates from the parent's attention, an output projection in closed form.

use burn::module::Param;
use burn::prelude::*;
use dtr_attention::MixerBackend;
use dtr_models::mixer::projections::Projections;
use dtr_models::{AttentionShape, Mixer, MixerConfig};
use rayon::prelude::*;

use crate::error::DistillError;
use crate::observe::{attention_distance, observe};
use crate::ridge::Moments;

/// `silu(NEUTRAL) = 1`: an output gate at this value lets everything pass as it is.
const NEUTRAL: f64 = 1.278_464_5;

/// Shortest half-life of a decay, in tokens.
const SHORTEST: f32 = 0.5;

/// What calibration found out about one layer of the parent.
#[derive(Debug)]
pub struct Calibration<B: Backend> {
    /// Mean attention distance by query head.
    pub distance: Vec<f32>,
    /// `[hidden, 1]` with `x constant ≈ 1` for the layer's inputs `x`: stands in for biases that the student's form lacks.
    pub constant: Tensor<B, 2>,
}

/// Measures every layer of the parent on some batches of rows.
///
/// # Errors
/// If the parent's hidden states are not finite.
pub fn calibrate<B: MixerBackend>(
    parent: &dtr_models::Decoder<B>,
    batches: &[Vec<Vec<u32>>],
    device: &B::Device,
) -> Result<Vec<Calibration<B>>, DistillError> {
    let hidden = parent.embed(Tensor::zeros([1, 1], device)).dims()[2];
    let mut distances: Vec<Vec<f32>> = Vec::new();
    let mut moments = vec![Moments::new(hidden, 1); parent.layers.len()];
    for (n, rows) in batches.iter().enumerate() {
        let seen = observe(parent, parent, rows, device);
        for (layer, input) in seen.inputs.iter().enumerate() {
            let [batch, time, _] = input.dims();
            moments[layer].add(input.clone(), Tensor::ones([batch, time, 1], device));
        }
        if n == 0 {
            // The weights are T x T: one batch is enough for a mean.
            distances = parent
                .layers
                .iter()
                .zip(seen.inputs)
                .map(|(layer, input)| attention_distance(&layer.mixer, input, &seen.context))
                .collect();
        }
    }
    let constants = moments.iter().enumerate().map(|(layer, moments)| moments.solve(device).ok_or(DistillError::Singular { layer }));
    distances.into_iter().zip(constants).map(|(distance, constant)| Ok(Calibration { distance, constant: constant? })).collect()
}

/// A student of one layer, from the parent's projections and what calibration found.
///
/// # Panics
/// If the parent's layer is not softmax attention, or `operator` is not a student.
pub fn student<B: MixerBackend>(
    operator: &MixerConfig,
    shape: &AttentionShape,
    parent: &Mixer<B>,
    calibration: &Calibration<B>,
) -> Mixer<B> {
    let Mixer::Softmax(attention) = parent else { panic!("students learn from the parent's own attention") };
    let source = &attention.projections;
    let device = source.q_proj.weight.device();
    let mut student = operator.init::<B>(shape, &device);
    match &mut student {
        Mixer::Softmax(_) => panic!("softmax attention is the parent itself, not a student"),
        Mixer::SlidingWindow(mixer) => mixer.projections = source.clone(),
        Mixer::Hedgehog(mixer) => {
            mixer.projections = source.clone();
            let [heads, width, _] = mixer.q_map.dims();
            let identity = Tensor::<B, 2>::eye(width, &device).unsqueeze::<3>().expand([heads, width, width]);
            mixer.q_map = Param::from_tensor(identity.clone());
            mixer.k_map = Param::from_tensor(identity);
        }
        Mixer::GatedDelta(mixer) => {
            let AttentionShape { hidden, heads, head_dim, .. } = *shape;
            mixer.in_proj_qkv.weight = Param::from_tensor(qkv(source, shape, &calibration.constant));
            mixer.in_proj_z.weight =
                Param::from_tensor(calibration.constant.clone().mul_scalar(NEUTRAL).expand([hidden, heads * head_dim]));
            // Only the last tap: the convolution starts as the identity.
            let [channels, _, width] = mixer.conv1d.weight.dims();
            let taps = (0..channels * width).map(|i| f32::from(u8::from(i % width == width - 1))).collect::<Vec<_>>();
            mixer.conv1d.weight = Param::from_tensor(Tensor::from_data(TensorData::new(taps, [channels, 1, width]), &device));
            // softplus(dt_bias) = ln 2 / distance: what is that far back has faded by half.
            let bias: Vec<f32> =
                calibration.distance.iter().map(|&distance| (std::f32::consts::LN_2 / distance.max(SHORTEST)).exp_m1().ln()).collect();
            mixer.dt_bias = Param::from_tensor(Tensor::from_floats(bias.as_slice(), &device));
            mixer.out_proj.weight = Param::from_tensor(source.o_proj.weight.val());
        }
    }
    student
}

/// Queries, keys and values side by side, every query head with a key and value head of its own, head norms folded in.
fn qkv<B: Backend>(source: &Projections<B>, shape: &AttentionShape, constant: &Tensor<B, 2>) -> Tensor<B, 2> {
    let AttentionShape { hidden, heads, kv_heads, head_dim, .. } = *shape;
    let part = |linear: &burn::nn::Linear<B>, norm: Option<&dtr_models::layers::RmsNorm<B>>, groups: usize| {
        let weight = linear.weight.val();
        let bias = linear.bias.as_ref().map(|bias| constant.clone().matmul(bias.val().unsqueeze()));
        let weight = bias.map_or(weight.clone(), |bias| weight + bias).reshape([hidden, groups, 1, head_dim]);
        let weight = norm.map_or(weight.clone(), |norm| weight * norm.weight.val().reshape([1, 1, 1, head_dim]));
        weight.expand([hidden, groups, heads / groups, head_dim]).reshape([hidden, heads * head_dim])
    };
    let q = part(&source.q_proj, source.q_norm.as_ref(), heads);
    let k = part(&source.k_proj, source.k_norm.as_ref(), kv_heads);
    let v = part(&source.v_proj, None, kv_heads);
    Tensor::cat(vec![q, k, v], 1)
}

/// Refits the output projection of every student by ridge regression around where it stands, `min |X (W + D) - Y|^2 + penalty |D|^2`:
/// one pass over the rows, no optimiser, and on those rows never worse than before.
///
/// Inputs are those in `model`, answers those of `teacher`; `students[n]` stands for layer `layers[n]`.
///
/// # Errors
/// If outputs are not finite.
pub fn fit_outputs<B: MixerBackend>(
    model: &dtr_models::Decoder<B>,
    teacher: &dtr_models::Decoder<B>,
    layers: &[usize],
    students: &mut [Mixer<B>],
    batches: &[Vec<Vec<u32>>],
    device: &B::Device,
) -> Result<(), DistillError> {
    let mut moments: Vec<Option<Moments>> = vec![None; students.len()];
    for rows in batches {
        let seen = observe(model, teacher, rows, device);
        moments.par_iter_mut().zip(students.par_iter()).zip(layers).for_each(|((moments, student), &layer)| {
            let (features, output) = student.mix_features(seen.inputs[layer].clone(), &seen.context);
            let residual = seen.outputs[layer].clone() - output;
            let (input, target) = (features.dims()[2], residual.dims()[2]);
            moments.get_or_insert_with(|| Moments::new(input, target)).add(features, residual);
        });
    }
    for ((moments, student), &layer) in moments.iter().zip(students).zip(layers) {
        let Some(moments) = moments else { continue };
        let change = moments.solve::<B>(device).ok_or(DistillError::Singular { layer })?;
        let output = student.output_mut();
        output.weight = Param::from_tensor(output.weight.val() + change);
    }
    Ok(())
}
