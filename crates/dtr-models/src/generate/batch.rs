//! Continuous batching: sequences are extended together, and come and go at any step.

use std::collections::VecDeque;

use burn::prelude::*;
use dtr_attention::MixerBackend;

use super::memory::{Known, Memory};
use super::sampling::{Sampler, Sampling, choose};
use super::scores::{TokenScore, scores};
use super::session::Session;
use crate::decoder::Decoder;
use crate::mixer::attention::row_index;

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
    /// Tokens of the prompt that an earlier sequence had read, told once.
    pub cached: usize,
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
    memory: Memory<'a, B>,
    reading: Option<Reading<'a, B, K>>,
    session: Option<Session<'a, B>>,
    rows: Vec<Row<K>>,
}

/// Prompts that are read together, one row each.
#[derive(Debug)]
struct Reading<'a, B: Backend, K> {
    session: Session<'a, B>,
    prompts: Vec<Vec<u32>>,
    /// Tokens of each that have been read, and how many of these by an earlier sequence.
    read: usize,
    cached: usize,
    /// Hidden state of the last token, where all were.
    last: Option<Tensor<B, 3>>,
    new: Vec<New<K>>,
}

/// A sequence whose prompt is being read.
#[derive(Debug)]
struct New<K> {
    key: K,
    sequence: Sequence,
    /// Which of the prompts is its own.
    place: usize,
    scores: Vec<TokenScore>,
}

#[derive(Debug)]
struct Row<K> {
    key: K,
    sampler: Sampler,
    /// The prompt and what follows it. The last token is not yet read.
    tokens: Vec<u32>,
    left: usize,
    stop: Vec<u32>,
    scores: Option<usize>,
}

impl Sequence {
    /// How many of the likeliest tokens the scores of the prompt are to tell, if they are wanted.
    fn prompt_scores(&self) -> Option<usize> {
        self.scores.filter(|_| self.score_prompt)
    }
}

impl<'a, B: MixerBackend, K: Clone> Batch<'a, B, K> {
    /// A batch without sequences.
    pub fn new(model: &'a Decoder<B>, device: &B::Device) -> Self {
        let memory = Memory::new(0);
        Self { model, device: device.clone(), prefix: None, memory, reading: None, session: None, rows: Vec::new() }
    }

    /// A batch whose prompts all begin with the `length` tokens that the one row of `session` has read, and are longer: these are not read
    /// again. Scores of a prompt are then those of its further tokens.
    pub fn behind(session: Session<'a, B>, length: usize, model: &'a Decoder<B>, device: &B::Device) -> Self {
        Self { prefix: Some((session, length)), ..Self::new(model, device) }
    }

    /// The same, with a memory of so many bytes: states at the ends of prompts and of sequences that came to their end are kept, and later
    /// prompts that begin with one are read from there on. Prompts whose scores are wanted are read whole.
    #[must_use]
    pub fn remembering(self, bytes: usize) -> Self {
        Self { memory: Memory::new(bytes), ..self }
    }

    /// Number of sequences under way, those whose prompts are being read among them.
    pub fn len(&self) -> usize {
        self.rows.len() + self.reading.as_ref().map_or(0, |reading| reading.new.len())
    }

    /// Whether there is nothing to read or to extend.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of keys, values and states held, all sequences together.
    pub fn cache_bytes(&self) -> usize {
        self.session.as_ref().map_or(0, Session::cache_bytes)
    }

    /// Bytes of what is remembered of earlier sequences.
    pub fn remembered_bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Reads the prompts of new sequences together, equal ones once, and chooses the first token of each.
    ///
    /// # Panics
    /// If a prompt is empty, no longer than what was read before, or has a token beyond the vocabulary.
    pub fn admit(&mut self, new: Vec<(K, Sequence)>) -> Vec<Progress<K>> {
        let (mut waiting, mut progress) = (VecDeque::from(new), Vec::new());
        while !waiting.is_empty() || self.reading.is_some() {
            self.begin(&mut waiting, usize::MAX, usize::MAX);
            progress.extend(self.read(usize::MAX));
        }
        progress
    }

    /// Takes the longest-waiting sequences, `room` at most, whose prompts can be read together by [`Self::read`]: equal ones, or different
    /// ones that have `tokens` tokens at most, padding included, and of which nothing is remembered. None, while others are being read.
    ///
    /// # Panics
    /// If a prompt is empty, no longer than what was read before, or has a token beyond the vocabulary.
    pub fn begin(&mut self, waiting: &mut VecDeque<(K, Sequence)>, room: usize, tokens: usize) {
        let Some((_, first)) = waiting.front().filter(|_| room > 0 && self.reading.is_none()) else { return };
        let known = self.known(first);
        let (mut prompts, mut longest): (Vec<Vec<u32>>, usize) = (Vec::new(), 0);
        let mut new: Vec<New<K>> = Vec::new();
        while let Some((_, sequence)) = waiting.front().filter(|_| new.len() < room) {
            let place = prompts.iter().position(|prompt| *prompt == sequence.prompt).unwrap_or(prompts.len());
            let padded = longest.max(sequence.prompt.len()).saturating_mul(place + 1);
            let fits = match &known {
                Some(_) => place == 0 && sequence.prompt_scores().is_none(),
                None => place < prompts.len() || (padded <= tokens && self.known(sequence).is_none()),
            };
            if !new.is_empty() && !fits {
                break;
            }
            let Some((key, sequence)) = waiting.pop_front() else { break };
            if place == prompts.len() {
                longest = longest.max(sequence.prompt.len());
                prompts.push(sequence.prompt.clone());
            }
            new.push(New { key, sequence, place, scores: Vec::new() });
        }
        let (session, read, cached, last) = match (&self.prefix, known) {
            (Some((session, length)), _) => (session.select(&vec![0; prompts.len()]), *length, 0, None),
            (None, Some(Known { session, last, length })) => (session, length, length, (length == longest).then_some(last)),
            (None, None) => (Session::empty(self.model, prompts.len(), &self.device), 0, 0, None),
        };
        self.reading = Some(Reading { session, prompts, read, cached, last, new });
    }

    /// What is remembered of the beginning of a prompt, if it may go on from there.
    fn known(&mut self, sequence: &Sequence) -> Option<Known<'a, B>> {
        let Sequence { prompt, .. } = sequence;
        let may = self.prefix.is_none() && sequence.prompt_scores().is_none() && self.model.reads_in_pieces(prompt.len());
        if may { self.memory.recall(prompt) } else { None }
    }

    /// Reads on in the prompts that were begun, `tokens` tokens of all of them together or, where one of them ends with these, all that is
    /// left. Then the first token of each sequence is chosen.
    pub fn read(&mut self, tokens: usize) -> Vec<Progress<K>> {
        let Some(mut reading) = self.reading.take() else { return Vec::new() };
        let last = reading.last.take().or_else(|| reading.go_on(self.model, tokens));
        let Some(last) = last else {
            self.reading = Some(reading);
            return Vec::new();
        };
        let Reading { session, prompts, cached, new, .. } = reading;
        for (place, prompt) in prompts.iter().enumerate() {
            self.memory.keep(prompt, &session, place, last.clone().narrow(0, place, 1));
        }
        let places: Vec<usize> = new.iter().map(|new| new.place).collect();
        let logits = self.model.head(last.select(0, row_index(&places, &self.device))).squeeze_dim(1);
        let (mut rows, mut scored) = (Vec::new(), Vec::new());
        for New { key, sequence: Sequence { prompt, sampling, stream, count, stop, scores, .. }, scores: of_prompt, .. } in new {
            scored.push(of_prompt);
            rows.push(Row { key, sampler: Sampler::new(sampling, stream, &prompt), tokens: prompt, left: count, stop, scores });
        }
        let mut progress = advance(&logits, &mut rows);
        progress.iter_mut().zip(scored).for_each(|(progress, scores)| (progress.prompt, progress.cached) = (scores, cached));
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

    /// Extends every sequence whose prompt is read by one token.
    pub fn step(&mut self) -> Vec<Progress<K>> {
        let Some(session) = &mut self.session else { return Vec::new() };
        let newest = |row: &Row<K>| row.tokens[row.tokens.len() - 1..].to_vec();
        let hidden = session.read(&self.rows.iter().map(newest).collect::<Vec<_>>());
        let logits = self.model.head(hidden.clone()).squeeze_dim(1);
        let progress = advance(&logits, &mut self.rows);
        for (place, row) in self.rows.iter().enumerate().filter(|(place, _)| progress[*place].finish.is_some()) {
            let read = &row.tokens[..row.tokens.len() - 1];
            self.memory.keep(read, session, place, hidden.clone().narrow(0, place, 1));
        }
        self.keep(&progress.iter().map(|progress| progress.finish.is_none()).collect::<Vec<_>>());
        progress
    }

    /// Drops the sequences whose key is not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.keep(&self.rows.iter().map(|row| keep(&row.key)).collect::<Vec<_>>());
        if let Some(reading) = &mut self.reading {
            reading.new.retain(|new| keep(&new.key));
            self.reading = self.reading.take().filter(|reading| !reading.new.is_empty());
        }
    }

    /// Drops the rows that are not kept.
    fn keep(&mut self, kept: &[bool]) {
        let staying: Vec<usize> = (0..kept.len()).filter(|&row| kept[row]).collect();
        if staying.len() == kept.len() {
            return;
        }
        self.session = self.session.take().filter(|_| !staying.is_empty()).map(|session| session.select(&staying));
        let mut kept = kept.iter();
        self.rows.retain(|_| kept.next().is_some_and(|&kept| kept));
    }
}

impl<B: MixerBackend, K> Reading<'_, B, K> {
    /// Reads on, and returns the hidden states of the last tokens, `[P, 1, N]`, once all are read.
    fn go_on(&mut self, model: &Decoder<B>, tokens: usize) -> Option<Tensor<B, 3>> {
        let lengths = || self.prompts.iter().map(Vec::len);
        let (shortest, longest) = (lengths().min().unwrap_or(0), lengths().max().unwrap_or(0));
        let piece = (tokens / self.prompts.len()).max(1);
        let all = shortest - self.read <= piece || !model.reads_in_pieces(longest);
        let end = if all { longest } else { self.read + piece };
        let rows: Vec<Vec<u32>> = self.prompts.iter().map(|prompt| prompt[self.read..end.min(prompt.len())].to_vec()).collect();
        let hidden = self.session.read(&rows);
        for New { sequence, place, scores, .. } in &mut self.new {
            if let Some(top) = sequence.prompt_scores() {
                // Each token predicts the one behind it.
                let targets = &sequence.prompt[self.read + 1..(end + 1).min(sequence.prompt.len())];
                scores.extend(scores_of(model, &hidden.clone().narrow(0, *place, 1), targets, top));
            }
        }
        let last: Vec<Tensor<B, 3>> =
            rows.iter().enumerate().map(|(place, row)| hidden.clone().narrow(0, place, 1).narrow(1, row.len() - 1, 1)).collect();
        self.read = end;
        all.then(|| Tensor::cat(last, 0))
    }
}

/// Scores of `targets`, each by the hidden state in front of it, `hidden [1, T, N]`.
fn scores_of<B: MixerBackend>(model: &Decoder<B>, hidden: &Tensor<B, 3>, targets: &[u32], top: usize) -> Vec<TokenScore> {
    /// Positions whose logits are held at a time.
    const CHUNK: usize = 256;
    let chunk = |(index, targets): (usize, &[u32])| {
        let hidden = hidden.clone().narrow(1, index * CHUNK, targets.len());
        scores(model.head(hidden).squeeze_dim(0), targets, top)
    };
    targets.chunks(CHUNK).enumerate().flat_map(chunk).collect()
}

/// Chooses a token for each row, from `logits [B, vocabulary]`.
fn advance<B: Backend, K: Clone>(logits: &Tensor<B, 2>, rows: &mut [Row<K>]) -> Vec<Progress<K>> {
    let tokens = choose(logits, &mut rows.iter_mut().map(|row| &mut row.sampler).collect::<Vec<_>>());
    let progress = |(index, (row, token)): (usize, (&mut Row<K>, u32))| {
        let key = row.key.clone();
        if row.left == 0 {
            return Progress { key, prompt: vec![], cached: 0, token: None, score: None, finish: Some(Finish::Length) };
        }
        row.tokens.push(token);
        row.left -= 1;
        let score = row.scores.map(|top| scores(logits.clone().narrow(0, index, 1), &[token], top).remove(0));
        let finish = match row.left {
            _ if row.stop.contains(&token) => Some(Finish::Stop),
            0 => Some(Finish::Length),
            _ => None,
        };
        Progress { key, prompt: vec![], cached: 0, token: Some(token), score, finish }
    };
    rows.iter_mut().zip(tokens).enumerate().map(progress).collect()
}
