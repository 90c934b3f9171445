//! Continuous batching: sequences are extended together, and come and go at any step.

use burn::prelude::*;
use dtr_attention::MixerBackend;

use super::sampling::{Sampler, Sampling, choose};
use super::scores::{TokenScore, scores};
use super::session::Session;
use crate::decoder::Decoder;

/// What is to be generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    /// Tokens to continue, one at least.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Sequences of one seed draw independently if this differs.
    pub stream: u64,
    /// Most tokens to add; 0 only reads the prompt.
    pub count: usize,
    /// Tokens that end the sequence; the one that does is its last.
    pub stop: Vec<u32>,
    /// Whether log-probabilities are wanted, and of how many of the likeliest tokens beside the chosen one.
    pub scores: Option<usize>,
    /// Whether they are wanted of the prompt as well.
    pub score_prompt: bool,
}

impl Sequence {
    /// At most `count` tokens after `prompt`, the likeliest ones, whatever they are.
    pub fn new(prompt: Vec<u32>, count: usize) -> Self {
        Self { prompt, sampling: Sampling::GREEDY, stream: 0, count, stop: vec![], scores: None, score_prompt: false }
    }
}

/// Why a sequence has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// By a token of [`Sequence::stop`].
    Stop,
    /// It has as many tokens as asked for.
    Length,
}

/// What a step brought one sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress<K> {
    /// Whose it is.
    pub key: K,
    /// Scores of the prompt's tokens but the first, once, if asked for.
    pub prompt: Vec<TokenScore>,
    /// The new token; `None` where none was asked for.
    pub token: Option<u32>,
    /// The new token's score, if asked for.
    pub score: Option<TokenScore>,
    /// Set with the last token. The sequence is then no longer part of the batch.
    pub finish: Option<Finish>,
}

/// Sequences that are extended together. What one gets does not depend on which others are there, but for the last bits of sums.
#[derive(Debug)]
pub struct Batch<'a, B: Backend, K> {
    model: &'a Decoder<B>,
    device: B::Device,
    /// One row that has read what all prompts begin with, and how many tokens these are.
    prefix: Option<(Session<'a, B>, usize)>,
    session: Option<Session<'a, B>>,
    rows: Vec<Row<K>>,
}

#[derive(Debug)]
struct Row<K> {
    key: K,
    sampler: Sampler,
    /// The newest token, not yet read.
    token: u32,
    left: usize,
    stop: Vec<u32>,
    scores: Option<usize>,
}

impl<'a, B: MixerBackend, K: Clone> Batch<'a, B, K> {
    /// A batch without sequences.
    pub fn new(model: &'a Decoder<B>, device: &B::Device) -> Self {
        Self { model, device: device.clone(), prefix: None, session: None, rows: Vec::new() }
    }

    /// A batch whose prompts all begin with the `length` tokens that the one row of `session` has read, and are longer: these are not read
    /// again. Scores of a prompt are then those of its further tokens.
    pub fn behind(session: Session<'a, B>, length: usize, model: &'a Decoder<B>, device: &B::Device) -> Self {
        Self { prefix: Some((session, length)), ..Self::new(model, device) }
    }

    /// Number of sequences under way.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is nothing to extend.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes of keys, values and states held, all sequences together.
    pub fn cache_bytes(&self) -> usize {
        self.session.as_ref().map_or(0, Session::cache_bytes)
    }

    /// Reads the prompts of new sequences together, equal ones once, and chooses the first token of each.
    ///
    /// # Panics
    /// If a prompt is empty, no longer than what was read before, or has a token beyond the vocabulary.
    pub fn admit(&mut self, new: Vec<(K, Sequence)>) -> Vec<Progress<K>> {
        if new.is_empty() {
            return Vec::new();
        }
        let mut prompts: Vec<Vec<u32>> = Vec::new();
        let mut places = Vec::with_capacity(new.len());
        for (_, sequence) in &new {
            let known = prompts.iter().position(|prompt| *prompt == sequence.prompt);
            places.push(known.unwrap_or_else(|| {
                prompts.push(sequence.prompt.clone());
                prompts.len() - 1
            }));
        }
        let mut session = match &self.prefix {
            Some((session, length)) => {
                for prompt in &mut prompts {
                    prompt.drain(..*length);
                }
                session.select(&vec![0; prompts.len()])
            }
            None => Session::empty(self.model, prompts.len(), &self.device),
        };
        let hidden = session.read(&prompts);
        let scored: Vec<Vec<TokenScore>> = new
            .iter()
            .zip(&places)
            .map(|((_, sequence), &place)| {
                let top = sequence.scores.filter(|_| sequence.score_prompt);
                top.map_or_else(Vec::new, |top| self.prompt_scores(&hidden, place, &prompts[place], top))
            })
            .collect();
        let last: Vec<Tensor<B, 3>> =
            places.iter().map(|&place| hidden.clone().narrow(0, place, 1).narrow(1, prompts[place].len() - 1, 1)).collect();
        let logits = self.model.head(Tensor::cat(last, 0)).squeeze_dim(1);
        let mut rows: Vec<Row<K>> = new
            .into_iter()
            .map(|(key, Sequence { prompt, sampling, stream, count, stop, scores, .. })| Row {
                key,
                sampler: Sampler::new(sampling, stream, &prompt),
                token: 0,
                left: count,
                stop,
                scores,
            })
            .collect();
        let mut progress = advance(&logits, &mut rows);
        progress.iter_mut().zip(scored).for_each(|(progress, scores)| progress.prompt = scores);
        let staying: Vec<usize> = (0..rows.len()).filter(|&row| progress[row].finish.is_none()).collect();
        if !staying.is_empty() {
            let session = session.select(&staying.iter().map(|&row| places[row]).collect::<Vec<_>>());
            self.session = Some(match self.session.take() {
                Some(running) => running.join(session),
                None => session,
            });
            self.rows.extend(rows.into_iter().zip(&progress).filter(|(_, progress)| progress.finish.is_none()).map(|(row, _)| row));
        }
        progress
    }

    /// Extends every sequence by one token.
    pub fn step(&mut self) -> Vec<Progress<K>> {
        let Some(session) = &mut self.session else { return Vec::new() };
        let logits = session.step(&self.rows.iter().map(|row| row.token).collect::<Vec<_>>());
        let progress = advance(&logits, &mut self.rows);
        let mut ended = progress.iter().map(|progress| progress.finish.is_some());
        self.retain(|_| !ended.next().unwrap_or(true));
        progress
    }

    /// Drops the sequences whose key is not to be kept. Called once for each, in their order.
    pub fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        let kept: Vec<bool> = self.rows.iter().map(|row| keep(&row.key)).collect();
        let staying: Vec<usize> = (0..kept.len()).filter(|&row| kept[row]).collect();
        if staying.len() == kept.len() {
            return;
        }
        self.session = self.session.take().filter(|_| !staying.is_empty()).map(|session| session.select(&staying));
        let mut kept = kept.into_iter();
        self.rows.retain(|_| kept.next().unwrap_or(false));
    }

    /// Scores of the tokens of row `place` but the first.
    fn prompt_scores(&self, hidden: &Tensor<B, 3>, place: usize, prompt: &[u32], top: usize) -> Vec<TokenScore> {
        /// Positions whose logits are held at a time.
        const CHUNK: usize = 256;
        let targets = &prompt[1..];
        let chunk = |(index, targets): (usize, &[u32])| {
            let hidden = hidden.clone().narrow(0, place, 1).narrow(1, index * CHUNK, targets.len());
            scores(self.model.head(hidden).squeeze_dim(0), targets, top)
        };
        targets.chunks(CHUNK).enumerate().flat_map(chunk).collect()
    }
}

/// Chooses a token for each row, from `logits [B, vocabulary]`.
fn advance<B: Backend, K: Clone>(logits: &Tensor<B, 2>, rows: &mut [Row<K>]) -> Vec<Progress<K>> {
    let tokens = choose(logits, &mut rows.iter_mut().map(|row| &mut row.sampler).collect::<Vec<_>>());
    let progress = |(index, (row, token)): (usize, (&mut Row<K>, u32))| {
        let key = row.key.clone();
        if row.left == 0 {
            return Progress { key, prompt: vec![], token: None, score: None, finish: Some(Finish::Length) };
        }
        row.token = token;
        row.left -= 1;
        let score = row.scores.map(|top| scores(logits.clone().narrow(0, index, 1), &[token], top).remove(0));
        let finish = match row.left {
            _ if row.stop.contains(&token) => Some(Finish::Stop),
            0 => Some(Finish::Length),
            _ => None,
        };
        Progress { key, prompt: vec![], token: Some(token), score, finish }
    };
    rows.iter_mut().zip(tokens).enumerate().map(progress).collect()
}
