//! Softmax attention with an online softmax: never more than one block of scores.

mod backward;
mod tile;

pub use backward::backward;

use rayon::prelude::*;

use self::tile::{Column, KEYS, Keys, QUERIES, exp_all, scores, take, zip_all};
use crate::simd::{Arithmetic, Kernel, LANES, axpy, dispatch, dot, exp};
use crate::threads::for_each;
use crate::view::View;

/// Up to so many queries, each is handled alone: a block of queries would be mostly empty.
const FEW: usize = 4;

/// Score of a key that a query does not see. The maximum starts above it, so that its weight is 0 even if there is no other.
const HIDDEN: f32 = f32::NEG_INFINITY;
const LOWEST: f32 = f32::MIN;

/// What attention reads, and who sees whom.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// `[B, H, Tq, D]`. The queries are the last `Tq` tokens.
    pub q: View<'a, 4>,
    /// `[B, G, Tk, D]`. Query head `h` reads key/value head `h / (H / G)`.
    pub k: View<'a, 4>,
    /// `[B, G, Tk, V]`.
    pub v: View<'a, 4>,
    /// Position of each of the `Tk` tokens, row by row of the batch, or one row for all. Padding stands behind every token.
    pub positions: &'a [i32],
    /// Whether no query sees a key in a later column. If not, all columns are looked at.
    pub in_order: bool,
    /// A query sees so many latest positions, its own among them.
    pub window: Option<usize>,
    /// And so many first ones.
    pub sinks: usize,
    /// Factor of the scores.
    pub scale: f32,
}

impl Inputs<'_> {
    /// # Panics
    /// If shapes do not fit.
    fn dims(&self) -> Dims {
        let ([batch, heads, queries, width], [_, groups, keys, values]) = (self.q.shape(), self.v.shape());
        let fits = self.k.shape() == [batch, groups, keys, width]
            && self.v.shape()[0] == batch
            && groups > 0
            && heads % groups == 0
            && queries <= keys
            && (self.positions.len() == keys || self.positions.len() == batch * keys);
        assert!(fits, "shapes of attention do not fit: {:?}, {:?}, {:?}", self.q.shape(), self.k.shape(), self.v.shape());
        Dims { batch, heads, groups, queries, keys, width, values }
    }
}

/// Inputs, and what is worked out of them beforehand.
struct Prepared<'a> {
    inputs: Inputs<'a>,
    dims: Dims,
    window: i32,
    sinks: i32,
    /// Lowest and highest position in each block of keys, row by row.
    bounds: Vec<[i32; 2]>,
}

/// Sizes of attention.
#[derive(Clone, Copy)]
struct Dims {
    batch: usize,
    heads: usize,
    groups: usize,
    queries: usize,
    keys: usize,
    width: usize,
    values: usize,
}

/// Which keys of a block some queries see.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sight {
    None,
    Some,
    All,
}

impl<'a> Prepared<'a> {
    fn new(inputs: Inputs<'a>) -> Self {
        let dims = inputs.dims();
        let bounds = inputs.positions.chunks(dims.keys.max(1)).flat_map(|row| row.chunks(KEYS));
        let bounds = bounds.map(|keys| keys.iter().fold([i32::MAX, i32::MIN], |[low, high], &key| [low.min(key), high.max(key)]));
        Self {
            inputs,
            dims,
            // Positions differ by less than this.
            window: inputs.window.and_then(|window| i32::try_from(window).ok()).unwrap_or(i32::MAX),
            sinks: i32::try_from(inputs.sinks).unwrap_or(i32::MAX),
            bounds: bounds.collect(),
        }
    }

    /// Row of the positions that belongs to row `batch`.
    #[inline(always)]
    fn place(&self, batch: usize) -> usize {
        if self.inputs.positions.len() == self.dims.keys { 0 } else { batch }
    }

    /// Multiplications of the forward pass, about.
    fn multiplications(&self) -> usize {
        let Dims { batch, heads, queries, keys, width, values, .. } = self.dims;
        batch * heads * queries * keys * (width + values)
    }

    /// Keys and values of a group.
    #[inline(always)]
    fn group(&self, batch: usize, head: usize) -> [Keys<'a>; 2] {
        [self.inputs.k, self.inputs.v].map(|view| Keys { view, batch, head })
    }

    /// Number of first columns that hold all keys which query `query` sees.
    #[inline(always)]
    fn reach(&self, query: usize) -> usize {
        if self.inputs.in_order { self.dims.keys - self.dims.queries + query + 1 } else { self.dims.keys }
    }

    /// Positions of the keys of one row of the batch.
    #[inline(always)]
    fn keys(&self, batch: usize) -> &'a [i32] {
        let (row, keys) = (self.place(batch), self.dims.keys);
        &self.inputs.positions[row * keys..(row + 1) * keys]
    }

    /// Whether queries between the positions `low` and `high` see the block of keys that begins at column `first`.
    #[inline(always)]
    fn sight(&self, batch: usize, first: usize, [low, high]: [i32; 2]) -> Sight {
        let [nearest, farthest] = self.bounds[self.place(batch) * self.dims.keys.div_ceil(KEYS) + first / KEYS];
        if nearest > high || (low - farthest >= self.window && nearest >= self.sinks) {
            Sight::None
        } else if farthest <= low && (high - nearest < self.window || farthest < self.sinks) {
            Sight::All
        } else {
            Sight::Some
        }
    }

    /// `p_j <= p_i  and  (p_i - p_j < window or p_j < sinks)`, without branches.
    #[inline(always)]
    #[expect(clippy::needless_bitwise_bool, reason = "asked lane by lane")]
    fn sees(&self, query: i32, key: i32) -> bool {
        (key <= query) & ((query - key < self.window) | (key < self.sinks))
    }
}

/// Whether [`forward`] answers `[B, H, Tq, V]`, not `[B, Tq, H, V]`.
pub fn is_by_head(queries: usize) -> bool {
    queries <= FEW
}

/// `softmax(scale q k) v`. Unless queries are few ([`is_by_head`]), the heads of each token stand side by side, `[B, Tq, H, V]`, as
/// the next layer wants them.
///
/// # Panics
/// If shapes do not fit.
pub fn forward(inputs: Inputs<'_>) -> Vec<f32> {
    let inputs = Prepared::new(inputs);
    let Dims { batch, heads, groups, queries, values, .. } = inputs.dims;
    let mut output = vec![0.0; batch * heads * queries * values];
    if is_by_head(queries) {
        let tasks = output.par_chunks_mut(values.max(1)).enumerate();
        for_each(tasks, inputs.multiplications(), |(index, output)| {
            let (row, first) = (index / queries, index % queries);
            let (batch, head) = (row / heads, row % heads);
            let place = Place { batch, head, group: head / (heads / groups), first };
            dispatch(One { inputs: &inputs, place, output });
        });
        return output;
    }
    by_blocks(&inputs, &mut output, &mut []);
    output
}

/// What the backward pass wants kept: the output, `[B, Tq, H, V]` always, and `log(sum_j exp(score_j))` of each query, `[B, Tq, H]`.
///
/// # Panics
/// If shapes do not fit.
pub fn forward_for_backward(inputs: Inputs<'_>) -> (Vec<f32>, Vec<f32>) {
    let inputs = Prepared::new(inputs);
    let Dims { batch, heads, queries, values, .. } = inputs.dims;
    let mut output = vec![0.0; batch * heads * queries * values];
    let mut sums = vec![0.0; batch * heads * queries];
    by_blocks(&inputs, &mut output, &mut sums);
    (output, sums)
}

/// Blocks of queries; `sums` may be empty.
fn by_blocks(inputs: &Prepared<'_>, output: &mut [f32], sums: &mut [f32]) {
    let Dims { heads, queries, values, .. } = inputs.dims;
    let mut tasks = Vec::new();
    let mut sums = sums.chunks_mut((heads * queries).max(1));
    for (batch, output) in output.chunks_mut((heads * queries * values).max(1)).enumerate() {
        let mut sums = sums.next().unwrap_or_default().chunks_mut((QUERIES * heads).max(1));
        let blocks = output.chunks_mut((QUERIES * heads * values).max(1)).enumerate();
        tasks.extend(blocks.map(|(n, output)| (batch, n * QUERIES, output, sums.next().unwrap_or_default())));
    }
    for_each(tasks.into_par_iter(), inputs.multiplications(), |(batch, first, output, sums)| {
        dispatch(Many { inputs, batch, first, output, sums });
    });
}

/// Where a block of queries stands.
#[derive(Clone, Copy)]
struct Place {
    batch: usize,
    head: usize,
    group: usize,
    /// The first query.
    first: usize,
}

/// All heads of a block of queries.
struct Many<'a> {
    inputs: &'a Prepared<'a>,
    batch: usize,
    first: usize,
    /// `[queries, H, V]`.
    output: &'a mut [f32],
    /// `[queries, H]`, or nothing.
    sums: &'a mut [f32],
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
            for (i, sums) in self.sums.chunks_exact_mut(heads).enumerate() {
                // No key was seen: no weight is to come of it.
                sums[head] = if block.share[i] == 0.0 { f32::INFINITY } else { block.highest[i] - block.share[i].ln() };
            }
            for (i, output) in self.output.chunks_exact_mut(heads * values).enumerate() {
                for (output, column) in output[head * values..].iter_mut().zip(&block.output) {
                    *output = column[i];
                }
            }
        }
    }
}

/// A block of queries on its way through the keys.
struct Block {
    place: Place,
    /// Number of queries, at most [`QUERIES`].
    count: usize,
    /// The queries times the scale, `D` columns.
    queries: Vec<Column>,
    positions: [i32; QUERIES],
    /// `V` columns.
    output: Vec<Column>,
    /// Highest score of each query.
    highest: Column,
    /// One over the sum of `exp(score - highest)`.
    share: Column,
}

impl Block {
    #[inline(always)]
    fn new(inputs: &Prepared<'_>, place: Place, count: usize) -> Self {
        let Dims { keys, queries, width, values, .. } = inputs.dims;
        let last = place.first + count - 1;
        let columns = inputs.keys(place.batch);
        // Lanes without a query repeat the last position, and have zeros for a query.
        let mut positions = [0; QUERIES];
        for (i, position) in positions.iter_mut().enumerate() {
            *position = columns[keys - queries + (place.first + i).min(last)];
        }
        let mut block = Self {
            place,
            count,
            queries: vec![[0.0; QUERIES]; width],
            positions,
            output: vec![[0.0; QUERIES]; values],
            highest: [LOWEST; QUERIES],
            share: [0.0; QUERIES],
        };
        let view = inputs.inputs.q;
        for i in 0..count {
            for (column, q) in block.queries.iter_mut().zip(view.row(place.batch, place.head, place.first + i)) {
                column[i] = q * inputs.inputs.scale;
            }
        }
        block
    }

    /// First key, number of keys and sight of each block of keys that any of the queries sees.
    #[inline(always)]
    fn seen<'a>(&self, inputs: &'a Prepared<'a>) -> impl Iterator<Item = (usize, usize, Sight)> + use<'a> {
        let batch = self.place.batch;
        let reach = inputs.reach(self.place.first + self.count - 1);
        let range = self.positions.iter().fold([i32::MAX, i32::MIN], |[low, high], &p| [low.min(p), high.max(p)]);
        let blocks = (0..reach).step_by(KEYS);
        let blocks = blocks.map(move |first| (first, KEYS.min(reach - first), inputs.sight(batch, first, range)));
        blocks.filter(|&(.., sight)| sight != Sight::None)
    }

    /// Scores of the keys from `first` on, hidden ones at minus infinity.
    #[inline(always)]
    fn scores<A: Arithmetic>(&self, inputs: &Prepared<'_>, keys: Keys, first: usize, sight: Sight, out: &mut [Column]) {
        scores::<A>(keys, first, &self.queries, out);
        if sight == Sight::Some {
            let positions = &inputs.keys(self.place.batch)[first..];
            for (out, &key) in out.iter_mut().zip(positions) {
                for (out, &query) in out.iter_mut().zip(&self.positions) {
                    *out = if inputs.sees(query, key) { *out } else { HIDDEN };
                }
            }
        }
    }

    /// The softmax over all keys and what the queries take of the values.
    #[inline(always)]
    fn attend<A: Arithmetic>(&mut self, inputs: &Prepared<'_>) {
        let [keys, values] = inputs.group(self.place.batch, self.place.group);
        let mut weights = [[0.0; QUERIES]; KEYS];
        let mut total = A::splat(0.0);
        for (first, count, sight) in self.seen(inputs) {
            let weights = &mut weights[..count];
            self.scores::<A>(inputs, keys, first, sight, weights);
            let before = A::get(&self.highest);
            let mut highest = before;
            for weight in weights.iter() {
                highest = A::max(A::get(weight), highest);
            }
            let mut fade = [[0.0; QUERIES]];
            A::put(A::sub(before, highest), &mut fade[0]);
            exp_all::<A>(&mut fade);
            let fade = A::get(&fade[0]);
            A::put(highest, &mut self.highest);
            zip_all::<A>(weights, highest, A::sub);
            exp_all::<A>(weights);
            total = A::mul(total, fade);
            for weight in weights.iter() {
                total = A::add(total, A::get(weight));
            }
            zip_all::<A>(&mut self.output, fade, A::mul);
            take::<A>(values, first, weights, &mut self.output);
        }
        A::put(total, &mut self.share);
        // Where no key was seen the output is 0.
        for share in &mut self.share {
            *share = if *share == 0.0 { 0.0 } else { 1.0 / *share };
        }
        zip_all::<A>(&mut self.output, A::get(&self.share), A::mul);
    }
}

struct One<'a> {
    inputs: &'a Prepared<'a>,
    place: Place,
    output: &'a mut [f32],
}

impl Kernel for One<'_> {
    /// One query; the lanes go along the head.
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self { inputs, place, output } = self;
        let [keys, values] = inputs.group(place.batch, place.group);
        let query = inputs.inputs.q.row(place.batch, place.head, place.first);
        let reach = inputs.reach(place.first);
        let positions = inputs.keys(place.batch);
        let position = positions[inputs.dims.keys - inputs.dims.queries + place.first];
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
                let score = dot::<A>(query, keys.row(first + j)) * inputs.inputs.scale;
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
