//! Log-probabilities of tokens, and of those that would have been likelier.

use burn::prelude::*;

/// How likely the model took a token to be, whatever the settings of the draw.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenScore {
    /// The token.
    pub token: u32,
    /// `log p(token | before)`.
    pub logprob: f32,
    /// The likeliest tokens at its place with their log-probabilities, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// Scores of `targets` and of the `top` likeliest tokens, from `logits [T, vocabulary]`, one target a row.
pub(super) fn scores<B: Backend>(logits: Tensor<B, 2>, targets: &[u32], top: usize) -> Vec<TokenScore> {
    let vocabulary = logits.dims()[1];
    let logits: Vec<f32> = logits.into_data().convert::<f32>().iter::<f32>().collect();
    let score = |(logits, &token): (&[f32], &u32)| {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total = logits.iter().map(|logit| f64::from(logit - most).exp()).sum::<f64>().ln();
        let logprob = |token: u32| (f64::from(logits[token as usize] - most) - total) as f32;
        let top = likeliest(logits, top).into_iter().map(|token| (token, logprob(token))).collect();
        TokenScore { token, logprob: logprob(token), top }
    };
    logits.chunks(vocabulary).zip(targets).map(score).collect()
}

/// The `count` tokens with the largest logits, largest first; of equal ones the first.
fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    let mut best: Vec<u32> = Vec::with_capacity(count + 1);
    for token in 0..logits.len() as u32 {
        let logit = logits[token as usize];
        if best.len() < count || best.last().is_some_and(|&last| logit > logits[last as usize]) {
            let place = best.partition_point(|&other| logits[other as usize] >= logit);
            best.insert(place, token);
            best.truncate(count);
        }
    }
    best
}
