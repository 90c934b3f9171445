//! The way from chunk to chunk: states at all chunks from what each chunk does to a state.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::tile::{Quad, UNITS, WIDTH, head};

/// The chunk that comes `i`th.
#[cube]
fn chunk_at(i: usize, chunks: usize, #[comptime] reversed: bool) -> usize {
    if comptime!(reversed) { chunks - 1 - i } else { i }
}

/// Numbers from `at` on, zeros behind the `count`th.
#[cube]
fn read(from: &Tensor<f32>, at: usize, count: usize) -> Quad {
    let mut quad = Quad::new(0.0f32);
    #[unroll]
    for i in 0..4usize {
        if i < count {
            quad[i] = from[at + i];
        }
    }
    quad
}

/// The reverse of [`read`].
#[cube]
fn write(quad: Quad, into: &mut Tensor<f32>, at: usize, count: usize) {
    #[unroll]
    for i in 0..4usize {
        if i < count {
            into[at + i] = quad[i];
        }
    }
}

/// By products of matrices, for the delta rule: `states_0 = edge; states_(n+1) = P_n states_n + I_n`, or, `reversed`,
/// `states_(N-1) = edge; states_(n-1) = P_n states_n + I_n`.
///
/// Columns of a state are tasks of their own, four of them a cube; they lie in shared memory, and each unit finds some of their rows.
#[cube(launch, address_type = "dynamic")]
fn by_products(
    edge: &Tensor<f32>,
    transposed: &Tensor<f32>,
    increments: &Tensor<f32>,
    states: &mut Tensor<f32>,
    #[comptime] width: usize,
    #[comptime] reversed: bool,
) {
    let values = edge.shape(3);
    let chunks = increments.shape(2) / width;
    let column = CUBE_POS_X as usize * 4;
    let count = values - column;
    let base = head::<f32>(states) + column;
    let mut s = SharedMemory::<Quad>::new(width);

    let first = chunk_at(0, chunks, reversed);
    let mut row = UNIT_POS as usize;
    while row < width {
        let quad = read(edge, head::<f32>(edge) + row * values + column, count);
        write(quad, states, base + (first * width + row) * values, count);
        s[row] = quad;
        row += CUBE_DIM as usize;
    }
    for i in 1..chunks {
        let from = chunk_at(i - 1, chunks, reversed) * width;
        let to = chunk_at(i, chunks, reversed) * width;
        sync_cube();
        row = UNIT_POS as usize;
        while row < width {
            let mut sums = read(increments, base + (from + row) * values, count);
            for j in 0..width {
                // Neighbouring units read neighbouring numbers: hence the transposed matrix.
                sums += Quad::new(transposed[head::<f32>(transposed) + (from + j) * width + row]) * s[j];
            }
            write(sums, states, base + (to + row) * values, count);
            row += CUBE_DIM as usize;
        }
        sync_cube();
        row = UNIT_POS as usize;
        while row < width {
            // Each unit reads what it has itself written.
            s[row] = read(states, base + (to + row) * values, count);
            row += CUBE_DIM as usize;
        }
    }
}

/// As [`by_products`], where nothing mixes rows of the state: of transitions there is the diagonal, and a unit has one number of the state.
#[cube(launch, address_type = "dynamic")]
fn by_factors(edge: &Tensor<f32>, diagonals: &Tensor<f32>, increments: &Tensor<f32>, states: &mut Tensor<f32>, #[comptime] reversed: bool) {
    let width = edge.shape(2);
    let values = edge.shape(3);
    let chunks = increments.shape(2) / width;
    let place = CUBE_POS_X as usize * CUBE_DIM as usize + UNIT_POS as usize;
    if place < width * values {
        let base = head::<f32>(states) + place;
        let mut s = edge[head::<f32>(edge) + place];
        states[base + chunk_at(0, chunks, reversed) * width * values] = s;
        for i in 1..chunks {
            let from = chunk_at(i - 1, chunks, reversed) * width;
            let to = chunk_at(i, chunks, reversed) * width;
            s = s * diagonals[head::<f32>(diagonals) + from + place / values] + increments[base + from * values];
            states[base + to * values] = s;
        }
    }
}

/// States from one end of time, `edge [B, H, D, V]`, to the other, `[B, H, N D, V]`: before each chunk or, `reversed`, behind it.
///
/// `transitions [B, H, N D, D]`, each chunk's transposed, or diagonals `[B, H, N D, 1]`; `increments [B, H, N D, V]`; all `f32`, these contiguous.
pub fn carried<R: CubeRuntime>(
    edge: CubeTensor<R>,
    transitions: CubeTensor<R>,
    increments: CubeTensor<R>,
    reversed: bool,
) -> CubeTensor<R> {
    let edge = into_contiguous(edge);
    let [batch, heads, width, values] = edge.meta.shape().dims();
    let client = edge.client.clone();
    let shape: Shape = increments.meta.shape().clone();
    let states = empty_device_contiguous_dtype(client.clone(), edge.device.clone(), shape, DType::F32);
    let address = [&edge, &transitions, &increments].map(CubeTensor::required_address_type).into_iter().max().unwrap_or_default();
    let diagonal = transitions.meta.shape()[3] == 1;
    let cubes = if diagonal { (width * values).div_ceil(UNITS) } else { values.div_ceil(WIDTH) };
    let (count, dim) = (CubeCount::Static(cubes as u32, heads as u32, batch as u32), CubeDim::new_1d(UNITS as u32));
    let [edge, transitions, increments] = [edge, transitions, increments].map(CubeTensor::into_tensor_arg);
    let found = states.clone().into_tensor_arg();
    if diagonal {
        by_factors::launch::<R>(&client, count, dim, address, edge, transitions, increments, found, reversed);
    } else {
        by_products::launch::<R>(&client, count, dim, address, edge, transitions, increments, found, width, reversed);
    }
    states
}
