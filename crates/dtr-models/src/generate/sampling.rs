//! How the next token is chosen from logits: penalty, temperature, truncation, draw, as transformers' logits processors do it and in their order.

use burn::prelude::*;
use rand::distr::{Distribution, weighted::WeightedIndex};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::error::GenerationError;

/// How tokens of one sequence are chosen.
///
/// The steps, in this order: `repetition_penalty`; then, where `temperature` is above 0, division by it, `top_k`, `top_p`, softmax and a
/// draw; where it is 0, the likeliest token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token; otherwise the softmax of `logits / temperature` is drawn from.
    pub temperature: f32,
    /// So many likeliest tokens are drawn from, and those as likely as the last of them; `None`: all.
    pub top_k: Option<usize>,
    /// The likeliest tokens that together have this probability are drawn from, at least one; 1: all.
    pub top_p: f32,
    /// Logits of tokens that the sequence or its prompt holds are divided by this where positive and multiplied where negative; 1: nothing.
    pub repetition_penalty: f32,
    /// Seed of the draws, which are made on the host: the same on every device, whatever other sequences do.
    pub seed: u64,
}

impl Sampling {
    /// The likeliest token, always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: None, top_p: 1.0, repetition_penalty: 1.0, seed: 0 };

    /// # Errors
    /// If a value is outside of its range.
    pub fn check(self) -> Result<Self, GenerationError> {
        let range = |name, right: bool, found: f32, expected| {
            if right { Ok(()) } else { Err(GenerationError::Setting { name, expected, found: found.to_string() }) }
        };
        let Self { temperature, top_k, top_p, repetition_penalty, .. } = self;
        range("temperature", temperature.is_finite() && temperature >= 0.0, temperature, "a number of 0 or more")?;
        range("top_p", top_p > 0.0 && top_p <= 1.0, top_p, "a number above 0, at most 1")?;
        let penalty = repetition_penalty.is_finite() && repetition_penalty > 0.0;
        range("repetition_penalty", penalty, repetition_penalty, "a number above 0")?;
        range("top_k", top_k != Some(0), 0.0, "a whole number above 0")?;
        Ok(self)
    }

    /// Whether the choice is the likeliest token of the logits as they are.
    pub(super) fn is_argmax(self) -> bool {
        self.temperature <= 0.0 && (self.repetition_penalty - 1.0).abs() < f32::EPSILON
    }

    /// What is drawn from: the logits after penalty, temperature and truncation; minus infinity where a token is ruled out.
    ///
    /// `seen` are the tokens of the sequence so far, each as often as it likes.
    pub fn process(self, logits: &mut [f32], seen: &[u32]) {
        if (self.repetition_penalty - 1.0).abs() >= f32::EPSILON {
            let mut seen = seen.to_vec();
            seen.sort_unstable();
            seen.dedup();
            for token in seen {
                let logit = &mut logits[token as usize];
                *logit = if *logit < 0.0 { *logit * self.repetition_penalty } else { *logit / self.repetition_penalty };
            }
        }
        if self.temperature <= 0.0 {
            return;
        }
        for logit in logits.iter_mut() {
            *logit /= self.temperature;
        }
        if let Some(count) = self.top_k.filter(|&count| count < logits.len()) {
            let mut sorted = logits.to_vec();
            let least = *sorted.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1;
            logits.iter_mut().filter(|logit| **logit < least).for_each(|logit| *logit = f32::NEG_INFINITY);
        }
        if self.top_p < 1.0 {
            keep_likeliest(logits, self.top_p);
        }
    }
}

/// Rules out the least likely tokens, which together have a probability of at most `1 - top_p`. One token always stays.
fn keep_likeliest(logits: &mut [f32], top_p: f32) {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    let Some((&likeliest, others)) = order.split_last() else { return };
    let most = logits[likeliest];
    let total: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    let mut sum = 0.0;
    for &token in others {
        sum += f64::from(logits[token] - most).exp() / total;
        if sum > 1.0 - f64::from(top_p) {
            break;
        }
        logits[token] = f32::NEG_INFINITY;
    }
}

/// Chooses the tokens of one sequence, and remembers what it must of it.
#[derive(Debug, Clone)]
pub(super) struct Sampler {
    pub(super) sampling: Sampling,
    random: ChaCha8Rng,
    /// The sequence so far, where a penalty asks for it.
    seen: Vec<u32>,
}

impl Sampler {
    /// For a sequence that begins with `prompt`. Sequences of one seed draw independently if their `stream`s differ.
    pub(super) fn new(sampling: Sampling, stream: u64, prompt: &[u32]) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(sampling.seed);
        random.set_stream(stream);
        Self { sampling, random, seen: prompt.to_vec() }
    }

    /// The next token, from `logits [vocabulary]`.
    pub(super) fn choose(&mut self, logits: &[f32]) -> u32 {
        let mut logits = logits.to_vec();
        self.sampling.process(&mut logits, &self.seen);
        let token = if self.sampling.temperature > 0.0 { self.draw(&logits) } else { likeliest(&logits) };
        self.seen.push(token);
        token
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights = WeightedIndex::new(logits.iter().map(|logit| (logit - most).exp()));
        // Logits that are no numbers have no distribution.
        weights.map_or(0, |weights| weights.sample(&mut self.random) as u32)
    }
}

/// The token with the largest logit, the first of several.
fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

/// One token a row by `samplers`, from `logits [B, vocabulary]`. Whole rows come to the host only where a draw or a penalty needs them.
pub(super) fn choose<B: Backend>(logits: &Tensor<B, 2>, samplers: &mut [&mut Sampler]) -> Vec<u32> {
    if samplers.iter().all(|sampler| sampler.sampling.is_argmax()) {
        let tokens = logits.clone().argmax(1).into_data().convert::<i64>();
        return tokens.iter::<i64>().map(|token| token as u32).collect();
    }
    let vocabulary = logits.dims()[1];
    let numbers: Vec<f32> = logits.clone().into_data().convert::<f32>().iter::<f32>().collect();
    numbers.chunks(vocabulary).zip(samplers).map(|(row, sampler)| sampler.choose(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_outside_of_their_range_are_refused() {
        let refused = |sampling: Sampling, name: &str| {
            let message = sampling.check().expect_err("refused").to_string();
            assert!(message.contains(name), "{message}");
        };
        for temperature in [-0.1, f32::NAN, f32::INFINITY] {
            refused(Sampling { temperature, ..Sampling::GREEDY }, "temperature");
        }
        for top_p in [0.0, 1.01, -1.0, f32::NAN] {
            refused(Sampling { top_p, ..Sampling::GREEDY }, "top_p");
        }
        for repetition_penalty in [0.0, -1.0, f32::NAN] {
            refused(Sampling { repetition_penalty, ..Sampling::GREEDY }, "repetition_penalty");
        }
        refused(Sampling { top_k: Some(0), ..Sampling::GREEDY }, "top_k");
        assert!(Sampling { temperature: 2.0, top_k: Some(1), top_p: 0.1, repetition_penalty: 3.0, seed: 1 }.check().is_ok());
    }

    #[test]
    fn draws_follow_the_probabilities_that_are_left() {
        let sampling = Sampling { temperature: 0.5, top_k: Some(3), ..Sampling::GREEDY };
        let mut sampler = Sampler::new(sampling, 0, &[]);
        let logits = [0.0, 1.0, 0.5, -1.0_f32];
        let weights = logits.map(|logit| if logit < 0.0 { 0.0 } else { f64::from(logit / 0.5).exp() });
        let total: f64 = weights.iter().sum();
        let mut counts = [0_u32; 4];
        for _ in 0..20_000 {
            counts[sampler.choose(&logits) as usize] += 1;
        }
        for (count, weight) in counts.into_iter().zip(weights) {
            let (p, n) = (weight / total, 20_000.0);
            assert!((f64::from(count) - n * p).abs() <= 4.0 * (n * p * (1.0 - p)).sqrt(), "{counts:?}");
        }
    }

    #[test]
    fn streams_of_one_seed_differ_and_each_is_the_same_again() {
        let draws = |stream| {
            let mut sampler = Sampler::new(Sampling { temperature: 1.0, ..Sampling::GREEDY }, stream, &[]);
            (0..32).map(|_| sampler.choose(&[0.0; 100])).collect::<Vec<_>>()
        };
        assert_eq!(draws(3), draws(3));
        assert_ne!(draws(3), draws(4));
    }
}
