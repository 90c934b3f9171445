//! Sequences of unequal length that are read and extended together; rows may fork, leave and join at any time.

use burn::prelude::*;
use dtr_attention::{MixerBackend, Positions};

use crate::decoder::Decoder;
use crate::mixer::MixerState;

/// A batch of sequences that are being extended.
///
/// A session is kept by keeping the value, forked by [`Self::select`], and goes on with [`Self::extend`] or [`Self::step`]: what was read
/// once, such as a prefix that several prompts share, need not be read again.
#[derive(Debug, Clone)]
pub struct Session<'a, B: Backend> {
    pub(super) model: &'a Decoder<B>,
    pub(super) states: Vec<MixerState<B>>,
    /// Tokens read so far, by row.
    pub(super) lengths: Vec<usize>,
    pub(super) device: B::Device,
}

impl<'a, B: MixerBackend> Session<'a, B> {
    /// Reads `prompts` and returns the logits after each, `[B, vocabulary]`.
    ///
    /// # Panics
    /// If there is no prompt, or an empty one.
    pub fn start(model: &'a Decoder<B>, prompts: &[Vec<u32>], device: &B::Device) -> (Self, Tensor<B, 2>) {
        let mut session = Self::empty(model, prompts.len(), device);
        let logits = session.extend(prompts);
        (session, logits)
    }

    /// A session of so many rows that have read nothing yet.
    pub fn empty(model: &'a Decoder<B>, rows: usize, device: &B::Device) -> Self {
        Self { model, states: model.empty_state(rows), lengths: vec![0; rows], device: device.clone() }
    }

    /// Appends tokens to each row, any number of them but none, and returns the logits after the last, `[B, vocabulary]`.
    ///
    /// # Panics
    /// If there are not as many lists as rows, or one of them is empty.
    pub fn extend(&mut self, tokens: &[Vec<u32>]) -> Tensor<B, 2> {
        let hidden = self.read(tokens);
        let [batch, longest, width] = hidden.dims();
        let last: Vec<i64> = tokens.iter().map(|row| row.len() as i64 - 1).collect();
        let last = if last.iter().all(|&column| column == longest as i64 - 1) {
            hidden.narrow(1, longest - 1, 1)
        } else {
            let index = Tensor::<B, 1, Int>::from_data(TensorData::new(last, [batch]), &self.device);
            hidden.gather(1, index.reshape([batch, 1, 1]).expand([batch, 1, width]))
        };
        self.model.head(last).squeeze_dim(1)
    }

    /// Appends tokens as [`Self::extend`] does, and returns the hidden states in front of the head, `[B, T, N]`; the shorter rows end in padding.
    ///
    /// # Panics
    /// As [`Self::extend`].
    pub fn read(&mut self, tokens: &[Vec<u32>]) -> Tensor<B, 3> {
        assert!(!tokens.is_empty() && tokens.iter().all(|row| !row.is_empty()), "at least one row, and one token a row");
        assert_eq!(tokens.len(), self.lengths.len(), "one list of tokens a row");
        let longest = tokens.iter().map(Vec::len).max().unwrap_or(0);
        // Padding stands behind the tokens: what a convolution remembers of a row must lie directly before them.
        let mut ids = Vec::with_capacity(tokens.len() * longest);
        for row in tokens {
            ids.extend(row.iter().map(|&token| i64::from(token)));
            ids.extend(std::iter::repeat_n(0, longest - row.len()));
        }
        let ids = Tensor::from_data(TensorData::new(ids, [tokens.len(), longest]), &self.device);
        let equal = tokens.iter().all(|row| row.len() == longest) && self.lengths.iter().all(|length| *length == self.lengths[0]);
        let positions = if equal {
            Positions::range(self.lengths[0], longest)
        } else {
            let rows: Vec<Vec<bool>> = tokens.iter().map(|row| (0..longest).map(|column| column < row.len()).collect()).collect();
            Positions::padded(&rows, &self.lengths)
        };
        self.lengths.iter_mut().zip(tokens).for_each(|(length, row)| *length += row.len());
        self.model.forward(ids, positions, &mut self.states)
    }

    /// Appends one token to each row and returns the logits after it, `[B, vocabulary]`.
    ///
    /// # Panics
    /// If there are not as many tokens as rows.
    pub fn step(&mut self, tokens: &[u32]) -> Tensor<B, 2> {
        self.extend(&tokens.iter().map(|&token| vec![token]).collect::<Vec<_>>())
    }

    /// The rows `rows` in this order: fewer of them, or forks of one that each go on by themselves.
    ///
    /// # Panics
    /// If there is no such row.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        Self {
            model: self.model,
            states: self.states.iter().map(|state| state.select(rows)).collect(),
            lengths: rows.iter().map(|&row| self.lengths[row]).collect(),
            device: self.device.clone(),
        }
    }

    /// The rows of `self`, then those of `other`, which must be of the same model.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            states: self.states.into_iter().zip(other.states).map(|(first, second)| first.join(second)).collect(),
            lengths: [self.lengths, other.lengths].concat(),
            ..self
        }
    }

    /// Bytes of keys, values and states held, all rows together.
    pub fn cache_bytes(&self) -> usize {
        self.states.iter().map(MixerState::bytes).sum()
    }
}
