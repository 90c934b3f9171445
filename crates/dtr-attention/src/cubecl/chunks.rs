//! Time in parallel: chunks are swept all at once, each from its own state on, and a short way leads from state to state.
//!
//! What a chunk does to the state before it is affine, `S_(n+1) = P_n S_n + I_n`: `I_n [D, V]` is where it leads from an empty state,
//! `P_n [D, D]` where it leads from the unit matrix when no values come in (by the additive rule a diagonal). So the sweeps token by
//! token find both for all chunks at once, `carry` goes from chunk to chunk, and the same sweeps, now from known states, find the rest.
//! Gradients with respect to states go back by `E_n = P_n^T E_(n+1) + J_n`, `J_n` from a sweep backwards with nothing behind the chunk.
//!
//! Why not products within chunks, with an inverse of `I + tril(K K^T)` (WY): this way there is one definition of the recurrence, nothing is divided
//! by a product of decays, so that all kinds of decay are treated alike and exactly, and no product runs on tensor cores in less than `f32`.
//! The price is arithmetic: by the delta rule the sweep for `P` and that for `I` come on top of the one for the outputs.

use burn::prelude::*;
use burn::tensor::DType;
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeRuntime};

use super::carry::carried;
use super::inputs::Inputs;
use super::tile::ENOUGH_UNITS;
use super::values::{self, Sought};
use crate::backend::{primitive, tensor};

/// For operations on tensors whose element types are known: those of a backend are but its defaults.
type Plain<R> = CubeBackend<R, f32, i32, u32>;

/// Tokens of a chunk at least: below, states would be most of what is read and written.
const LEAST: usize = 64;

/// Tokens of a chunk for the shape `B, H, T, D, V`; all of them where chunks do not pay.
///
/// What goes in sequence are the tokens of a chunk, in two sweeps, and the steps from chunk to chunk; it is least where both take equally long.
/// By the delta rule a step is a product with a matrix, about as long as `D / 16` tokens, else it is one product. More chunks than fill a
/// device only cost.
fn length([batch, heads, time, width, values]: [usize; 5], delta: bool) -> usize {
    let step = if delta { width.div_ceil(16) } else { 1 };
    let balanced = (time * step / 2).isqrt();
    let most = (ENOUGH_UNITS / (batch * heads * width.max(values)).max(1)).max(1);
    let length = balanced.max(time.div_ceil(most)).max(LEAST);
    if 2 * length > time { time } else { length }
}

/// How the state before a chunk enters that behind it, `f32`.
pub struct Transitions<R: CubeRuntime> {
    /// `P [B, H, N D, D]`, or its diagonal `[B, H, N D, 1]` by the additive rule.
    plain: CubeTensor<R>,
    /// `P^T`, or the same diagonal.
    transposed: CubeTensor<R>,
}

/// Time in chunks where that pays, and the state before each.
pub fn cut<R: CubeRuntime>(inputs: Inputs<R>) -> (Inputs<R>, Option<Transitions<R>>) {
    let length = length(inputs.shape, inputs.beta.is_some());
    if length >= inputs.shape[2] {
        return (inputs, None);
    }
    let inputs = Inputs { length, ..inputs };
    let transitions = transitions(&inputs);
    let from_nothing = Inputs { states: nothing(&inputs), ..inputs.clone() };
    let increments = values::forward(&from_nothing, Sought::States);
    let states = carried(inputs.states, transitions.transposed.clone(), increments, false);
    (Inputs { states, ..inputs }, Some(transitions))
}

/// Gradients with respect to the state behind each chunk, `[B, H, N D, V]`, from that of the last, `[B, H, D, V]`.
pub fn by_states<R: CubeRuntime>(
    inputs: &Inputs<R>,
    transitions: Transitions<R>,
    by_output: CubeTensor<R>,
    by_last: CubeTensor<R>,
) -> CubeTensor<R> {
    let [_, increments] = values::backward(inputs, by_output, nothing(inputs));
    carried(by_last, transitions.plain, increments, true)
}

/// An empty state for each chunk.
fn nothing<R: CubeRuntime>(inputs: &Inputs<R>) -> CubeTensor<R> {
    let [batch, heads, _, width, values] = inputs.shape;
    let zero = Tensor::<Plain<R>, 4>::zeros([1; 4], (&inputs.k.device, DType::F32));
    primitive(zero.expand([batch, heads, inputs.chunks() * width, values]))
}

fn transitions<R: CubeRuntime>(inputs: &Inputs<R>) -> Transitions<R> {
    let ([batch, heads, time, width, _], chunks) = (inputs.shape, inputs.chunks());
    let device = &inputs.k.device;
    let unit = if inputs.beta.is_some() {
        Tensor::<Plain<R>, 2>::eye(width, device).unsqueeze::<4>().repeat_dim(2, chunks)
    } else {
        Tensor::ones([1, 1, chunks * width, 1], (device, DType::F32))
    };
    let values = unit.dims()[3];
    let unit = unit.expand([batch, heads, chunks * width, values]);
    let unwritten = Tensor::<Plain<R>, 4>::zeros([1; 4], (device, inputs.v.dtype)).expand([batch, heads, time, values]);
    let from_unit = Inputs {
        v: primitive(unwritten),
        states: cast(primitive(unit), DType::F32),
        shape: [batch, heads, time, width, values],
        ..inputs.clone()
    };
    let plain = values::forward(&from_unit, Sought::States);
    if inputs.beta.is_none() {
        return Transitions { transposed: plain.clone(), plain };
    }
    let apart = tensor::<Plain<R>, 4>(plain.clone()).reshape([batch, heads * chunks, width, width]);
    let transposed = apart.transpose().reshape([batch, heads, chunks * width, width]);
    Transitions { plain, transposed: primitive(transposed) }
}

#[cfg(test)]
mod tests {
    use super::length;

    fn check(shape: [usize; 5], delta: bool, chunks: usize) {
        assert_eq!(shape[2].div_ceil(length(shape, delta)), chunks, "{shape:?}, delta rule: {delta}");
    }

    #[test]
    fn chunks_where_they_pay() {
        check([1, 2, 1, 64, 64], true, 1);
        check([1, 2, 127, 64, 64], false, 1);
        check([1, 2, 128, 64, 64], false, 2);
        check([1, 2, 1024, 64, 64], false, 16);
        check([1, 2, 1024, 64, 64], true, 16);
        check([1, 12, 4096, 128, 128], true, 32);
        // So many columns that they fill a device.
        check([64, 16, 4096, 128, 128], true, 1);
        check([0, 2, 4096, 64, 64], true, 46);
        check([1, 1, 65536, 64, 64], false, 363);
    }
}
