//! Sweeps over columns of the state `[D, V]`: outputs forwards, gradients of what is written backwards.
//!
//! A unit keeps (a part of) one column; queries, keys and decays go by its rows, values by its column.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::inputs::Inputs;
use super::tile::{Decay, Plan, Quad, add, chunk_count, dot, head, read_column, read_numbers, read_rows, scale, scale_rows, write_column};

/// What a sweep forwards finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sought {
    /// Outputs `[B, H, T, V]`, and behind them the states after the last token, `[B, H, D, V]`: one dimension, of the inputs' element type.
    Outputs,
    /// `v - k S'` of each token, `[B, H, T, V]` in `f32`.
    Residuals,
    /// The state after each chunk, `[B, H, N D, V]` in `f32`.
    States,
}

/// `S' = diag(exp(g)) S; u = v` or `u = beta (v - k S')` (delta rule); `S = S' + k^T u; o = q S`, in each chunk from its own state on.
#[cube(launch, address_type = "dynamic")]
fn forwards<F: Float, O: Float>(
    q: &Tensor<F>,
    k: &Tensor<F>,
    v: &Tensor<F>,
    g: &ComptimeOption<Tensor<F>>,
    beta: &ComptimeOption<Tensor<F>>,
    states: &Tensor<f32>,
    output: &mut Tensor<O>,
    length: usize,
    #[comptime] sought: Sought,
    #[comptime] decay: Decay,
    #[comptime] plan: Plan,
    #[define(F, O)] _dtypes: [StorageType; 2],
) {
    let time = k.shape(2);
    let width = k.shape(3);
    let values = v.shape(3);
    let own = UNIT_POS as usize / comptime!(plan.parts);
    let chunks = chunk_count(time, length);
    let chunk = CUBE_POS_X as usize % chunks;
    let skip = CUBE_POS_X as usize / chunks * comptime!(plan.columns);
    let column = skip + own;
    let inside = column < values;
    let first_unit = UNIT_POS as usize % comptime!(plan.parts) == 0;
    let place = CUBE_POS_Z as usize * CUBE_COUNT_Y as usize + CUBE_POS_Y as usize;

    let mut queries = SharedMemory::<Quad>::new(comptime!(if sought == Sought::Outputs { plan.tokens * plan.stride() } else { 1 }));
    let mut keys = SharedMemory::<Quad>::new(comptime!(plan.tokens * plan.stride()));
    let mut by_row = SharedMemory::<Quad>::new(comptime!(if decay == Decay::Channel { plan.tokens * plan.stride() } else { 1 }));
    let mut by_head = SharedMemory::<f32>::new(comptime!(plan.tokens));
    let mut written = SharedMemory::<f32>::new(comptime!(plan.tokens * plan.columns));
    let mut strengths = SharedMemory::<f32>::new(comptime!(plan.tokens));
    let mut scratch = SharedMemory::<f32>::new(comptime!(plan.columns * plan.parts));

    let mut s = Array::<Quad>::new(comptime!(plan.quads));
    let start = head::<f32>(states) + chunk * width * states.stride(2) + column * states.stride(3);
    read_column::<f32>(states, start, states.stride(2), width, inside, &mut s, plan);

    let mut first = chunk * length;
    let end = min(first + length, time);
    while first < end {
        let count = min(end - first, comptime!(plan.tokens));
        sync_cube();
        if comptime!(sought == Sought::Outputs) {
            read_rows::<F>(q, &mut queries, first, count, false, plan);
        }
        read_rows::<F>(k, &mut keys, first, count, false, plan);
        read_numbers::<F>(v, &mut written, first, count, skip, comptime!(plan.columns), false);
        #[comptime]
        if let ComptimeOption::Some(g) = g {
            if comptime!(decay == Decay::Channel) {
                read_rows::<F>(g, &mut by_row, first, count, true, plan);
            } else {
                read_numbers::<F>(g, &mut by_head, first, count, 0usize, 1usize, true);
            }
        }
        #[comptime]
        if let ComptimeOption::Some(beta) = beta {
            read_numbers::<F>(beta, &mut strengths, first, count, 0usize, 1usize, false);
        }
        sync_cube();

        for t in 0..count {
            if comptime!(decay == Decay::Channel) {
                scale_rows(&mut s, &by_row, t, plan);
            } else if comptime!(decay == Decay::Head) {
                scale(&mut s, by_head[t], plan);
            }
            let mut x = written[t * comptime!(plan.columns) + own];
            if comptime!(beta.is_some()) {
                x -= dot(&s, &keys, t, &mut scratch, plan);
            }
            let at = (place * time + first + t) * values + column;
            if comptime!(sought == Sought::Residuals) {
                if inside && first_unit {
                    output[at] = O::cast_from(x);
                }
            }
            if comptime!(beta.is_some()) {
                x *= strengths[t];
            }
            add(&mut s, &keys, t, x, plan);
            if comptime!(sought == Sought::Outputs) {
                let o = dot(&s, &queries, t, &mut scratch, plan);
                if inside && first_unit {
                    output[at] = O::cast_from(o);
                }
            }
        }
        first += count;
    }
    if comptime!(sought == Sought::Outputs) {
        let outputs = CUBE_COUNT_Z as usize * CUBE_COUNT_Y as usize * time * values;
        let last = inside && chunk + 1 == chunks;
        write_column::<O>(&s, output, outputs + place * width * values + column, values, width, last, plan);
    } else if comptime!(sought == Sought::States) {
        write_column::<O>(&s, output, (place * chunks + chunk) * width * values + column, values, width, inside, plan);
    }
}

/// `E <- E + q^T do; du = k E; E <- E - k^T beta du` (delta rule); `E <- diag(exp(g)) E`, from the last token of each chunk to its first.
#[cube(launch, address_type = "dynamic")]
fn backwards<F: Float>(
    q: &Tensor<F>,
    k: &Tensor<F>,
    g: &ComptimeOption<Tensor<F>>,
    beta: &ComptimeOption<Tensor<F>>,
    by_output: &Tensor<F>,
    by_last: &Tensor<f32>,
    by_written: &mut Tensor<f32>,
    by_state: &mut Tensor<f32>,
    length: usize,
    #[comptime] decay: Decay,
    #[comptime] plan: Plan,
    #[define(F)] _dtype: StorageType,
) {
    let time = k.shape(2);
    let width = k.shape(3);
    let values = by_output.shape(3);
    let own = UNIT_POS as usize / comptime!(plan.parts);
    let chunks = chunk_count(time, length);
    let chunk = CUBE_POS_X as usize % chunks;
    let skip = CUBE_POS_X as usize / chunks * comptime!(plan.columns);
    let column = skip + own;
    let inside = column < values;
    let first_unit = UNIT_POS as usize % comptime!(plan.parts) == 0;

    let mut queries = SharedMemory::<Quad>::new(comptime!(plan.tokens * plan.stride()));
    let mut keys = SharedMemory::<Quad>::new(comptime!(plan.tokens * plan.stride()));
    let mut by_row = SharedMemory::<Quad>::new(comptime!(if decay == Decay::Channel { plan.tokens * plan.stride() } else { 1 }));
    let mut by_head = SharedMemory::<f32>::new(comptime!(plan.tokens));
    let mut outputs = SharedMemory::<f32>::new(comptime!(plan.tokens * plan.columns));
    let mut strengths = SharedMemory::<f32>::new(comptime!(plan.tokens));
    let mut scratch = SharedMemory::<f32>::new(comptime!(plan.columns * plan.parts));

    let mut e = Array::<Quad>::new(comptime!(plan.quads));
    let start = head::<f32>(by_last) + chunk * width * by_last.stride(2) + column * by_last.stride(3);
    read_column::<f32>(by_last, start, by_last.stride(2), width, inside, &mut e, plan);

    let begin = chunk * length;
    let mut end = min(begin + length, time);
    while end > begin {
        let count = min(end - begin, comptime!(plan.tokens));
        let first = end - count;
        sync_cube();
        read_rows::<F>(q, &mut queries, first, count, false, plan);
        read_rows::<F>(k, &mut keys, first, count, false, plan);
        read_numbers::<F>(by_output, &mut outputs, first, count, skip, comptime!(plan.columns), false);
        #[comptime]
        if let ComptimeOption::Some(g) = g {
            if comptime!(decay == Decay::Channel) {
                read_rows::<F>(g, &mut by_row, first, count, true, plan);
            } else {
                read_numbers::<F>(g, &mut by_head, first, count, 0usize, 1usize, true);
            }
        }
        #[comptime]
        if let ComptimeOption::Some(beta) = beta {
            read_numbers::<F>(beta, &mut strengths, first, count, 0usize, 1usize, false);
        }
        sync_cube();

        for i in 0..count {
            let t = count - 1 - i;
            add(&mut e, &queries, t, outputs[t * comptime!(plan.columns) + own], plan);
            let du = dot(&e, &keys, t, &mut scratch, plan);
            if inside && first_unit {
                by_written[head::<f32>(by_written) + (first + t) * values + column] = du;
            }
            if comptime!(beta.is_some()) {
                add(&mut e, &keys, t, -strengths[t] * du, plan);
            }
            if comptime!(decay == Decay::Channel) {
                scale_rows(&mut e, &by_row, t, plan);
            } else if comptime!(decay == Decay::Head) {
                scale(&mut e, by_head[t], plan);
            }
        }
        end = first;
    }
    write_column::<f32>(&e, by_state, head::<f32>(by_state) + chunk * width * values + column, values, width, inside, plan);
}

/// What is `sought`.
pub fn forward<R: CubeRuntime>(inputs: &Inputs<R>, sought: Sought) -> CubeTensor<R> {
    let Inputs { q, k, v, g, beta, states, length, decay, shape } = inputs.clone();
    let ([batch, heads, time, width, values], chunks) = (shape, inputs.chunks());
    let vectors = [true, sought == Sought::Outputs, decay == Decay::Channel].into_iter().filter(|read| *read).count();
    let plan = Plan::new(&k.client, batch * heads * chunks, [width, values], [vectors, 1]);
    let (dtype, output) = match sought {
        Sought::Outputs => (q.dtype, Shape::new([batch * heads * (time + width) * values])),
        Sought::Residuals => (DType::F32, Shape::new([batch, heads, time, values])),
        Sought::States => (DType::F32, Shape::new([batch, heads, chunks * width, values])),
    };
    let output = empty_device_contiguous_dtype(k.client.clone(), k.device.clone(), output, dtype);
    let (count, dim) = plan.launch([batch, heads, chunks], values);
    let (client, dtypes) = (k.client.clone(), [k.dtype.into(), dtype.into()]);
    forwards::launch::<R>(
        &client,
        count,
        dim,
        inputs.addresses(&[&output]),
        q.into_tensor_arg(),
        k.into_tensor_arg(),
        v.into_tensor_arg(),
        g.map(CubeTensor::into_tensor_arg).into(),
        beta.map(CubeTensor::into_tensor_arg).into(),
        states.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        length,
        sought,
        decay,
        plan,
        dtypes,
    );
    output
}

/// Gradients with respect to what is written, `[B, H, T, V]`, and to the state before each chunk, `[B, H, N D, V]`, both in `f32`;
/// `by_last` are those with respect to the states after the chunks, in `f32` and of that shape, too.
pub fn backward<R: CubeRuntime>(inputs: &Inputs<R>, by_output: CubeTensor<R>, by_last: CubeTensor<R>) -> [CubeTensor<R>; 2] {
    let Inputs { q, k, g, beta, length, decay, shape, .. } = inputs.clone();
    let ([batch, heads, time, width, values], chunks) = (shape, inputs.chunks());
    let vectors = if decay == Decay::Channel { 3 } else { 2 };
    let plan = Plan::new(&k.client, batch * heads * chunks, [width, values], [vectors, 1]);
    let [by_written, by_state] = [time, chunks * width].map(|rows| {
        empty_device_contiguous_dtype(k.client.clone(), k.device.clone(), Shape::new([batch, heads, rows, values]), DType::F32)
    });
    let (count, dim) = plan.launch([batch, heads, chunks], values);
    let (client, dtype) = (k.client.clone(), k.dtype.into());
    backwards::launch::<R>(
        &client,
        count,
        dim,
        inputs.addresses(&[&by_output, &by_last, &by_written, &by_state]),
        q.into_tensor_arg(),
        k.into_tensor_arg(),
        g.map(CubeTensor::into_tensor_arg).into(),
        beta.map(CubeTensor::into_tensor_arg).into(),
        by_output.into_tensor_arg(),
        by_last.into_tensor_arg(),
        by_written.clone().into_tensor_arg(),
        by_state.clone().into_tensor_arg(),
        length,
        decay,
        plan,
        dtype,
    );
    [by_written, by_state]
}
