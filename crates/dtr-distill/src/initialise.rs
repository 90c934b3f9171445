//! Where a student starts: the parent's projections, gates from the parent's attention, an output projection in closed form. Each part
//! stands for itself and can be left out.

mod gated_delta;
mod mamba2;

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::Linear;
use burn::prelude::*;
use dtr_attention::MixerBackend;
use dtr_attention::precision::single;
use dtr_models::layers::in_single;
use dtr_models::mixer::projections::Projections;
use dtr_models::{AttentionShape, Decoder, Mixer, MixerConfig};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::error::DistillError;
use crate::observe::{Attention, Seen, attention, observe, received, weights};
use crate::ridge::{Moments, NEAR, PENALTY};

/// `silu(NEUTRAL) = 1`: an output gate at this value lets everything pass as it is.
const NEUTRAL: f64 = 1.278_464_5;

/// Shortest half-life of a decay, in tokens.
const SHORTEST: f32 = 0.5;

/// Least and largest weight that a token is taken to get.
const RECEIVED: (f32, f32) = (0.05, 0.9);

/// Scales that a head may get.
const SCALES: (f64, f64) = (0.1, 10.0);

/// Where students start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Initialise {
    /// Queries, keys, values and output: the parent's, or random ones.
    pub projections: Start,
    /// Half-life of the decay: from the mean distance of the parent's attention, or one token.
    pub decay: Decay,
    /// Write strength: from the weight that each token gets in the parent's attention, from the entropy of that, or a half.
    pub write: Write,
    /// Output gate: as large as the parent's heads are at each token, or 1.
    pub gate: Gate,
    /// Factor of queries and keys in front of their `silu`. Their length is taken out behind it; the smaller they are, the less they are bent.
    pub shrink: f64,
    /// Every head scaled to the parent's, `<parent, student> / <student, student>`.
    pub scale: bool,
    /// When the output projection is fitted by ridge regression.
    pub ridge: Ridge,
    /// Steps in which feature maps learn the parent's attention weights.
    pub feature_map_steps: usize,
}

impl Initialise {
    /// The parent's projections and nothing else: what every other start is measured against.
    pub const COPY: Self = Self {
        projections: Start::Copy,
        decay: Decay::Constant,
        write: Write::Constant,
        gate: Gate::Neutral,
        shrink: 1.0,
        scale: false,
        ridge: Ridge::Off,
        feature_map_steps: 0,
    };
}

/// Where projections start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// The parent's: grouped heads expanded head by head, biases and head norms folded in, the output gate open.
    Copy,
    /// Normal numbers of variance `1 / width of the input`.
    Random,
}

/// Where decays start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// At a half-life of the head's mean attention distance, `softplus(dt_bias) = ln 2 / distance`; in Mamba-2 of a share of it.
    Distance,
    /// At a half-life of one token.
    Constant,
}

/// Where write strengths start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Write {
    /// By ridge regression on the layer's input, the largest weight that the token gets from any that looks at it: what nobody will look at
    /// need not be written over what somebody will.
    Received,
    /// Between 0.7 and 0.3, the lower the higher the head's attention entropy.
    Entropy,
    /// At a half.
    Constant,
}

/// Where output gates start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// `silu(W_z x)` is, by ridge regression, the root mean square of the parent's head at that token: the norm in front of the gate takes
    /// the size out, and with it what a head says by saying little.
    Magnitude,
    /// 1 everywhere.
    Neutral,
}

/// When the output projection is fitted in closed form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ridge {
    /// Never.
    Off,
    /// Before training.
    Before,
    /// After it.
    After,
    /// Before and after.
    Both,
    /// Before, every few steps of training on the rows of these steps, after it, and in no other way: the other weights learn behind a
    /// projection that is always the best for them (variable projection, Golub and Pereyra 1973).
    Throughout,
}

impl Ridge {
    fn before(self) -> bool {
        matches!(self, Self::Before | Self::Both | Self::Throughout)
    }

    pub(crate) fn after(self) -> bool {
        matches!(self, Self::After | Self::Both | Self::Throughout)
    }
}

/// What calibration found out about one layer of the parent.
#[derive(Debug)]
pub struct Calibration<B: Backend> {
    /// How its heads look around.
    pub attention: Attention,
    /// `[hidden, H]`: `silu(x gate)` is about the root mean square of each of its heads.
    pub gate: Tensor<B, 2>,
    /// `[hidden, H]`: `sigmoid(x write)` is about the largest weight that the token gets in each head; `None` where nobody asks for it.
    pub write: Option<Tensor<B, 2>>,
    /// `[hidden, 1]` with `x constant ≈ 1` for the layer's inputs `x`: stands in for biases that the student's form lacks.
    pub constant: Tensor<B, 2>,
}

/// Measures every layer of the parent on some batches, as far as `initialise` asks for it.
///
/// # Errors
/// If the parent's hidden states are not finite.
pub fn calibrate<B: MixerBackend>(
    parent: &Decoder<B>,
    batches: &[Batch<B>],
    initialise: &Initialise,
    device: &B::Device,
) -> Result<Vec<Calibration<B>>, DistillError> {
    let hidden = parent.hidden();
    let mut attentions: Vec<Attention> = Vec::new();
    let mut constants = vec![Moments::new(hidden, 1); parent.layers.len()];
    let mut gates: Vec<_> = (0..parent.layers.len()).map(|layer| Moments::new(hidden, heads(parent, layer))).collect();
    let mut writes = (initialise.write == Write::Received).then(|| gates.clone());
    for (n, batch) in batches.iter().enumerate() {
        observe(parent, parent, batch, |layer, seen| {
            let [batch, time, _] = seen.input.dims();
            constants[layer].add(seen.input.clone(), Tensor::ones([batch, time, 1], device), seen.weights.clone());
            let features = parent.layers[layer].mixer.mix_features(seen.input.clone(), &seen.context).0;
            let (heads, width) = (heads(parent, layer), features.dims()[2]);
            let sizes = features.reshape([batch, time, heads, width / heads]).square().mean_dim(3).sqrt().into_data().convert::<f32>();
            let open: Vec<f32> = sizes.iter::<f32>().map(silu_inverse).collect();
            let open = Tensor::from_data(TensorData::new(open, [batch, time, heads]), device);
            gates[layer].add(seen.input.clone(), open, seen.weights.clone());
            // One batch is enough for a mean.
            let first = n == 0;
            if first || writes.is_some() {
                let mixer = &parent.layers[layer].mixer;
                let weights = weights(mixer, seen.input.clone(), &seen.context);
                if first {
                    attentions.push(attention(mixer, weights.clone(), &seen.context));
                }
                if let Some(writes) = &mut writes {
                    let received = received(weights, &seen.context).clamp(RECEIVED.0, RECEIVED.1);
                    let strength = (received.clone() / received.neg().add_scalar(1.0)).log();
                    writes[layer].add(seen.input, strength, seen.weights);
                }
            }
        });
    }
    let found = attentions.into_iter().enumerate().map(|(layer, attention)| {
        let solved = |moments: &[Moments]| moments[layer].solve(device).ok_or(DistillError::Singular { layer });
        let write = writes.as_deref().map(solved).transpose()?;
        Ok(Calibration { attention, constant: solved(&constants)?, gate: solved(&gates)?, write })
    });
    found.collect()
}

/// Heads of one of the parent's layers.
fn heads<B: Backend>(parent: &Decoder<B>, layer: usize) -> usize {
    projections(&parent.layers[layer].mixer).heads()
}

/// What a student is made from.
fn projections<B: Backend>(parent: &Mixer<B>) -> &Projections<B> {
    match parent {
        Mixer::Softmax(attention) => &attention.projections,
        _ => panic!("students learn from the parent's own attention"),
    }
}

/// `z >= 0` with `silu(z) = y`, for `y >= 0`.
fn silu_inverse(y: f32) -> f32 {
    // Newton's method: it begins a little above the root, and `silu` rises from 0 on.
    (0..20).fold(y + 1.0, |z, _| {
        let open = (1.0 + (-z).exp()).recip();
        z - (z * open - y) / (open * (1.0 + z * (1.0 - open)))
    })
}

/// A student of every layer, from the parent's projections and what calibration found.
///
/// # Panics
/// If the parent's layers are not softmax attention, or `operator` is not a student.
pub fn students<B: MixerBackend>(
    operator: &MixerConfig,
    shape: &AttentionShape,
    parent: &Decoder<B>,
    calibration: &[Calibration<B>],
    initialise: &Initialise,
) -> Vec<Mixer<B>> {
    let layers = parent.layers.iter().zip(calibration).enumerate();
    let student = |(layer, (block, found)): (usize, (&dtr_models::decoder::Block<B>, &Calibration<B>))| {
        let mut student = copied(operator, shape, &block.mixer, found);
        if let Mixer::GatedDelta(mixer) = &mut student {
            gated_delta::start(mixer, found, initialise);
            if initialise.gate == Gate::Magnitude {
                mixer.in_proj_z.weight = Param::from_tensor(magnitudes(found, shape));
            }
        }
        if let Mixer::Mamba2(mixer) = &mut student {
            mamba2::copy(mixer, heads_of(projections(&block.mixer), shape, &found.constant), initialise.shrink);
            if initialise.decay == Decay::Distance {
                mamba2::fade(mixer, &found.attention.distance);
            }
            if initialise.gate == Gate::Magnitude {
                mixer.in_proj_z.weight = Param::from_tensor(magnitudes(found, shape));
            }
        }
        if initialise.projections == Start::Random { student.map(&mut Random(ChaCha8Rng::seed_from_u64(layer as u64))) } else { student }
    };
    layers.map(student).collect()
}

/// Fits students to the parent in closed form before they are trained, as far as that is asked for; `students` with their layers.
///
/// # Errors
/// If outputs are not finite.
pub fn fit<B: MixerBackend>(
    model: &Decoder<B>,
    teacher: &Decoder<B>,
    students: &mut [(usize, &mut Mixer<B>)],
    batches: &[Batch<B>],
    initialise: &Initialise,
    device: &B::Device,
) -> Result<(), DistillError> {
    if initialise.scale {
        scale_heads(model, teacher, students, batches, device);
    }
    if initialise.ridge.before() { fit_outputs(model, teacher, students, batches) } else { Ok(()) }
}

/// The parent's projections in the student's form, gates neutral.
fn copied<B: MixerBackend>(operator: &MixerConfig, shape: &AttentionShape, parent: &Mixer<B>, calibration: &Calibration<B>) -> Mixer<B> {
    let source = &in_single(projections(parent).clone());
    let device = source.q_proj.weight.device();
    let mut student = operator.init::<B>(shape, &device);
    match &mut student {
        Mixer::Softmax(_) => panic!("softmax attention is the parent itself, not a student"),
        // Nothing of the parent's fits: the regression of outputs on inputs is all of it.
        Mixer::LinearMap(_) => {}
        Mixer::SlidingWindow(mixer) => mixer.projections = source.clone(),
        Mixer::Hedgehog(mixer) => {
            mixer.projections = source.clone();
            let [heads, width, _] = mixer.q_map.dims();
            let identity = Tensor::<B, 2>::eye(width, &device).unsqueeze::<3>().expand([heads, width, width]);
            mixer.q_map = Param::from_tensor(identity.clone());
            mixer.k_map = Param::from_tensor(identity);
        }
        Mixer::GatedDelta(mixer) => {
            mixer.in_proj_qkv.weight = Param::from_tensor(qkv(source, shape, &calibration.constant));
            mixer.in_proj_z.weight = Param::from_tensor(neutral(calibration, shape));
            mixer.conv1d = mixer.conv1d.clone().identity();
            mixer.out_proj.weight = Param::from_tensor(source.o_proj.weight.val());
        }
        Mixer::Mamba2(mixer) => {
            mixer.in_proj_z.weight = Param::from_tensor(neutral(calibration, shape));
            mixer.out_proj.weight = Param::from_tensor(source.o_proj.weight.val());
            mixer.out_proj.bias = source.o_proj.bias.as_ref().map(|bias| Param::from_tensor(bias.val()));
        }
    }
    student
}

/// Output gates that let everything pass as it is.
fn neutral<B: Backend>(found: &Calibration<B>, shape: &AttentionShape) -> Tensor<B, 2> {
    found.constant.clone().mul_scalar(NEUTRAL).expand([shape.hidden, shape.heads * shape.head_dim])
}

/// Output gates of all heads, as large as the parent's are.
fn magnitudes<B: Backend>(found: &Calibration<B>, shape: &AttentionShape) -> Tensor<B, 2> {
    let AttentionShape { hidden, heads, head_dim, .. } = *shape;
    found.gate.clone().unsqueeze_dim::<3>(2).expand([hidden, heads, head_dim]).reshape([hidden, heads * head_dim])
}

/// Queries, keys and values side by side.
fn qkv<B: Backend>(source: &Projections<B>, shape: &AttentionShape, constant: &Tensor<B, 2>) -> Tensor<B, 2> {
    Tensor::cat(heads_of(source, shape, constant).map(|part| part.flatten::<2>(1, 2)).into(), 1)
}

/// Queries, keys and values, `[hidden, H, D]`, every query head with a key and value head of its own, head norms folded in.
fn heads_of<B: Backend>(source: &Projections<B>, shape: &AttentionShape, constant: &Tensor<B, 2>) -> [Tensor<B, 3>; 3] {
    let AttentionShape { hidden, heads, kv_heads, head_dim, .. } = *shape;
    let part = |linear: &burn::nn::Linear<B>, norm: Option<&dtr_models::layers::RmsNorm<B>>, groups: usize| {
        let weight = linear.weight.val();
        let bias = linear.bias.as_ref().map(|bias| constant.clone().matmul(bias.val().unsqueeze()));
        let weight = bias.map_or(weight.clone(), |bias| weight + bias).reshape([hidden, groups, 1, head_dim]);
        let weight = norm.map_or(weight.clone(), |norm| weight * norm.weight.val().reshape([1, 1, 1, head_dim]));
        weight.expand([hidden, groups, heads / groups, head_dim]).reshape([hidden, heads, head_dim])
    };
    let q = part(&source.q_proj, source.q_norm.as_ref(), heads);
    let k = part(&source.k_proj, source.k_norm.as_ref(), kv_heads);
    let v = part(&source.v_proj, None, kv_heads);
    [q, k, v]
}

/// Random matrices in place of all that are there; drawn on the host, the same on every backend.
struct Random(ChaCha8Rng);

impl<B: Backend> ModuleMapper<B> for Random {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if D != 2 {
            return param;
        }
        let weight = param.val();
        let shape = weight.dims();
        let scale = (shape[0] as f32).powf(-0.5);
        let mut number = || {
            let number: f32 = StandardNormal.sample(&mut self.0);
            scale * number
        };
        let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| number()).collect();
        Param::from_tensor(Tensor::from_data(TensorData::new(numbers, shape), &weight.device()))
    }
}

/// Brings the outputs of every head to the parent's scale: rows of the output projection times `<parent, student> / <student, student>`,
/// sums over tokens, within bounds.
fn scale_heads<B: MixerBackend>(
    model: &Decoder<B>,
    teacher: &Decoder<B>,
    students: &mut [(usize, &mut Mixer<B>)],
    batches: &[Batch<B>],
    device: &B::Device,
) {
    let mut sums: Vec<Vec<[f64; 2]>> = students.iter().map(|(layer, _)| vec![[0.0; 2]; heads(teacher, *layer)]).collect();
    for batch in batches {
        observe(model, teacher, batch, |layer, seen| {
            for ((_, student), sums) in students.iter().zip(&mut sums).filter(|((at, _), _)| *at == layer) {
                let own = single(student.mix_features(seen.input.clone(), &seen.context).0);
                let parent = teacher.layers[layer].mixer.mix_features(seen.input.clone(), &seen.context).0;
                if own.dims() != parent.dims() {
                    continue;
                }
                let by_head = |product: Tensor<B, 3>| {
                    let [batch, time, width] = product.dims();
                    let weighted = seen.weights.clone().map_or(product.clone(), |weights| product * weights.unsqueeze_dim(2));
                    let sums = weighted.reshape([batch * time, heads(teacher, layer), width / heads(teacher, layer)]).sum_dim(0).sum_dim(2);
                    sums.into_data().convert::<f64>().iter::<f64>().collect::<Vec<f64>>()
                };
                let (met, power) = (by_head(own.clone() * single(parent)), by_head(own.square()));
                for (sum, (met, power)) in sums.iter_mut().zip(met.into_iter().zip(power)) {
                    *sum = [sum[0] + met, sum[1] + power];
                }
            }
        });
    }
    for ((_, student), sums) in students.iter_mut().zip(sums) {
        if sums.iter().all(|sum| sum[1] == 0.0) {
            continue;
        }
        let output = student.output_mut();
        let [width, hidden] = output.weight.dims();
        let scale = |[met, power]: &[f64; 2]| (met / power.max(f64::MIN_POSITIVE)).clamp(SCALES.0, SCALES.1) as f32;
        let scales: Vec<f32> = sums.iter().flat_map(|sum| std::iter::repeat_n(scale(sum), width / sums.len())).collect();
        let scales = Tensor::<B, 1>::from_floats(scales.as_slice(), device).unsqueeze_dim::<2>(1).expand([width, hidden]);
        output.weight = Param::from_tensor(output.weight.val() * scales);
    }
}

/// Refits the output projection of every student by ridge regression around where it stands, `min |X (W + D) - Y|^2 + penalty |D|^2`:
/// one pass over the rows, no optimiser, and on those rows never worse than before. Of a linear map, which starts at nothing, it is all there
/// is to find (NBL, arXiv 2505.21077).
///
/// Inputs are those in `model`, answers those of `teacher`; `students` with the layers they stand for.
///
/// # Errors
/// If outputs are not finite.
pub fn fit_outputs<B: MixerBackend>(
    model: &Decoder<B>,
    teacher: &Decoder<B>,
    students: &mut [(usize, &mut Mixer<B>)],
    batches: &[Batch<B>],
) -> Result<(), DistillError> {
    let mut moments: Vec<Option<Moments>> = vec![None; students.len()];
    for batch in batches {
        observe(model, teacher, batch, |layer, seen| {
            for ((_, student), moments) in students.iter().zip(&mut moments).filter(|((at, _), _)| *at == layer) {
                let features = student.mix_features(seen.input.clone(), &seen.context).0;
                let own = student.output();
                let [input, output] = own.weight.dims();
                moments.get_or_insert_with(|| Moments::new(input, output)).add(features, unbiased(own, &seen), seen.weights.clone());
            }
        });
    }
    for (moments, (layer, student)) in moments.iter().zip(students) {
        let Some(moments) = moments else { continue };
        let penalty = if matches!(student, Mixer::LinearMap(_)) { PENALTY } else { NEAR };
        let output = student.output_mut();
        let weight = moments.refined(output.weight.val(), penalty).ok_or(DistillError::Singular { layer: *layer })?;
        output.weight = Param::from_tensor(weight);
    }
    Ok(())
}

/// What the weights of an output projection are to give: what the parent's sublayer says, less the projection's bias.
pub(crate) fn unbiased<B: Backend>(output: &Linear<B>, seen: &Seen<B>) -> Tensor<B, 3> {
    match &output.bias {
        Some(bias) => seen.output.clone() - bias.val().unsqueeze(),
        None => seen.output.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::silu_inverse;

    #[test]
    fn silu_is_inverted() {
        for y in [0.0, 1e-3, 0.1, 0.5, 1.0, 3.0, 10.0, 100.0_f32] {
            let z = silu_inverse(y);
            assert!((z / (1.0 + (-z).exp()) - y).abs() <= 1e-5 * y.max(1.0), "{z} for {y}");
        }
    }
}
