//! Text generation: prompts of unequal length read at once, then token by token with state.

use burn::prelude::*;
use dtr_attention::{MixerBackend, Positions};
use rand::distr::{Distribution, weighted::WeightedIndex};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::decoder::Decoder;
use crate::mixer::MixerState;

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token; otherwise the softmax of `logits / temperature` is drawn from.
    pub temperature: f32,
    /// Seed of the draws, which are made on the host: the same on every device.
    pub seed: u64,
}

impl Sampling {
    /// The likeliest token, always.
    pub const GREEDY: Self = Self { temperature: 0.0, seed: 0 };
}

/// A batch of sequences that are being extended.
#[derive(Debug)]
pub struct Session<'a, B: Backend> {
    model: &'a Decoder<B>,
    states: Vec<MixerState<B>>,
    /// Tokens read so far, by row.
    lengths: Vec<usize>,
    device: B::Device,
}

impl<'a, B: MixerBackend> Session<'a, B> {
    /// Reads `prompts` (padded on the left where they differ in length) and returns the logits after each, `[B, vocabulary]`.
    ///
    /// # Panics
    /// If there is no prompt, or an empty one.
    pub fn start(model: &'a Decoder<B>, prompts: &[Vec<u32>], device: &B::Device) -> (Self, Tensor<B, 2>) {
        assert!(!prompts.is_empty() && prompts.iter().all(|prompt| !prompt.is_empty()), "at least one token a prompt");
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(prompts.len() * longest);
        let mut rows = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let missing = longest - prompt.len();
            ids.extend(std::iter::repeat_n(0, missing).chain(prompt.iter().map(|&token| i64::from(token))));
            rows.push((0..longest).map(|column| column >= missing).collect::<Vec<_>>());
        }
        let ids = Tensor::from_data(TensorData::new(ids, [prompts.len(), longest]), device);
        let equal = prompts.iter().all(|prompt| prompt.len() == longest);
        let positions = if equal { Positions::range(0, longest) } else { Positions::padded(&rows, &vec![0; rows.len()]) };
        let mut session = Self {
            model,
            states: model.empty_state(prompts.len()),
            lengths: prompts.iter().map(Vec::len).collect(),
            device: device.clone(),
        };
        let logits = session.read(ids, positions);
        (session, logits)
    }

    /// Appends one token to each row and returns the logits after it, `[B, vocabulary]`.
    pub fn step(&mut self, tokens: &[u32]) -> Tensor<B, 2> {
        let ids: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
        let ids = Tensor::from_data(TensorData::new(ids, [tokens.len(), 1]), &self.device);
        let equal = self.lengths.iter().all(|length| *length == self.lengths[0]);
        let positions =
            if equal { Positions::range(self.lengths[0], 1) } else { Positions::padded(&vec![vec![true]; tokens.len()], &self.lengths) };
        self.lengths.iter_mut().for_each(|length| *length += 1);
        self.read(ids, positions)
    }

    /// Bytes of keys, values and states held, all rows together.
    pub fn cache_bytes(&self) -> usize {
        self.states.iter().map(MixerState::bytes).sum()
    }

    fn read(&mut self, ids: Tensor<B, 2, Int>, positions: Positions) -> Tensor<B, 2> {
        let hidden = self.model.forward(ids, positions, &mut self.states);
        let last = hidden.dims()[1] - 1;
        self.model.head(hidden.narrow(1, last, 1)).squeeze_dim(1)
    }
}

/// Extends each prompt by `count` tokens, or up to and including the first of `stop`.
///
/// `on_step` is told the tokens of each step, one a row (`None` for rows that have stopped).
///
/// # Panics
/// If there is no prompt, or an empty one.
pub fn generate<B: MixerBackend>(
    model: &Decoder<B>,
    prompts: &[Vec<u32>],
    count: usize,
    sampling: Sampling,
    stop: &[u32],
    device: &B::Device,
    mut on_step: impl FnMut(&[Option<u32>]),
) -> Vec<Vec<u32>> {
    let mut random = ChaCha8Rng::seed_from_u64(sampling.seed);
    let mut outputs = vec![Vec::new(); prompts.len()];
    let mut running = vec![true; prompts.len()];
    let (mut session, mut logits) = Session::start(model, prompts, device);
    for step in 0..count {
        let tokens = choose(logits.clone(), sampling.temperature, &mut random);
        let mut shown = vec![None; prompts.len()];
        for (row, &token) in tokens.iter().enumerate() {
            if running[row] {
                outputs[row].push(token);
                shown[row] = Some(token);
                running[row] = !stop.contains(&token);
            }
        }
        on_step(&shown);
        if step + 1 == count || !running.contains(&true) {
            break;
        }
        logits = session.step(&tokens);
    }
    outputs
}

/// One token a row from `logits [B, vocabulary]`.
fn choose<B: Backend>(logits: Tensor<B, 2>, temperature: f32, random: &mut ChaCha8Rng) -> Vec<u32> {
    if temperature <= 0.0 {
        let tokens = logits.argmax(1).into_data().convert::<i64>();
        return tokens.iter::<i64>().map(|token| token as u32).collect();
    }
    let vocabulary = logits.dims()[1];
    let probabilities = burn::tensor::activation::softmax(logits.div_scalar(temperature), 1).into_data().convert::<f32>();
    let probabilities: Vec<f32> = probabilities.iter::<f32>().collect();
    let draw = |row: &[f32]| WeightedIndex::new(row.iter().copied()).map_or(0, |weights| weights.sample(random) as u32);
    probabilities.chunks(vocabulary).map(draw).collect()
}
