//! Softmax attention over all tokens, or over a window and sinks, with its cache of keys and values.

use burn::prelude::*;
use dtr_attention::{Positions, Span, softmax};

use super::projections::{Projected, Projections};
use crate::config::AttentionShape;
use crate::decoder::Context;

/// Queries handled at a time: bounds memory to this many rows of scores.
const BLOCK: usize = 128;

/// The parent's attention, or the same with a narrower span.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    /// The parent's projections.
    pub projections: Projections<B>,
    #[module(skip)]
    span: Span,
}

/// Keys and values of tokens read so far, grouped heads, and where they stand.
#[derive(Debug, Clone, Default)]
pub struct KeyValues<B: Backend>(Option<Cache<B>>);

#[derive(Debug, Clone)]
struct Cache<B: Backend> {
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    positions: Positions<B>,
}

impl<B: Backend> KeyValues<B> {
    /// Keys and values `[B, G, T, D]`, if any token was read.
    pub fn tensors(&self) -> Option<(&Tensor<B, 4>, &Tensor<B, 4>)> {
        self.0.as_ref().map(|cache| (&cache.k, &cache.v))
    }

    fn append(self, k: Tensor<B, 4>, v: Tensor<B, 4>, positions: &Positions<B>) -> Cache<B> {
        match self.0 {
            None => Cache { k, v, positions: positions.clone() },
            Some(cache) => Cache {
                k: Tensor::cat(vec![cache.k, k], 2),
                v: Tensor::cat(vec![cache.v, v], 2),
                positions: cache.positions.followed_by(positions),
            },
        }
    }
}

impl<B: Backend> Cache<B> {
    /// Drops what no later query of a windowed layer sees.
    ///
    /// What stays is laid out as sinks, then window; with padding each row is gathered into that order first.
    fn forget(self, span: Span, first_call: bool) -> Self {
        let Some(window) = span.window else { return self };
        let length = self.positions.length();
        let kept = span.sinks + window;
        let tokens = self.positions.tokens().filter(|_| first_call);
        if let Some(tokens) = tokens {
            return self.gather(&tokens, span, window);
        }
        if length <= kept {
            return self;
        }
        let narrow = |x: Tensor<B, 4>| {
            let latest = x.clone().narrow(2, length - window, window);
            if span.sinks == 0 { latest } else { Tensor::cat(vec![x.narrow(2, 0, span.sinks), latest], 2) }
        };
        let latest = self.positions.narrow(length - window..length);
        let positions = if span.sinks == 0 { latest } else { self.positions.narrow(0..span.sinks).followed_by(&latest) };
        Self { k: narrow(self.k), v: narrow(self.v), positions }
    }

    /// Row by row: the first `sinks` tokens, then the last `window` columns up to the last token.
    fn gather(self, tokens: &Tensor<B, 2>, span: Span, window: usize) -> Self {
        let [batch, length] = tokens.dims();
        let device = tokens.device();
        let [_, groups, _, width] = self.k.dims();
        let value_width = self.v.dims()[3];
        let columns = |range: std::ops::Range<i64>| Tensor::<B, 1, Int>::arange(range, &device).unsqueeze::<2>();
        let last = (tokens.clone() * columns(0..length as i64).float()).max_dim(1).int();
        let count = tokens.clone().sum_dim(1).int();
        let first = (last.clone() - count).add_scalar(1);
        let wide = |x: Tensor<B, 2, Int>, n: usize| x.expand([batch, n]);
        let latest = wide(last, window) - wide(columns(0..window as i64).flip([1]), window);
        let wanted = if span.sinks == 0 {
            latest.clone()
        } else {
            Tensor::cat(vec![wide(first.clone(), span.sinks) + wide(columns(0..span.sinks as i64), span.sinks), latest.clone()], 1)
        };
        // Columns that do not exist, and window columns that repeat a sink, become padding.
        let start = wide(first.add_scalar(span.sinks as i64), window);
        let repeated = latest.lower(start);
        let none = Tensor::<B, 2, Int>::zeros([batch, span.sinks], &device).equal_elem(1);
        let dropped = if span.sinks == 0 { repeated } else { Tensor::cat(vec![none, repeated], 1) };
        let beyond = wanted.clone().greater_elem(length as i64 - 1);
        let wanted = wanted.clamp(0, length as i64 - 1);
        let n = span.sinks + window;
        let pick = |x: Tensor<B, 4>, width: usize| {
            let index = wanted.clone().unsqueeze_dims::<4>(&[1, 3]).expand([batch, groups, n, width]);
            x.gather(2, index)
        };
        let positions = self.positions.gather(wanted.clone()).without(dropped.bool_or(beyond));
        Self { k: pick(self.k, width), v: pick(self.v, value_width), positions }
    }
}

impl<B: Backend> Attention<B> {
    /// Attention without weights of its own yet.
    pub fn new(shape: &AttentionShape, span: Span, device: &B::Device) -> Self {
        Self { projections: Projections::new(shape, device), span }
    }

    /// Which keys a query sees.
    pub fn span(&self) -> Span {
        self.span
    }

    /// `x [B, T, N]` -> `[B, T, N]`, with the cache extended by `x`. Padding may only come with the first tokens.
    pub fn forward(&self, x: Tensor<B, 3>, context: &Context<B>, state: KeyValues<B>) -> (Tensor<B, 3>, KeyValues<B>) {
        let Projected { q, k, v } = self.projections.split(x, &context.rotary);
        let first_call = state.0.is_none();
        let cache = state.append(k, v, &context.positions);
        let [k, v] = [&cache.k, &cache.v].map(|x| self.projections.repeat(x.clone()));
        let heads = softmax::chunk(q, k, v, &cache.positions, self.span, self.projections.scale(), BLOCK);
        (self.projections.merge(heads), KeyValues(Some(cache.forget(self.span, first_call))))
    }

    /// Attention weights over a whole sequence, `[B, H, T, T]`.
    pub fn weights(&self, x: Tensor<B, 3>, context: &Context<B>) -> Tensor<B, 4> {
        let Projected { q, k, .. } = self.projections.split(x, &context.rotary);
        let hidden = context.positions.hidden(&context.positions, self.span);
        softmax::weights(q, self.projections.repeat(k), hidden, self.projections.scale())
    }
}
