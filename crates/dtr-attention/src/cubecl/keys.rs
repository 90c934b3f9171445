//! Sweeps over rows of the state `[D, V]`: gradients of queries, keys and decays.
//!
//! A unit keeps (a part of) one row; all that goes by value columns is read by all units, queries, keys and decays by one.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::inputs::Inputs;
use super::tile::{Decay, Plan, Quad, add, chunk_count, dot, head, over_parts, read_column, read_numbers, read_rows, scale};

/// `S' = diag(exp(g)) S; dk = -dv S'^T` (delta rule); `S = S' + k^T u; dq = do S^T`, then `ends = sum_v S dS` behind the last
/// token, in each chunk from its own state on.
#[cube(launch, address_type = "dynamic")]
fn forwards<F: Float>(
    k: &Tensor<F>,
    g: &ComptimeOption<Tensor<F>>,
    states: &Tensor<f32>,
    written: &Tensor<f32>,
    by_value: &ComptimeOption<Tensor<f32>>,
    by_output: &Tensor<F>,
    by_last: &Tensor<f32>,
    by_query: &mut Tensor<f32>,
    by_recall: &mut ComptimeOption<Tensor<f32>>,
    ends: &mut Tensor<f32>,
    length: usize,
    #[comptime] decay: Decay,
    #[comptime] plan: Plan,
    #[define(F)] _dtype: StorageType,
) {
    let time = k.shape(2);
    let width = k.shape(3);
    let values = written.shape(3);
    let own = UNIT_POS as usize / comptime!(plan.parts);
    let chunks = chunk_count(time, length);
    let chunk = CUBE_POS_X as usize % chunks;
    let skip = CUBE_POS_X as usize / chunks * comptime!(plan.columns);
    let row = skip + own;
    let inside = row < width;
    let first_unit = UNIT_POS as usize % comptime!(plan.parts) == 0;
    let of_decays = comptime!(if decay == Decay::Channel { plan.columns } else { 1 });

    let mut writes = SharedMemory::<Quad>::new(comptime!(plan.tokens * plan.stride()));
    let mut values_back = SharedMemory::<Quad>::new(comptime!(plan.tokens * plan.stride()));
    let mut outputs_back = SharedMemory::<Quad>::new(comptime!(plan.tokens * plan.stride()));
    let mut keys = SharedMemory::<f32>::new(comptime!(plan.tokens * plan.columns));
    let mut decays = SharedMemory::<f32>::new(comptime!(plan.tokens * of_decays));
    let mut scratch = SharedMemory::<f32>::new(comptime!(plan.columns * plan.parts));

    let mut s = Array::<Quad>::new(comptime!(plan.quads));
    let start = head::<f32>(states) + (chunk * width + row) * states.stride(2);
    read_column::<f32>(states, start, states.stride(3), values, inside, &mut s, plan);

    let mut first = chunk * length;
    let end = min(first + length, time);
    while first < end {
        let count = min(end - first, comptime!(plan.tokens));
        sync_cube();
        read_rows::<f32>(written, &mut writes, first, count, false, plan);
        read_rows::<F>(by_output, &mut outputs_back, first, count, false, plan);
        read_numbers::<F>(k, &mut keys, first, count, skip, comptime!(plan.columns), false);
        #[comptime]
        if let ComptimeOption::Some(by_value) = by_value {
            read_rows::<f32>(by_value, &mut values_back, first, count, false, plan);
        }
        #[comptime]
        if let ComptimeOption::Some(g) = g {
            read_numbers::<F>(g, &mut decays, first, count, skip * comptime!(usize::from(decay == Decay::Channel)), of_decays, true);
        }
        sync_cube();

        for t in 0..count {
            if comptime!(decay != Decay::None) {
                scale(&mut s, decays[t * of_decays + own % of_decays], plan);
            }
            #[comptime]
            if let ComptimeOption::Some(by_recall) = by_recall {
                let recalled = dot(&s, &values_back, t, &mut scratch, plan);
                if inside && first_unit {
                    by_recall[head::<f32>(by_query) + (first + t) * width + row] = -recalled;
                }
            }
            add(&mut s, &writes, t, keys[t * comptime!(plan.columns) + own], plan);
            let dq = dot(&s, &outputs_back, t, &mut scratch, plan);
            if inside && first_unit {
                by_query[head::<f32>(by_query) + (first + t) * width + row] = dq;
            }
        }
        first += count;
    }

    let mut last = Array::<Quad>::new(comptime!(plan.quads));
    let start = head::<f32>(by_last) + (chunk * width + row) * by_last.stride(2);
    read_column::<f32>(by_last, start, by_last.stride(3), values, inside, &mut last, plan);
    let mut sums = Quad::new(0.0f32);
    #[unroll]
    for i in 0..comptime!(plan.quads) {
        sums += s[i] * last[i];
    }
    let sum = over_parts(sums[0] + sums[1] + sums[2] + sums[3], &mut scratch, plan);
    if inside && first_unit {
        ends[head::<f32>(ends) + chunk * width + row] = sum;
    }
}

/// `E <- E + q^T do; dk += u E^T; E <- E - k^T dv` (delta rule); `E <- diag(exp(g)) E`, from the last token of
/// each chunk to its first.
///
/// The gradient of the decay of a token is `sum_v S' E'`; from the end of the chunk it changes at each token by `q dq + k dk` of the reads and
/// `-k dk` of the write, so that `S` and `E` need not be there at once.
#[cube(launch, address_type = "dynamic")]
fn backwards<F: Float>(
    q: &Tensor<F>,
    k: &Tensor<F>,
    g: &ComptimeOption<Tensor<F>>,
    written: &Tensor<f32>,
    by_value: &ComptimeOption<Tensor<f32>>,
    by_output: &Tensor<F>,
    by_last: &Tensor<f32>,
    by_query: &Tensor<f32>,
    by_recall: &ComptimeOption<Tensor<f32>>,
    ends: &Tensor<f32>,
    by_key: &mut Tensor<f32>,
    by_decay: &mut ComptimeOption<Tensor<f32>>,
    length: usize,
    #[comptime] decay: Decay,
    #[comptime] plan: Plan,
    #[define(F)] _dtype: StorageType,
) {
    let time = k.shape(2);
    let width = k.shape(3);
    let values = written.shape(3);
    let own = UNIT_POS as usize / comptime!(plan.parts);
    let chunks = chunk_count(time, length);
    let chunk = CUBE_POS_X as usize % chunks;
    let skip = CUBE_POS_X as usize / chunks * comptime!(plan.columns);
    let row = skip + own;
    let inside = row < width;
    let first_unit = UNIT_POS as usize % comptime!(plan.parts) == 0;
    let of_decays = comptime!(if decay == Decay::Channel { plan.columns } else { 1 });

    let mut writes = SharedMemory::<Quad>::new(comptime!(plan.tokens * plan.stride()));
    let mut values_back = SharedMemory::<Quad>::new(comptime!(plan.tokens * plan.stride()));
    let mut outputs_back = SharedMemory::<Quad>::new(comptime!(plan.tokens * plan.stride()));
    let mut queries = SharedMemory::<f32>::new(comptime!(plan.tokens * plan.columns));
    let mut keys = SharedMemory::<f32>::new(comptime!(plan.tokens * plan.columns));
    let mut decays = SharedMemory::<f32>::new(comptime!(plan.tokens * of_decays));
    let mut scratch = SharedMemory::<f32>::new(comptime!(plan.columns * plan.parts));

    let mut e = Array::<Quad>::new(comptime!(plan.quads));
    let start = head::<f32>(by_last) + (chunk * width + row) * by_last.stride(2);
    read_column::<f32>(by_last, start, by_last.stride(3), values, inside, &mut e, plan);
    let mut change = 0.0f32;
    if inside {
        change = ends[head::<f32>(ends) + chunk * width + row];
    }

    let begin = chunk * length;
    let mut end = min(begin + length, time);
    while end > begin {
        let count = min(end - begin, comptime!(plan.tokens));
        let first = end - count;
        sync_cube();
        read_rows::<f32>(written, &mut writes, first, count, false, plan);
        read_rows::<F>(by_output, &mut outputs_back, first, count, false, plan);
        read_numbers::<F>(q, &mut queries, first, count, skip, comptime!(plan.columns), false);
        read_numbers::<F>(k, &mut keys, first, count, skip, comptime!(plan.columns), false);
        #[comptime]
        if let ComptimeOption::Some(by_value) = by_value {
            read_rows::<f32>(by_value, &mut values_back, first, count, false, plan);
        }
        #[comptime]
        if let ComptimeOption::Some(g) = g {
            read_numbers::<F>(g, &mut decays, first, count, skip * comptime!(usize::from(decay == Decay::Channel)), of_decays, true);
        }
        sync_cube();

        for i in 0..count {
            let t = count - 1 - i;
            let q = queries[t * comptime!(plan.columns) + own];
            let k = keys[t * comptime!(plan.columns) + own];
            add(&mut e, &outputs_back, t, q, plan);
            let by_write = dot(&e, &writes, t, &mut scratch, plan);
            if comptime!(by_value.is_some()) {
                add(&mut e, &values_back, t, -k, plan);
            }
            if comptime!(decay != Decay::None) {
                scale(&mut e, decays[t * of_decays + own % of_decays], plan);
            }
            if inside && first_unit {
                let at = head::<f32>(by_key) + (first + t) * width + row;
                let mut by_read = 0.0f32;
                #[comptime]
                if let ComptimeOption::Some(by_recall) = by_recall {
                    by_read = by_recall[at];
                }
                by_key[at] = by_read + by_write;
                #[comptime]
                if let ComptimeOption::Some(by_decay) = by_decay {
                    change += q * by_query[at] + k * (by_read - by_write);
                    if decays[t * of_decays + own % of_decays] == 0.0f32 {
                        // Nothing is left of the state, so the sum is 0 but for rounding.
                        change = 0.0f32;
                    }
                    by_decay[at] = change;
                }
            }
        }
        end = first;
    }
}

/// What the other sweeps have found, in `f32`.
#[derive(Clone)]
pub struct Found<R: CubeRuntime> {
    /// `u`, `[B, H, T, V]`.
    pub written: CubeTensor<R>,
    /// By the delta rule the gradient of `v`, `[B, H, T, V]`.
    pub by_value: Option<CubeTensor<R>>,
    /// The gradient of the output, `[B, H, T, V]`, in the element type of the inputs.
    pub by_output: CubeTensor<R>,
    /// And of the state after each chunk, `[B, H, N D, V]`.
    pub by_last: CubeTensor<R>,
}

/// Gradients in `f32`, all `[B, H, T, D]`.
pub struct Gradients<R: CubeRuntime> {
    pub q: CubeTensor<R>,
    pub k: CubeTensor<R>,
    /// For each channel; of one decay a head, its gradient is their sum.
    pub g: Option<CubeTensor<R>>,
}

/// Gradients of queries, keys and decays.
pub fn backward<R: CubeRuntime>(inputs: &Inputs<R>, found: Found<R>) -> Gradients<R> {
    let Inputs { q, k, g, states, length, decay, shape: [batch, heads, time, width, values], .. } = inputs.clone();
    let Found { written, by_value, by_output, by_last } = found;
    let (client, chunks) = (k.client.clone(), inputs.chunks());
    let empty = |rows| empty_device_contiguous_dtype(client.clone(), k.device.clone(), Shape::new([batch, heads, rows, width]), DType::F32);
    let by_query = empty(time);
    let by_recall = by_value.is_some().then(|| empty(time));
    let ends = empty(chunks);
    let by_key = empty(time);
    let by_decay = g.is_some().then(|| empty(time));

    let plan = Plan::new(&client, batch * heads * chunks, [values, width], [3, 3]);
    let (count, dim) = plan.launch([batch, heads, chunks], width);
    let address = inputs.addresses(&[&written, &by_output, &by_last, &by_query]);
    let optional = |tensor: &Option<CubeTensor<R>>| tensor.clone().map(CubeTensor::into_tensor_arg);
    forwards::launch::<R>(
        &client,
        count.clone(),
        dim,
        address,
        k.clone().into_tensor_arg(),
        optional(&g).into(),
        states.into_tensor_arg(),
        written.clone().into_tensor_arg(),
        optional(&by_value).into(),
        by_output.clone().into_tensor_arg(),
        by_last.clone().into_tensor_arg(),
        by_query.clone().into_tensor_arg(),
        optional(&by_recall).into(),
        ends.clone().into_tensor_arg(),
        length,
        decay,
        plan,
        k.dtype.into(),
    );
    let dtype = k.dtype.into();
    backwards::launch::<R>(
        &client,
        count,
        dim,
        address,
        q.into_tensor_arg(),
        k.into_tensor_arg(),
        optional(&g).into(),
        written.into_tensor_arg(),
        optional(&by_value).into(),
        by_output.into_tensor_arg(),
        by_last.into_tensor_arg(),
        by_query.clone().into_tensor_arg(),
        optional(&by_recall).into(),
        ends.into_tensor_arg(),
        by_key.clone().into_tensor_arg(),
        optional(&by_decay).into(),
        length,
        decay,
        plan,
        dtype,
    );
    Gradients { q: by_query, k: by_key, g: by_decay }
}
