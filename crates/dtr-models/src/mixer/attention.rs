//! Softmax attention over all tokens, or over a window and sinks, with its cache of keys and values.

use burn::prelude::*;
use dtr_attention::softmax::{self, merge_heads, repeat_heads};
use dtr_attention::{MixerBackend, Positions, Span};

use super::projections::{Projected, Projections};
use crate::config::AttentionShape;
use crate::decoder::Context;
use crate::layers::project;

/// Columns by which a full cache grows at least: appending a token then writes one column and copies nothing.
const GROWTH: usize = 64;

/// The parent's attention, or the same with a narrower span.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    /// The parent's projections.
    pub projections: Projections<B>,
    #[module(skip)]
    span: Span,
    causal: bool,
}

/// Keys and values of tokens read so far, grouped heads, and where they stand.
#[derive(Debug, Clone, Default)]
pub struct KeyValues<B: Backend>(Option<Cache<B>>);

/// Keys and values in the first `positions.length()` columns of `k` and `v`; the rest is room to grow.
#[derive(Debug, Clone)]
struct Cache<B: Backend> {
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    positions: Positions,
}

impl<B: Backend> KeyValues<B> {
    /// Bytes of the keys and values in use.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |cache| {
            let [batch, groups, _, width] = cache.k.dims();
            let values = cache.v.dims()[3];
            batch * groups * (width + values) * cache.positions.length() * cache.k.dtype().size()
        })
    }

    /// The rows `rows`, any of them any number of times, without columns that none of them needs.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        let Some(cache) = &self.0 else { return Self(None) };
        let (k, v) = cache.used();
        let index = row_index(rows, &k.device());
        let positions = Positions::stacked(&rows.iter().map(|&row| cache.positions.row(row)).collect::<Vec<_>>());
        let most = positions.most_tokens();
        let selected = Cache { k: k.select(0, index.clone()), v: v.select(0, index), positions };
        // Where one row needs every column, none can go.
        let needed = most == selected.positions.length();
        Self(Some(if needed { selected } else { selected.forget(Span { window: Some(most), sinks: 0 }) }))
    }

    /// The rows of `self`, then those of `other`.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let (Some(first), Some(second)) = (self.0, other.0) else { return Self(None) };
        let parts = [first, second];
        let rows = parts.iter().flat_map(|cache| (0..cache.k.dims()[0]).map(|row| cache.positions.row(row)));
        let positions = Positions::stacked(&rows.collect::<Vec<_>>());
        let [(k1, v1), (k2, v2)] = parts.each_ref().map(|cache| {
            let (k, v) = cache.used();
            (behind_padding(k, positions.length()), behind_padding(v, positions.length()))
        });
        Self(Some(Cache { k: Tensor::cat(vec![k1, k2], 0), v: Tensor::cat(vec![v1, v2], 0), positions }))
    }

    /// Keys, values and where they stand, without room to grow; `None` before the first token.
    pub(crate) fn used(&self) -> Option<(Tensor<B, 4>, Tensor<B, 4>, Positions)> {
        let cache = self.0.as_ref()?;
        let (k, v) = cache.used();
        Some((k, v, cache.positions.clone()))
    }

    /// A cache that holds these, `[B, G, T, D]`.
    pub(crate) fn holding(k: Tensor<B, 4>, v: Tensor<B, 4>, positions: Positions) -> Self {
        Self(Some(Cache { k, v, positions }))
    }

    fn append(self, k: Tensor<B, 4>, v: Tensor<B, 4>, positions: &Positions) -> Cache<B> {
        match self.0 {
            None => Cache { k, v, positions: positions.clone() },
            Some(cache) => {
                let used = cache.positions.length();
                Cache { k: write(cache.k, used, k), v: write(cache.v, used, v), positions: cache.positions.followed_by(positions) }
            }
        }
    }
}

/// `x [B, G, T, D]` as the last columns of `[B, G, length, D]`.
fn behind_padding<B: Backend>(x: Tensor<B, 4>, length: usize) -> Tensor<B, 4> {
    let [batch, groups, time, width] = x.dims();
    if time == length {
        return x;
    }
    Tensor::cat(vec![Tensor::zeros([batch, groups, length - time, width], (&x.device(), x.dtype())), x], 2)
}

/// Numbers of rows as a tensor.
pub(crate) fn row_index<B: Backend>(rows: &[usize], device: &B::Device) -> Tensor<B, 1, Int> {
    let index: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    Tensor::from_data(TensorData::new(index, [rows.len()]), device)
}

/// Writes `new` behind the first `used` columns, in place where there is room.
fn write<B: Backend>(old: Tensor<B, 4>, used: usize, new: Tensor<B, 4>) -> Tensor<B, 4> {
    let [batch, groups, room, width] = old.dims();
    let end = used + new.dims()[2];
    if end > room {
        let spare = Tensor::zeros([batch, groups, GROWTH.max(used / 2), width], (&old.device(), old.dtype()));
        return Tensor::cat(vec![old.narrow(2, 0, used), new, spare], 2);
    }
    old.slice_assign([0..batch, 0..groups, used..end, 0..width], new)
}

impl<B: Backend> Cache<B> {
    fn used(&self) -> (Tensor<B, 4>, Tensor<B, 4>) {
        let length = self.positions.length();
        (self.k.clone().narrow(2, 0, length), self.v.clone().narrow(2, 0, length))
    }

    /// Drops what no later query sees.
    fn forget(self, span: Span) -> Self {
        let Some((columns, positions)) = self.positions.visible_later(span) else { return self };
        let (k, v) = self.used();
        Self { k: gather(k, &columns), v: gather(v, &columns), positions }
    }
}

/// The columns `columns[b]` of each row, or `columns[0]` of all rows.
fn gather<B: Backend>(x: Tensor<B, 4>, columns: &[Vec<usize>]) -> Tensor<B, 4> {
    let [batch, groups, _, width] = x.dims();
    let (count, device) = (columns[0].len(), x.device());
    let index: Vec<i64> = columns.iter().flatten().map(|&column| column as i64).collect();
    let index = Tensor::<B, 1, Int>::from_data(TensorData::new(index, [columns.len() * count]), &device);
    if columns.len() == 1 {
        return x.select(2, index);
    }
    x.gather(2, index.reshape([batch, 1, count, 1]).expand([batch, groups, count, width]))
}

impl<B: Backend> Attention<B> {
    /// Attention without weights of its own yet.
    pub fn new(shape: &AttentionShape, span: Span, device: &B::Device) -> Self {
        Self { projections: Projections::new(shape, device), span, causal: shape.causal }
    }

    /// Shape of the keys, and of the values, of `length` tokens.
    pub(crate) fn cache_shape(&self, rows: usize, length: usize) -> [usize; 4] {
        [rows, self.projections.kv_heads(), length, self.projections.head_dim()]
    }
}

impl<B: MixerBackend> Attention<B> {
    /// `x [B, T, N]` -> `[B, T, N]`, with the cache extended by `x`.
    pub fn forward(&self, x: Tensor<B, 3>, context: &Context<B>, state: KeyValues<B>) -> (Tensor<B, 3>, KeyValues<B>) {
        let (features, state) = self.features(x, context, state);
        (project(&self.projections.o_proj, features), state)
    }

    /// What enters the output projection, `[B, T, H * V]`, and the next state; an encoder keeps none.
    pub fn features(&self, x: Tensor<B, 3>, context: &Context<B>, state: KeyValues<B>) -> (Tensor<B, 3>, KeyValues<B>) {
        let Projected { q, k, v } = self.projections.split(x, context.rotary.as_ref());
        if !self.causal {
            let heads = softmax::attend(q, k, v, &context.positions.at_once(), self.span, self.projections.scale());
            return (merge_heads(heads), state);
        }
        let cache = state.append(k, v, &context.positions);
        let (k, v) = cache.used();
        let heads = softmax::attend(q, k, v, &cache.positions, self.span, self.projections.scale());
        (merge_heads(heads), KeyValues(Some(cache.forget(self.span))))
    }

    /// Attention weights over a whole sequence, `[B, H, T, T]`.
    pub fn weights(&self, x: Tensor<B, 3>, context: &Context<B>) -> Tensor<B, 4> {
        let Projected { q, k, .. } = self.projections.split(x, context.rotary.as_ref());
        softmax::weights(q, repeat_heads(k, self.projections.heads()), self.hidden(context), self.projections.scale())
    }

    /// Which keys of a whole sequence its queries do not see, `[B or 1, 1, T, T]`.
    pub fn hidden(&self, context: &Context<B>) -> Tensor<B, 4, Bool> {
        let positions = if self.causal { context.positions.clone() } else { context.positions.at_once() };
        positions.hidden(&positions, self.span, &self.projections.q_proj.weight.device())
    }
}
