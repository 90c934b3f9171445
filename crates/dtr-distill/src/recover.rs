//! The whole hybrid trained a little towards the parent's answers: what students that learnt alone do to each other is put right.
//!
//! `L = KL(p || q) + w CE(q, next token)`, means over tokens by their weights; `p` is the parent, `q` the hybrid.

use burn::module::{AutodiffModule, ModuleMapper, Param};
use burn::optim::adaptor::OptimizerAdaptor;
use burn::optim::{GradientsParams, Optimizer};
use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use burn::tensor::backend::AutodiffBackend;
use dtr_attention::TrainBackend;
use dtr_models::layers::{cast, in_single};
use dtr_models::{Decoder, Mixer};

use crate::adamw::AdamW;
use crate::batch::{Batch, Row};
use crate::error::DistillError;
use crate::schedule::Schedule;
use crate::thaw::thaw;
use crate::trainer::Draw;

/// Share of the steps spent rising to the learning rate.
const WARMUP: f64 = 0.1;

/// Weights that are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trained {
    /// Those of the mixers that were put in.
    Mixers,
    /// Those, and all matrices of all blocks; norms, biases and embeddings, too, if asked for.
    All {
        /// Norms, biases and embeddings as well.
        norms_and_embeddings: bool,
    },
    /// The matrices of all blocks by an update of low rank each (Hu et al., arXiv 2106.09685), added in when done.
    LowRank(usize),
}

/// How long and how fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recovery {
    /// Steps of the optimiser.
    pub steps: usize,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Weight of the cross-entropy of the next token.
    pub task_weight: f64,
    /// What is trained.
    pub trained: Trained,
}

/// Trains `hybrid` on the rows that `training` gives for each step, and gives it back.
///
/// # Errors
/// If a loss stops being finite.
pub fn recover<B: TrainBackend>(
    parent: &Decoder<B::InnerBackend>,
    hybrid: &Decoder<B::InnerBackend>,
    settings: &Recovery,
    training: Draw<'_>,
    device: &B::Device,
    progress: &mut dyn FnMut(usize, f32),
) -> Result<Decoder<B::InnerBackend>, DistillError> {
    let optimiser = AdamW { decay: 0.0, nesterov: false };
    let mut model = frozen(Decoder::<B>::from_inner(in_single(hybrid.clone())), settings.trained);
    let mut updates = match settings.trained {
        Trained::LowRank(rank) => Updates::new(&model, rank, device),
        Trained::Mixers | Trained::All { .. } => Updates { pairs: Vec::new() },
    };
    let mut of_model: OptimizerAdaptor<_, Decoder<B>, B> = optimiser.into();
    let mut of_updates: OptimizerAdaptor<_, Updates<B>, B> = optimiser.into();
    let mut tokens = 0;
    for step in 0..settings.steps {
        let rows = training(step).map_err(DistillError::Rows)?;
        tokens += rows.iter().map(|row| row.tokens.len()).sum::<usize>();
        let rate = settings.learning_rate * Schedule::Cosine.share(step, settings.steps, WARMUP);
        let loss = loss(parent, &updates.applied(model.clone()), &rows, settings.task_weight, device);
        let value = loss.clone().inner().into_scalar().elem::<f32>();
        if !value.is_finite() {
            return Err(DistillError::RecoveryDiverged { tokens, loss: value });
        }
        let mut gradients = loss.backward();
        if updates.pairs.is_empty() {
            let gradients = GradientsParams::from_module(&mut gradients, &model);
            model = of_model.step(rate, model, gradients);
        } else {
            let gradients = GradientsParams::from_module(&mut gradients, &updates);
            updates = of_updates.step(rate, updates, gradients);
        }
        progress(tokens, value);
    }
    Ok(cast(updates.applied(model).valid(), hybrid.dtype()))
}

/// Of rows of equal length.
fn loss<B: TrainBackend>(
    parent: &Decoder<B::InnerBackend>,
    hybrid: &Decoder<B>,
    rows: &[Row],
    task_weight: f64,
    device: &B::Device,
) -> Tensor<B, 1> {
    let batch = Batch::<B::InnerBackend>::new(rows, device);
    let [count, length] = batch.ids.dims();
    let weights = batch.weights.unwrap_or_else(|| Tensor::ones([count, length], device));
    let mean = |x: Tensor<B, 2>, weights: Tensor<B::InnerBackend, 2>| {
        let sum = weights.clone().sum().add_scalar(f32::MIN_POSITIVE);
        (x * Tensor::from_inner(weights)).sum() / Tensor::from_inner(sum)
    };
    let wanted = log_softmax(parent.logits(batch.ids.clone()), 2);
    let ids = Tensor::<B, 2, Int>::from_inner(batch.ids);
    let found = log_softmax(hybrid.logits(ids.clone()), 2);
    // The parent's entropy does not depend on the hybrid; with it the loss is 0 where they agree.
    let probability = wanted.clone().exp();
    let entropy = (probability.clone() * wanted).sum_dim(2).squeeze_dim::<2>(2);
    let cross = (Tensor::<B, 3>::from_inner(probability) * found.clone()).sum_dim(2).squeeze_dim::<2>(2);
    let divergence = mean(Tensor::from_inner(entropy) - cross, weights.clone());
    if task_weight == 0.0 || length < 2 {
        return divergence;
    }
    let next = ids.narrow(1, 1, length - 1).unsqueeze_dim(2);
    let likelihood = found.narrow(1, 0, length - 1).gather(2, next).squeeze_dim::<2>(2);
    divergence - mean(likelihood, weights.narrow(1, 0, length - 1)).mul_scalar(task_weight)
}

/// The model with gradients only where it is to be trained.
fn frozen<B: AutodiffBackend>(model: Decoder<B>, trained: Trained) -> Decoder<B> {
    match trained {
        Trained::LowRank(_) => model.no_grad(),
        Trained::All { norms_and_embeddings: true } => thaw(model, None),
        Trained::All { norms_and_embeddings: false } | Trained::Mixers => {
            let mut model = model.no_grad();
            let matrices = matches!(trained, Trained::All { .. });
            let thaw = |layer: dtr_models::decoder::Block<B>| {
                let mut layer = if matrices { thaw(layer, Some(2)) } else { layer };
                if !matches!(layer.mixer, Mixer::Softmax(_)) {
                    layer.mixer = thaw(layer.mixer, None);
                }
                layer
            };
            model.layers = model.layers.into_iter().map(thaw).collect();
            model
        }
    }
}

/// One update `a b` for each matrix of the blocks, in the order in which they are visited.
#[derive(Module, Debug)]
struct Updates<B: Backend> {
    pairs: Vec<Pair<B>>,
}

#[derive(Module, Debug)]
struct Pair<B: Backend> {
    /// `[input, rank]`, small and random.
    a: Param<Tensor<B, 2>>,
    /// `[rank, output]`, zero at first: training begins at the hybrid.
    b: Param<Tensor<B, 2>>,
}

impl<B: Backend> Updates<B> {
    fn new(model: &Decoder<B>, rank: usize, device: &B::Device) -> Self {
        struct Shapes(Vec<[usize; 2]>);
        impl<B: Backend> burn::module::ModuleVisitor<B> for Shapes {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
                if let [input, output] = param.val().dims()[..] {
                    self.0.push([input, output]);
                }
            }
        }
        let mut shapes = Shapes(Vec::new());
        model.layers.iter().for_each(|layer| Module::<B>::visit(layer, &mut shapes));
        let pair = |(index, [input, output]): (usize, [usize; 2])| {
            // A fixed pattern in place of random numbers: the same on every backend.
            let value = |i: usize| (((i * 7919 + index * 104_729) % 2003) as f32 / 1001.0 - 1.0) / (input as f32).sqrt();
            let a = (0..input * rank).map(value).collect::<Vec<_>>();
            Pair {
                a: Param::from_tensor(Tensor::from_data(TensorData::new(a, [input, rank]), device)),
                b: Param::from_tensor(Tensor::zeros([rank, output], device)),
            }
        };
        Self { pairs: shapes.0.into_iter().enumerate().map(pair).collect() }
    }

    /// The model with the updates added in.
    fn applied(&self, mut model: Decoder<B>) -> Decoder<B> {
        struct Apply<'a, B: Backend>(std::slice::Iter<'a, Pair<B>>);
        impl<B: Backend> ModuleMapper<B> for Apply<'_, B> {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
                if D != 2 {
                    return param;
                }
                let Some(pair) = self.0.next() else { return param };
                let (id, weight, mapper) = param.consume();
                let update = pair.a.val().matmul(pair.b.val()).reshape(weight.shape());
                Param::from_mapped_value(id, weight + update, mapper)
            }
        }
        if !self.pairs.is_empty() {
            let mut apply = Apply(self.pairs.iter());
            model.layers = model.layers.into_iter().map(|layer| layer.map(&mut apply)).collect();
        }
        model
    }
}
