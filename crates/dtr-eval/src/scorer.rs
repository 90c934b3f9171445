//! Scores of models that differ in few layers: what they share in front of the first difference is computed once.

use std::ops::Range;

use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use dtr_attention::{MixerBackend, loss};
use dtr_models::{Context, Decoder};
use rayon::prelude::*;

use crate::batch::{Batch, batches};
use crate::prefixes::{Path, Prefixes};
use crate::task::{Example, Metric};

/// Tokens of a batch: large enough for full speed, small enough that several fit beside each other.
const BATCH_TOKENS: usize = 4096;

/// Examples scored together or not at all.
const BLOCK: usize = 32;

/// Blocks in memory at once.
const AT_ONCE: usize = 16;

/// How one example went.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Task metric.
    pub score: f32,
    /// Mean cross-entropy of the labelled tokens in nats.
    pub loss: f32,
    /// Mean `KL(parent || model)` where they are predicted, in nats.
    pub divergence: f32,
}

/// The examples of one split, and what is known of them.
#[derive(Debug)]
pub struct Scorer<B: Backend> {
    metric: Metric,
    /// The model that others diverge from, and its path.
    parent: (Decoder<B>, Vec<u64>),
    blocks: Vec<Block<B>>,
    prefixes: Prefixes<B>,
    examples: usize,
    hidden: usize,
}

/// Consecutive examples.
#[derive(Debug)]
struct Block<B: Backend> {
    examples: Range<usize>,
    work: Vec<Work<B>>,
}

#[derive(Debug)]
struct Work<B: Backend> {
    batch: Batch<B>,
    /// The parent's hidden states in front of the head that predict the labelled tokens, `[1, M, N]`, once they are known.
    parent: Option<Tensor<B, 3>>,
}

/// What comes out of a batch.
struct Outcome<B: Backend> {
    scores: Vec<Score>,
    /// Hidden states in front of the head where labelled tokens are predicted, `[1, M, N]`.
    front: Tensor<B, 3>,
    /// Hidden states behind each layer from the first that was run, the last one left out.
    states: Vec<Tensor<B, 3>>,
}

impl<B: MixerBackend> Scorer<B> {
    /// Examples to be scored, in parts that are always scored from their beginning; up to `cache_bytes` of hidden states
    /// are kept.
    pub fn new(
        examples: &[Example],
        parts: &[Range<usize>],
        metric: Metric,
        parent: (&Decoder<B>, &Path),
        cache_bytes: usize,
        device: &B::Device,
    ) -> Self {
        let cuts = parts.iter().flat_map(|part| part.clone().step_by(BLOCK).map(|from| from..(from + BLOCK).min(part.end)));
        let block = |range: Range<usize>| Block {
            work: batches(&examples[range.clone()], BATCH_TOKENS, device).into_iter().map(|batch| Work { batch, parent: None }).collect(),
            examples: range,
        };
        let hidden = parent.0.embed(Tensor::zeros([1, 1], device)).dims()[2];
        let blocks = cuts.map(block).collect();
        let parent = (parent.0.clone(), parent.1.to_vec());
        Self { metric, parent, blocks, prefixes: Prefixes::new(cache_bytes), examples: examples.len(), hidden }
    }

    /// Scores `model`, described by `path`, on some examples, and says what that took in units of a full evaluation of all.
    ///
    /// # Panics
    /// If `examples` does not begin and end where blocks do.
    pub fn score(&mut self, model: &Decoder<B>, path: &Path, examples: Range<usize>) -> (Vec<Score>, f64) {
        let (mut scores, mut work) = (Vec::new(), 0.0);
        for blocks in self.blocks(examples).chunks(AT_ONCE) {
            for &block in blocks {
                work += self.planned(block, path);
            }
            scores.extend(self.score_blocks(model, path, blocks));
            for &block in blocks {
                self.remember(block, path);
            }
        }
        (scores, work)
    }

    /// Takes note of results that need no work any more: later ones are planned as if they had been computed here.
    ///
    /// # Panics
    /// If `examples` does not begin and end where blocks do.
    pub fn skip(&mut self, path: &Path, examples: Range<usize>) {
        for block in self.blocks(examples) {
            self.remember(block, path);
        }
    }

    /// What shares beginnings with `path` is asked for next.
    pub fn favour(&mut self, path: &Path) {
        for block in 0..self.blocks.len() {
            self.prefixes.favour(block, path);
        }
    }

    fn blocks(&self, examples: Range<usize>) -> Vec<usize> {
        let inside = |block: &Block<B>| block.examples.start >= examples.start && block.examples.end <= examples.end;
        let found: Vec<usize> = (0..self.blocks.len()).filter(|&index| inside(&self.blocks[index])).collect();
        let count: usize = found.iter().map(|&index| self.blocks[index].examples.len()).sum();
        assert_eq!(count, examples.len(), "examples {examples:?} cut blocks apart");
        found
    }

    /// Bytes of the hidden states in front of one layer.
    fn bytes(&self, block: usize) -> usize {
        let tokens: usize = self.blocks[block].work.iter().map(|work| work.batch.ids.dims().iter().product::<usize>()).sum();
        tokens * self.hidden * std::mem::size_of::<f32>()
    }

    /// Work of scoring `path`, given what is known.
    fn planned(&self, block: usize, path: &Path) -> f64 {
        let share = self.blocks[block].examples.len() as f64 / self.examples as f64;
        share * (path.len() - self.prefixes.known(block, path)) as f64 / path.len() as f64
    }

    /// Books the states that scoring `path` leaves.
    fn remember(&mut self, block: usize, path: &Path) {
        let bytes = self.bytes(block);
        if self.prefixes.admits(bytes) {
            for layer in 1..path.len() {
                self.prefixes.insert(block, &path[..layer], bytes, None);
            }
        }
        let sizes: Vec<usize> = (0..self.blocks.len()).map(|block| self.bytes(block)).collect();
        self.prefixes.shrink(|block| sizes[block]);
    }

    fn score_blocks(&mut self, model: &Decoder<B>, path: &Path, blocks: &[usize]) -> Vec<Score> {
        let mut jobs = Vec::new();
        for &block in blocks {
            let (layer, states) = self.prefixes.states(block, path).map_or((0, None), |(layer, states)| (layer, Some(states)));
            for (index, _) in self.blocks[block].work.iter().enumerate() {
                jobs.push((block, index, layer, states.as_ref().map(|states| states[index].clone())));
            }
        }
        let keeps: Vec<bool> = blocks.iter().map(|&block| self.prefixes.admits(self.bytes(block))).collect();
        let keep = keeps.iter().all(|&keep| keep);
        let (metric, parent) = (self.metric, &self.parent.0);
        let is_parent = path == self.parent.1;
        let unknown = |&(block, index): &(usize, usize)| !is_parent && self.blocks[block].work[index].parent.is_none();
        let missing: Vec<(usize, usize)> = jobs.iter().map(|job| (job.0, job.1)).filter(unknown).collect();
        let references: Vec<_> = missing.par_iter().map(|&(block, index)| self.blocks[block].work[index].reference(parent)).collect();
        for ((block, index), reference) in missing.into_iter().zip(references) {
            self.blocks[block].work[index].parent = Some(reference);
        }
        let results: Vec<Outcome<B>> = jobs
            .par_iter()
            .map(|(block, index, layer, state)| self.blocks[*block].work[*index].score(model, *layer, state.clone(), parent, metric, keep))
            .collect();
        let mut results = jobs.iter().zip(results).peekable();
        let mut scores = Vec::new();
        for &block in blocks {
            let range = self.blocks[block].examples.clone();
            let mut of_block = vec![Score::default(); range.len()];
            let mut states: Vec<Vec<Tensor<B, 3>>> = Vec::new();
            let mut first = 0;
            while let Some(((_, index, layer, _), result)) = results.next_if(|((other, ..), _)| *other == block) {
                for (&example, score) in self.blocks[block].work[*index].batch.examples.iter().zip(result.scores) {
                    of_block[example] = score;
                }
                if is_parent {
                    self.blocks[block].work[*index].parent = Some(result.front);
                }
                first = *layer;
                states.resize_with(result.states.len(), Vec::new);
                for (layer, state) in states.iter_mut().zip(result.states) {
                    layer.push(state);
                }
            }
            let bytes = self.bytes(block);
            for (layer, states) in states.into_iter().enumerate() {
                self.prefixes.insert(block, &path[..=first + layer], bytes, Some(states));
            }
            scores.extend(of_block);
        }
        scores
    }
}

impl<B: MixerBackend> Work<B> {
    fn score(
        &self,
        model: &Decoder<B>,
        first: usize,
        state: Option<Tensor<B, 3>>,
        parent: &Decoder<B>,
        metric: Metric,
        keep: bool,
    ) -> Outcome<B> {
        let (x, states) = self.predicting_states(model, first, state, keep);
        Outcome { scores: self.scores(model, x.clone(), parent, metric), front: x, states }
    }

    fn reference(&self, parent: &Decoder<B>) -> Tensor<B, 3> {
        self.predicting_states(parent, 0, None, false).0
    }

    /// Runs the layers from `first`; what comes in front of the head where labelled tokens are predicted, and, if they are to be
    /// kept, the hidden states behind each layer but the last.
    fn predicting_states(
        &self,
        model: &Decoder<B>,
        first: usize,
        state: Option<Tensor<B, 3>>,
        keep: bool,
    ) -> (Tensor<B, 3>, Vec<Tensor<B, 3>>) {
        let context = model.context(self.batch.positions.clone());
        let mut x = state.unwrap_or_else(|| model.embed(self.batch.ids.clone()));
        let last = model.layers.len() - 1;
        let mut states = Vec::new();
        for layer in &model.layers[first..last] {
            x = pass(layer, x, &context);
            if keep {
                states.push(x.clone());
            }
        }
        // Behind the last mixer only the positions count that predict something.
        let layer = &model.layers[last];
        let mixed = layer.mixer.mix(layer.mixer_input(x.clone()), &context);
        let [x, mixed] = [x, mixed].map(|x| self.predicting(x));
        (layer.after_mixer(x, mixed), states)
    }

    /// The rows of `x [B, T, N]` that predict a labelled token, `[1, M, N]`.
    fn predicting(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let [batch, time, width] = x.dims();
        x.reshape([batch * time, width]).select(0, self.batch.predicting.clone()).unsqueeze()
    }

    /// Scores of each row from the hidden states `[1, M, N]` that predict its labelled tokens.
    fn scores(&self, model: &Decoder<B>, x: Tensor<B, 3>, parent: &Decoder<B>, metric: Metric) -> Vec<Score> {
        let logits = model.head(x).squeeze_dim::<2>(0);
        let right = logits.clone().argmax(1).equal(self.batch.targets.clone()).int();
        let divergences = self.parent.as_ref().map(|parent_states| {
            let own = log_softmax(logits.clone(), 1);
            let parent = log_softmax(parent.head(parent_states.clone()).squeeze_dim::<2>(0), 1);
            let divergence = (parent.clone().exp() * (parent - own)).sum_dim(1);
            divergence.into_data().convert::<f32>().iter::<f32>().collect::<Vec<f32>>()
        });
        let nats = loss::cross_entropy(logits, self.batch.targets.clone().squeeze_dim(1));
        let right: Vec<bool> = right.into_data().convert::<i64>().iter::<i64>().map(|right| right == 1).collect();
        let nats: Vec<f32> = nats.into_data().convert::<f32>().iter::<f32>().collect();
        let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
        let mut at = 0;
        let rows = self.batch.answers.iter().map(|answers| {
            let rows = at..at + answers.iter().sum::<usize>();
            at = rows.end;
            let score = metric.score(&right[rows.clone()], answers);
            Score { score, loss: mean(&nats[rows.clone()]), divergence: divergences.as_ref().map_or(0.0, |all| mean(&all[rows])) }
        });
        rows.collect()
    }
}

fn pass<B: MixerBackend>(layer: &dtr_models::decoder::Block<B>, x: Tensor<B, 3>, context: &Context<B>) -> Tensor<B, 3> {
    let state = layer.mixer.empty_state(x.dims()[0]);
    layer.forward(x, context, state).0
}
