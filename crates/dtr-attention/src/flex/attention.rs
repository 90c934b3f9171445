//! Causal softmax attention with an online softmax: never more than one block of scores.

use burn::tensor::DType;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::simd::{Arithmetic, Kernel, LANES, axpy, dispatch, dot, exp};
use super::threads;
use super::tile::{KEYS, Keys, QUERIES, Row, exp_all, load, scores, splat, store, take, zip, zip_all};
use super::views::{View, dims, readable, tensor};
use crate::position::{Positions, Span};

/// Up to so many queries, each is handled alone: a block of queries would be mostly empty.
const FEW: usize = 4;

/// Score of a key that a query does not see. The maximum starts above it, so that its weight is 0 even if there is no other.
const HIDDEN: f32 = f32::NEG_INFINITY;
const LOWEST: f32 = f32::MIN;

/// Inputs of attention, readable, and who sees whom.
pub(super) struct Inputs<'a> {
    pub tensors: [FlexTensor; 3],
    pub dims: Dims,
    pub scale: f32,
    positions: &'a Positions,
    window: i32,
    sinks: i32,
    /// Lowest and highest position in each block of keys, row by row.
    bounds: Vec<[i32; 2]>,
}

/// Sizes of attention.
#[derive(Clone, Copy)]
pub(super) struct Dims {
    pub batch: usize,
    pub heads: usize,
    pub groups: usize,
    pub queries: usize,
    pub keys: usize,
    pub width: usize,
    pub values: usize,
}

/// Which keys of a block some queries see.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    None,
    Some,
    All,
}

impl<'a> Inputs<'a> {
    pub fn new([q, k, v]: [FlexTensor; 3], positions: &'a Positions, span: Span, scale: f64) -> Self {
        let ([batch, heads, queries, width], [_, groups, keys, values]) = (dims(&q), dims(&v));
        let bounds = (0..positions.rows()).flat_map(|row| positions.row(row).chunks(KEYS));
        let bounds = bounds.map(|keys| keys.iter().fold([i32::MAX, i32::MIN], |[low, high], &key| [low.min(key), high.max(key)]));
        Self {
            tensors: [readable(q), readable(k), readable(v)],
            dims: Dims { batch, heads, groups, queries, keys, width, values },
            scale: scale as f32,
            positions,
            // Positions differ by less than this.
            window: span.window.and_then(|window| i32::try_from(window).ok()).unwrap_or(i32::MAX),
            sinks: i32::try_from(span.sinks).unwrap_or(i32::MAX),
            bounds: bounds.collect(),
        }
    }

    /// Multiplications of the forward pass, about.
    pub fn multiplications(&self) -> usize {
        let Dims { batch, heads, queries, keys, width, values, .. } = self.dims;
        batch * heads * queries * keys * (width + values)
    }

    /// Keys and values of a group.
    #[inline(always)]
    pub fn group(&self, batch: usize, head: usize) -> [Keys<'_>; 2] {
        [Keys { view: View::new(&self.tensors[1]), batch, head }, Keys { view: View::new(&self.tensors[2]), batch, head }]
    }

    /// Number of keys that stand no later than query `query`.
    #[inline(always)]
    pub fn reach(&self, query: usize) -> usize {
        self.dims.keys - self.dims.queries + query + 1
    }

    /// Positions of the keys of one row of the batch.
    #[inline(always)]
    pub fn keys(&self, batch: usize) -> &'a [i32] {
        self.positions.row(batch)
    }

    /// Whether queries between the positions `low` and `high` see the block of keys that begins at column `first`.
    #[inline(always)]
    pub fn sight(&self, batch: usize, first: usize, [low, high]: [i32; 2]) -> Sight {
        let row = if self.positions.rows() == 1 { 0 } else { batch };
        let [nearest, farthest] = self.bounds[row * self.dims.keys.div_ceil(KEYS) + first / KEYS];
        if nearest > high || (low - farthest >= self.window && nearest >= self.sinks) {
            Sight::None
        } else if farthest <= low && (high - nearest < self.window || farthest < self.sinks) {
            Sight::All
        } else {
            Sight::Some
        }
    }

    /// [`Span::sees`], in numbers of one size and without branches.
    #[inline(always)]
    #[expect(clippy::needless_bitwise_bool, reason = "asked lane by lane")]
    pub fn sees(&self, query: i32, key: i32) -> bool {
        (key <= query) & ((query - key < self.window) | (key < self.sinks))
    }
}

/// `[B, H, Tq, V]`. Unless queries are few, the heads of each token stand side by side in memory, as the next layer wants them.
pub(super) fn forward(inputs: [FlexTensor; 3], positions: &Positions, span: Span, scale: f64) -> FlexTensor {
    let dtype: DType = inputs[0].dtype();
    let inputs = Inputs::new(inputs, positions, span, scale);
    let Dims { batch, heads, groups, queries, values, .. } = inputs.dims;
    let mut output = vec![0.0; batch * heads * queries * values];
    if queries <= FEW {
        let tasks = output.par_chunks_mut(values.max(1)).enumerate();
        threads::for_each(tasks, inputs.multiplications(), |(index, output)| {
            let (row, first) = (index / queries, index % queries);
            let (batch, head) = (row / heads, row % heads);
            let place = Place { batch, head, group: head / (heads / groups), first };
            dispatch(One { inputs: &inputs, place, output });
        });
        return tensor(output, [batch, heads, queries, values], dtype);
    }
    let mut tasks = Vec::with_capacity(batch * queries.div_ceil(QUERIES));
    for (batch, output) in output.chunks_mut((heads * queries * values).max(1)).enumerate() {
        tasks.extend(output.chunks_mut((QUERIES * heads * values).max(1)).enumerate().map(|(n, output)| (batch, n * QUERIES, output)));
    }
    threads::for_each(tasks.into_par_iter(), inputs.multiplications(), |(batch, first, output)| {
        dispatch(Many { inputs: &inputs, batch, first, output });
    });
    tensor(output, [batch, queries, heads, values], dtype).transpose(1, 2)
}

/// Where a block of queries stands.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub batch: usize,
    pub head: usize,
    pub group: usize,
    /// The first query.
    pub first: usize,
}

/// All heads of a block of queries.
struct Many<'a> {
    inputs: &'a Inputs<'a>,
    batch: usize,
    first: usize,
    /// `[queries, H, V]`.
    output: &'a mut [f32],
}

impl Kernel for Many<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Dims { heads, groups, values, .. } = self.inputs.dims;
        let count = self.output.len() / (heads * values);
        for head in 0..heads {
            let place = Place { batch: self.batch, head, group: head / (heads / groups), first: self.first };
            let mut block = Block::new(self.inputs, place, count);
            block.attend::<A>(self.inputs);
            for (i, output) in self.output.chunks_exact_mut(heads * values).enumerate() {
                for (output, column) in output[head * values..].iter_mut().zip(block.output.chunks_exact(QUERIES)) {
                    *output = column[i];
                }
            }
        }
    }
}

/// A block of queries on its way through the keys. Matrices are `[.., QUERIES]`.
pub(super) struct Block {
    place: Place,
    /// Number of queries, at most [`QUERIES`].
    count: usize,
    /// The queries times the scale, `D` columns.
    pub queries: Vec<f32>,
    positions: [i32; QUERIES],
    /// `V` columns.
    pub output: Vec<f32>,
    /// Highest score of each query.
    pub highest: [f32; QUERIES],
    /// One over the sum of `exp(score - highest)`.
    pub share: [f32; QUERIES],
}

impl Block {
    #[inline(always)]
    pub fn new(inputs: &Inputs, place: Place, count: usize) -> Self {
        let Dims { keys, queries, width, values, .. } = inputs.dims;
        let last = place.first + count - 1;
        let columns = inputs.keys(place.batch);
        // Lanes without a query repeat the last position, and have zeros for a query.
        let positions = std::array::from_fn(|i| columns[keys - queries + (place.first + i).min(last)]);
        let mut block = Self {
            place,
            count,
            queries: vec![0.0; width * QUERIES],
            positions,
            output: vec![0.0; values * QUERIES],
            highest: [LOWEST; QUERIES],
            share: [0.0; QUERIES],
        };
        let view = View::<4>::new(&inputs.tensors[0]);
        for i in 0..count {
            for (column, q) in block.queries.chunks_exact_mut(QUERIES).zip(view.row(place.batch, place.head, place.first + i)) {
                column[i] = q * inputs.scale;
            }
        }
        block
    }

    /// First key, number of keys and sight of each block of keys that any of the queries sees.
    #[inline(always)]
    pub fn seen<'a>(&self, inputs: &'a Inputs<'a>) -> impl Iterator<Item = (usize, usize, Sight)> + use<'a> {
        let batch = self.place.batch;
        let reach = inputs.reach(self.place.first + self.count - 1);
        let range = self.positions.iter().fold([i32::MAX, i32::MIN], |[low, high], &p| [low.min(p), high.max(p)]);
        let blocks = (0..reach).step_by(KEYS);
        let blocks = blocks.map(move |first| (first, KEYS.min(reach - first), inputs.sight(batch, first, range)));
        blocks.filter(|&(.., sight)| sight != Sight::None)
    }

    /// Scores of the keys from `first` on, hidden ones at minus infinity.
    #[inline(always)]
    pub fn scores<A: Arithmetic>(&self, inputs: &Inputs, keys: Keys, first: usize, sight: Sight, out: &mut [f32]) {
        scores::<A>(keys, first, &self.queries, out);
        if sight == Sight::Some {
            let positions = &inputs.keys(self.place.batch)[first..];
            for (out, &key) in out.chunks_exact_mut(QUERIES).zip(positions) {
                for (out, &query) in out.iter_mut().zip(&self.positions) {
                    *out = if inputs.sees(query, key) { *out } else { HIDDEN };
                }
            }
        }
    }

    /// The softmax over all keys and what the queries take of the values.
    #[inline(always)]
    pub fn attend<A: Arithmetic>(&mut self, inputs: &Inputs<'_>) {
        let [keys, values] = inputs.group(self.place.batch, self.place.group);
        let mut weights = [0.0; KEYS * QUERIES];
        let mut total: Row<A> = splat::<A>(0.0);
        for (first, count, sight) in self.seen(inputs) {
            let weights = &mut weights[..count * QUERIES];
            self.scores::<A>(inputs, keys, first, sight, weights);
            let before = load::<A>(&self.highest);
            let mut highest = before;
            for weight in weights.chunks_exact(QUERIES) {
                highest = zip::<A>(load::<A>(weight), highest, A::max);
            }
            let mut fade = [0.0; QUERIES];
            store::<A>(zip::<A>(before, highest, A::sub), &mut fade);
            exp_all::<A>(&mut fade);
            let fade = load::<A>(&fade);
            store::<A>(highest, &mut self.highest);
            zip_all::<A>(weights, highest, A::sub);
            exp_all::<A>(weights);
            total = zip::<A>(total, fade, A::mul);
            for weight in weights.chunks_exact(QUERIES) {
                total = zip::<A>(total, load::<A>(weight), A::add);
            }
            zip_all::<A>(&mut self.output, fade, A::mul);
            take::<A>(values, first, weights, &mut self.output);
        }
        store::<A>(total, &mut self.share);
        // Where no key was seen the output is 0.
        self.share = self.share.map(|total| if total == 0.0 { 0.0 } else { 1.0 / total });
        zip_all::<A>(&mut self.output, load::<A>(&self.share), A::mul);
    }
}

struct One<'a> {
    inputs: &'a Inputs<'a>,
    place: Place,
    output: &'a mut [f32],
}

impl Kernel for One<'_> {
    /// One query; the lanes go along the head.
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self { inputs, place, output } = self;
        let [keys, values] = inputs.group(place.batch, place.group);
        let query = View::<4>::new(&inputs.tensors[0]).row(place.batch, place.head, place.first);
        let reach = inputs.reach(place.first);
        let positions = inputs.keys(place.batch);
        let position = positions[reach - 1];
        let (mut highest, mut total) = (LOWEST, 0.0);
        let mut weights = [0.0_f32; KEYS];
        for first in (0..reach).step_by(KEYS) {
            let sight = inputs.sight(place.batch, first, [position; 2]);
            if sight == Sight::None {
                continue;
            }
            let count = KEYS.min(reach - first);
            let mut best = highest;
            for (j, weight) in weights[..count].iter_mut().enumerate() {
                let score = dot::<A>(query, keys.row(first + j)) * inputs.scale;
                *weight = if sight == Sight::All || inputs.sees(position, positions[first + j]) { score } else { HIDDEN };
                best = if *weight > best { *weight } else { best };
            }
            weights[count..].fill(HIDDEN);
            for weight in &mut weights {
                *weight = exp::<A>(*weight - best);
            }
            let fade = exp::<A>(highest - best);
            highest = best;
            let mut sums = A::splat(0.0);
            for weights in weights.chunks_exact(LANES) {
                sums = A::add(sums, A::load(weights));
            }
            total = A::fused(total, fade, A::sum(sums));
            take_one::<A>(values, first, &weights[..count], fade, output);
        }
        let share = if total == 0.0 { 0.0 } else { 1.0 / total };
        for output in output {
            *output *= share;
        }
    }
}

/// `output <- fade output + sum_j weights[j] values[first + j]`.
#[inline(always)]
fn take_one<A: Arithmetic>(values: Keys, first: usize, weights: &[f32], fade: f32, output: &mut [f32]) {
    const REGISTERS: usize = 4;
    let mut c = 0;
    let mut held = output.chunks_exact_mut(REGISTERS * LANES);
    for output in &mut held {
        let mut sums = [A::splat(0.0); REGISTERS];
        for r in 0..REGISTERS {
            sums[r] = A::mul(A::load(&output[r * LANES..]), A::splat(fade));
        }
        for (j, &weight) in weights.iter().enumerate() {
            let value = &values.row(first + j)[c..c + REGISTERS * LANES];
            for r in 0..REGISTERS {
                sums[r] = A::mul_add(A::splat(weight), A::load(&value[r * LANES..]), sums[r]);
            }
        }
        for (r, sum) in sums.into_iter().enumerate() {
            A::store(sum, &mut output[r * LANES..]);
        }
        c += REGISTERS * LANES;
    }
    let rest = held.into_remainder();
    for output in rest.iter_mut() {
        *output *= fade;
    }
    for (j, &weight) in weights.iter().enumerate() {
        axpy::<A>(weight, &values.row(first + j)[c..], rest);
    }
}
