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
use super::tile::{Decay, Plan, Quad, add, dot, head, read_column, read_numbers, read_rows, scale, scale_rows, write_column};

/// With `residuals`, `v - k S'` of each token instead of outputs and states.
#[cube(launch, address_type = "dynamic")]
fn forwards<F: Float, O: Float>(
    q: &Tensor<F>,
    k: &Tensor<F>,
    v: &Tensor<F>,
    g: &ComptimeOption<Tensor<F>>,
    beta: &ComptimeOption<Tensor<F>>,
    state: &Tensor<F>,
    output: &mut Tensor<O>,
    #[comptime] residuals: bool,
    #[comptime] decay: Decay,
    #[comptime] plan: Plan,
    #[define(F, O)] _dtypes: [StorageType; 2],
) {
    let time = k.shape(2);
    let width = k.shape(3);
    let values = v.shape(3);
    let own = UNIT_POS as usize / comptime!(plan.parts);
    let skip = CUBE_POS_X as usize * comptime!(plan.columns);
    let column = skip + own;
    let inside = column < values;
    let first_unit = UNIT_POS as usize % comptime!(plan.parts) == 0;
    let place = CUBE_POS_Z as usize * CUBE_COUNT_Y as usize + CUBE_POS_Y as usize;

    let mut queries = SharedMemory::<Quad>::new(comptime!(if residuals { 1 } else { plan.tokens * plan.stride() }));
    let mut keys = SharedMemory::<Quad>::new(comptime!(plan.tokens * plan.stride()));
    let mut by_row = SharedMemory::<Quad>::new(comptime!(if decay == Decay::Channel { plan.tokens * plan.stride() } else { 1 }));
    let mut by_head = SharedMemory::<f32>::new(comptime!(plan.tokens));
    let mut written = SharedMemory::<f32>::new(comptime!(plan.tokens * plan.columns));
    let mut strengths = SharedMemory::<f32>::new(comptime!(plan.tokens));
    let mut scratch = SharedMemory::<f32>::new(comptime!(plan.columns * plan.parts));

    let mut s = Array::<Quad>::new(comptime!(plan.quads));
    read_column::<F>(state, head::<F>(state) + column * state.stride(3), state.stride(2), width, inside, &mut s, plan);

    let mut first = 0usize;
    while first < time {
        let count = min(time - first, comptime!(plan.tokens));
        sync_cube();
        if comptime!(!residuals) {
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
            if comptime!(residuals) {
                if inside && first_unit {
                    output[at] = O::cast_from(x);
                }
            }
            if comptime!(beta.is_some()) {
                x *= strengths[t];
            }
            add(&mut s, &keys, t, x, plan);
            if comptime!(!residuals) {
                let o = dot(&s, &queries, t, &mut scratch, plan);
                if inside && first_unit {
                    output[at] = O::cast_from(o);
                }
            }
        }
        first += count;
    }
    if comptime!(!residuals) {
        let outputs = CUBE_COUNT_Z as usize * CUBE_COUNT_Y as usize * time * values;
        write_column::<O>(&s, output, outputs + place * width * values + column, values, width, inside, plan);
    }
}

/// `E <- E + q^T do; du = k E; E <- E - k^T beta du` (delta rule); `E <- diag(exp(g)) E`, from the last token to the first.
#[cube(launch, address_type = "dynamic")]
fn backwards<F: Float>(
    q: &Tensor<F>,
    k: &Tensor<F>,
    g: &ComptimeOption<Tensor<F>>,
    beta: &ComptimeOption<Tensor<F>>,
    by_output: &Tensor<F>,
    by_last: &Tensor<F>,
    by_written: &mut Tensor<f32>,
    by_state: &mut Tensor<f32>,
    #[comptime] decay: Decay,
    #[comptime] plan: Plan,
    #[define(F)] _dtype: StorageType,
) {
    let time = k.shape(2);
    let width = k.shape(3);
    let values = by_output.shape(3);
    let own = UNIT_POS as usize / comptime!(plan.parts);
    let skip = CUBE_POS_X as usize * comptime!(plan.columns);
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
    read_column::<F>(by_last, head::<F>(by_last) + column * by_last.stride(3), by_last.stride(2), width, inside, &mut e, plan);

    let mut end = time;
    while end > 0 {
        let count = min(end, comptime!(plan.tokens));
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
    write_column::<f32>(&e, by_state, head::<f32>(by_state) + column, values, width, inside, plan);
}

/// Outputs `[B, H, T, V]` and last states `[B, H, D, V]` one after the other; or `residuals [B, H, T, V]` in `f32`.
pub fn forward<R: CubeRuntime>(inputs: &Inputs<R>, residuals: bool) -> CubeTensor<R> {
    let Inputs { q, k, v, g, beta, state, decay, shape } = inputs.clone();
    let [batch, heads, time, width, values] = shape;
    let vectors = [true, !residuals, decay == Decay::Channel].into_iter().filter(|read| *read).count();
    let plan = Plan::new(&k.client, batch * heads, [width, values], [vectors, 1]);
    let (dtype, output) = if residuals {
        (DType::F32, Shape::new([batch, heads, time, values]))
    } else {
        (q.dtype, Shape::new([batch * heads * (time + width) * values]))
    };
    let output = empty_device_contiguous_dtype(k.client.clone(), k.device.clone(), output, dtype);
    let (count, dim) = plan.launch([batch, heads], values);
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
        state.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        residuals,
        decay,
        plan,
        dtypes,
    );
    output
}

/// Gradients with respect to what is written, `[B, H, T, V]`, and to the first state, `[B, H, D, V]`, both in `f32`.
pub fn backward<R: CubeRuntime>(inputs: &Inputs<R>, by_output: CubeTensor<R>, by_last: CubeTensor<R>) -> [CubeTensor<R>; 2] {
    let Inputs { q, k, g, beta, decay, shape, .. } = inputs.clone();
    let [batch, heads, time, width, values] = shape;
    let vectors = if decay == Decay::Channel { 3 } else { 2 };
    let plan = Plan::new(&k.client, batch * heads, [width, values], [vectors, 1]);
    let [by_written, by_state] = [time, width].map(|rows| {
        empty_device_contiguous_dtype(k.client.clone(), k.device.clone(), Shape::new([batch, heads, rows, values]), DType::F32)
    });
    let (count, dim) = plan.launch([batch, heads], values);
    let (client, dtype) = (k.client.clone(), k.dtype.into());
    backwards::launch::<R>(
        &client,
        count,
        dim,
        inputs.addresses(&[&by_output, &by_written]),
        q.into_tensor_arg(),
        k.into_tensor_arg(),
        g.map(CubeTensor::into_tensor_arg).into(),
        beta.map(CubeTensor::into_tensor_arg).into(),
        by_output.into_tensor_arg(),
        by_last.into_tensor_arg(),
        by_written.clone().into_tensor_arg(),
        by_state.clone().into_tensor_arg(),
        decay,
        plan,
        dtype,
    );
    [by_written, by_state]
}
