//! Matrix-valued recurrences, token by token with the state in cache: additive or by the delta rule, with decay or without.
//!
//! `S' = diag(exp(g_t)) S_(t-1);  u_t = v_t` or, by the delta rule, `u_t = beta_t (v_t - k_t S');  S_t = S' + k_t^T u_t;
//! o_t = q_t S_t`, with `S [D, V]` and `g_t` one number (decay by head), `D` numbers (decay by channel) or none.
//!
//! On a CPU the recurrent form needs the fewest operations: no products within chunks, no triangular solve; and a head's state
//! stays in the first-level cache. Columns of the state do not mix, so a kernel walks through time with a block of registers'
//! columns.

mod backward;
mod forward;
mod registers;

pub use backward::{Grads, backward};
pub use forward::forward;
pub(crate) use forward::forward_into;

use crate::simd::{Arithmetic, Kernel, LANES, dispatch, exp};
use crate::view::View;

/// What enters the recurrence.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// `[B, H, T, D]`.
    pub q: View<'a, 4>,
    /// `[B, H, T, D]`.
    pub k: View<'a, 4>,
    /// `[B, H, T, V]`.
    pub v: View<'a, 4>,
    /// Logarithm of the decay, `[B, H, T, 1]` or `[B, H, T, D]`; `None` where nothing fades.
    pub g: Option<View<'a, 4>>,
    /// Write strength of the delta rule, `[B, H, T, 1]`; `None` for the additive rule.
    pub beta: Option<View<'a, 4>>,
    /// State before the first token, `[B, H, D, V]`.
    pub state: View<'a, 4>,
}

/// What fades the state; also a parameter of the kernels, which are compiled for each.
type Decay = u8;
const NONE: Decay = 0;
const HEAD: Decay = 1;
const CHANNEL: Decay = 2;

impl<'a> Inputs<'a> {
    /// `B, H, T, D, V`.
    ///
    /// # Panics
    /// If shapes do not fit.
    pub fn dims(&self) -> [usize; 5] {
        let ([batch, heads, time, width], values) = (self.q.shape(), self.v.width());
        let fits = self.k.shape() == [batch, heads, time, width]
            && self.v.shape() == [batch, heads, time, values]
            && self.g.is_none_or(|g| g.shape() == [batch, heads, time, 1] || g.shape() == [batch, heads, time, width])
            && self.beta.is_none_or(|beta| beta.shape() == [batch, heads, time, 1])
            && self.state.shape() == [batch, heads, width, values];
        assert!(fits, "shapes of a recurrence do not fit: {self:?}");
        [batch, heads, time, width, values]
    }

    fn head(&self, index: usize) -> Head<'a> {
        let [_, heads, time, width] = self.q.shape();
        Head { inputs: *self, batch: index / heads, number: index % heads, time, width, values: self.v.width() }
    }

    /// Multiplications of the forward pass, about.
    fn multiplications(&self) -> usize {
        self.dims().iter().product::<usize>() * 4
    }

    fn decay(&self) -> Decay {
        match self.g {
            None => NONE,
            // With a single channel both are the same.
            Some(g) if g.width() == 1 => HEAD,
            Some(_) => CHANNEL,
        }
    }
}

/// What one head reads.
#[derive(Clone, Copy)]
struct Head<'a> {
    inputs: Inputs<'a>,
    batch: usize,
    number: usize,
    time: usize,
    width: usize,
    values: usize,
}

impl<'a> Head<'a> {
    #[inline(always)]
    fn q(&self, t: usize) -> &'a [f32] {
        self.inputs.q.row(self.batch, self.number, t)
    }

    #[inline(always)]
    fn k(&self, t: usize) -> &'a [f32] {
        self.inputs.k.row(self.batch, self.number, t)
    }

    #[inline(always)]
    fn v(&self, t: usize) -> &'a [f32] {
        self.inputs.v.row(self.batch, self.number, t)
    }

    #[inline(always)]
    fn state(&self, d: usize) -> &'a [f32] {
        self.inputs.state.row(self.batch, self.number, d)
    }

    /// 1 where there is none.
    #[inline(always)]
    fn beta(&self, t: usize) -> f32 {
        self.inputs.beta.map_or(1.0, |beta| beta.row(self.batch, self.number, t)[0])
    }

    /// Numbers of decay a token.
    fn decays(&self) -> usize {
        self.inputs.g.map_or(0, |g| g.width())
    }

    /// Writes the decays themselves, not their logarithms, of the tokens from `start` on.
    fn fill_decays(&self, start: usize, to: &mut [f32]) {
        if self.inputs.g.is_some() {
            dispatch(Decays { head: self, start, to });
        }
    }
}

struct Decays<'a> {
    head: &'a Head<'a>,
    start: usize,
    to: &'a mut [f32],
}

impl Kernel for Decays<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let Self { head, start, to } = self;
        let width = head.decays();
        for (n, to) in to.chunks_exact_mut(width).enumerate() {
            let g = head.inputs.g.map_or(&[][..], |g| g.row(head.batch, head.number, start + n));
            for (to, &g) in to.iter_mut().zip(g) {
                *to = exp::<A>(g);
            }
        }
    }
}

/// `count` parts of `size` numbers, which may be none.
pub(crate) fn heads_of(numbers: &mut [f32], size: usize, count: usize) -> Vec<&mut [f32]> {
    let mut parts: Vec<&mut [f32]> = numbers.chunks_mut(size.max(1)).collect();
    parts.resize_with(count, <&mut [f32]>::default);
    parts
}

/// The decay of row `d`.
#[inline(always)]
fn faded<const DECAY: Decay>(decays: &[f32], d: usize) -> f32 {
    match DECAY {
        NONE => 1.0,
        HEAD => decays[0],
        _ => decays[d],
    }
}

/// The decays of one token, as many as the kernel reads: said once, it need not be checked at every row.
#[inline(always)]
fn by_row<const DECAY: Decay>(decays: &[f32], width: usize) -> &[f32] {
    match DECAY {
        NONE => &[],
        HEAD => &decays[..1],
        _ => &decays[..width],
    }
}

/// Widths of the blocks of columns that a kernel holds at a time, in registers, with the first column of each.
fn blocks(values: usize) -> impl Iterator<Item = (usize, usize)> {
    let wide = values / (2 * LANES);
    let narrow = (values - wide * 2 * LANES).div_ceil(LANES);
    (0..wide).map(|n| (2, n * 2 * LANES)).chain((0..narrow).map(move |n| (1, (2 * wide + n) * LANES)))
}

/// Dispatches a kernel that is compiled for the number of registers, the decay and the rule. Each is a function of its own: all in one
/// would be too much for the compiler to keep in registers.
macro_rules! dispatch_compiled {
    ($kernel:ident ($registers:expr, $decay:expr, $delta:expr) $fields:tt) => {
        match ($registers, $decay, $delta) {
            (2, NONE, false) => dispatch($kernel::<2, NONE, false> $fields),
            (2, HEAD, false) => dispatch($kernel::<2, HEAD, false> $fields),
            (2, _, false) => dispatch($kernel::<2, CHANNEL, false> $fields),
            (2, NONE, true) => dispatch($kernel::<2, NONE, true> $fields),
            (2, HEAD, true) => dispatch($kernel::<2, HEAD, true> $fields),
            (2, _, true) => dispatch($kernel::<2, CHANNEL, true> $fields),
            (_, NONE, false) => dispatch($kernel::<1, NONE, false> $fields),
            (_, HEAD, false) => dispatch($kernel::<1, HEAD, false> $fields),
            (_, _, false) => dispatch($kernel::<1, CHANNEL, false> $fields),
            (_, NONE, true) => dispatch($kernel::<1, NONE, true> $fields),
            (_, HEAD, true) => dispatch($kernel::<1, HEAD, true> $fields),
            (_, _, true) => dispatch($kernel::<1, CHANNEL, true> $fields),
        }
    };
}
use dispatch_compiled;
