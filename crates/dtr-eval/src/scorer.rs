//! Scores of models that differ in few layers: what they share in front of the first difference is computed once.

use burn::prelude::*;
use dtr_attention::{MixerBackend, loss};
use dtr_models::{Context, Decoder};
use rayon::prelude::*;

use crate::batch::{Batch, batches};
use crate::task::{Example, Metric};

/// Tokens of a batch: large enough for full speed, small enough that several fit beside each other.
const BATCH_TOKENS: usize = 4096;

/// Score and loss of each example.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Task metric and mean cross-entropy in nats of each example, in the task's order.
    pub examples: Vec<(f32, f32)>,
}

impl Scores {
    /// Mean of the task metric.
    pub fn score(&self) -> f64 {
        self.mean(|example| example.0)
    }

    /// Mean cross-entropy in nats.
    pub fn loss(&self) -> f64 {
        self.mean(|example| example.1)
    }

    fn mean(&self, of: impl Fn(&(f32, f32)) -> f32) -> f64 {
        self.examples.iter().map(|example| f64::from(of(example))).sum::<f64>() / self.examples.len() as f64
    }
}

/// The examples of one split, with hidden states of a base model in front of every layer.
#[derive(Debug)]
pub struct Scorer<B: Backend> {
    metric: Metric,
    work: Vec<Work<B>>,
    examples: usize,
    /// Whether the base's hidden states fit into the memory allowed for them.
    caching: bool,
}

#[derive(Debug)]
struct Work<B: Backend> {
    batch: Batch<B>,
    /// Hidden states of the base in front of layer `i`, as far as they are known.
    prefix: Vec<Tensor<B, 3>>,
}

impl<B: MixerBackend> Scorer<B> {
    /// Examples to be scored; up to `cache_bytes` of hidden states are kept.
    pub fn new(examples: &[Example], metric: Metric, model: &Decoder<B>, cache_bytes: usize, device: &B::Device) -> Self {
        let work: Vec<_> = batches(examples, BATCH_TOKENS, device).into_iter().map(|batch| Work { batch, prefix: Vec::new() }).collect();
        let hidden = model.embed(Tensor::zeros([1, 1], device)).dims()[2];
        let tokens: usize = work.iter().map(|work| work.batch.ids.dims().iter().product::<usize>()).sum();
        let needed = tokens * hidden * model.layers.len() * std::mem::size_of::<f32>();
        Self { metric, work, examples: examples.len(), caching: needed <= cache_bytes }
    }

    /// Whether the base's hidden states are kept.
    pub fn is_caching(&self) -> bool {
        self.caching
    }

    /// Scores `model`, whose first `shared` layers are those of the base; without a base, all layers run.
    pub fn score(&self, model: &Decoder<B>, shared: usize) -> Scores {
        let results: Vec<_> = self.work.par_iter().map(|work| work.score(model, shared, self.metric)).collect();
        let mut examples = vec![(0.0, 0.0); self.examples];
        for (work, scores) in self.work.iter().zip(results) {
            for (&index, score) in work.batch.examples.iter().zip(scores) {
                examples[index] = score;
            }
        }
        Scores { examples }
    }

    /// Makes `model` the base, its first `shared` layers being those of the base so far.
    pub fn rebase(&mut self, model: &Decoder<B>, shared: usize) {
        if self.caching {
            self.work.par_iter_mut().for_each(|work| work.rebase(model, shared));
        }
    }
}

impl<B: MixerBackend> Work<B> {
    fn score(&self, model: &Decoder<B>, shared: usize, metric: Metric) -> Vec<(f32, f32)> {
        let context = model.context(self.batch.positions.clone());
        let known = shared.min(self.prefix.len().saturating_sub(1));
        let mut x = self.prefix.get(known).cloned().unwrap_or_else(|| model.embed(self.batch.ids.clone()));
        let last = model.layers.len() - 1;
        for layer in &model.layers[known.min(last)..last] {
            x = pass(layer, x, &context);
        }
        // Behind the last mixer only the positions count that predict something.
        let layer = &model.layers[last];
        let mixed = layer.mixer.mix(layer.mixer_input(x.clone()), &context);
        let [x, mixed] = [x, mixed].map(|x| self.predicting(x));
        self.scores(model, layer.after_mixer(x, mixed), metric)
    }

    fn rebase(&mut self, model: &Decoder<B>, shared: usize) {
        let context = model.context(self.batch.positions.clone());
        self.prefix.truncate(shared + 1);
        if self.prefix.is_empty() {
            self.prefix.push(model.embed(self.batch.ids.clone()));
        }
        let known = self.prefix.len() - 1;
        // A candidate differs from the base somewhere: the output of the last layer is never shared.
        let last = model.layers.len() - 1;
        for layer in &model.layers[known.min(last)..last] {
            let x = pass(layer, self.prefix[self.prefix.len() - 1].clone(), &context);
            self.prefix.push(x);
        }
    }

    /// The rows of `x [B, T, N]` that predict a labelled token, `[1, M, N]`.
    fn predicting(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let [batch, time, width] = x.dims();
        x.reshape([batch * time, width]).select(0, self.batch.predicting.clone()).unsqueeze()
    }

    /// Score and loss of each row from the hidden states `[1, M, N]` that predict its labelled tokens.
    fn scores(&self, model: &Decoder<B>, x: Tensor<B, 3>, metric: Metric) -> Vec<(f32, f32)> {
        let logits = model.head(x).squeeze_dim::<2>(0);
        let right = logits.clone().argmax(1).equal(self.batch.targets.clone()).int();
        let nats = loss::cross_entropy(logits, self.batch.targets.clone().squeeze_dim(1));
        let right: Vec<i64> = right.into_data().convert::<i64>().iter::<i64>().collect();
        let nats: Vec<f32> = nats.into_data().convert::<f32>().iter::<f32>().collect();
        let mut at = 0;
        let rows = self.batch.counts.iter().map(|&count| {
            let (right, nats) = (&right[at..at + count], &nats[at..at + count]);
            at += count;
            let hits = right.iter().filter(|&&right| right == 1).count();
            let score = match metric {
                Metric::ExactMatch => f32::from(u8::from(hits == count)),
                Metric::TokenAccuracy => hits as f32 / count as f32,
            };
            (score, nats.iter().sum::<f32>() / count as f32)
        });
        rows.collect()
    }
}

fn pass<B: MixerBackend>(layer: &dtr_models::decoder::Block<B>, x: Tensor<B, 3>, context: &Context<B>) -> Tensor<B, 3> {
    let state = layer.mixer.empty_state(x.dims()[0]);
    layer.forward(x, context, state).0
}
