//! Cutting time into chunks and putting it together again.

use burn::prelude::*;

/// `[B, H, T, N]` -> `[B, H, ceil(T / C), C, N]`, zeros at the end.
pub(crate) fn split<B: Backend>(x: Tensor<B, 4>, chunk: usize) -> Tensor<B, 5> {
    let [batch, heads, time, width] = x.dims();
    let count = time.div_ceil(chunk);
    let missing = count * chunk - time;
    let x = if missing == 0 { x } else { Tensor::cat(vec![x.clone(), Tensor::zeros([batch, heads, missing, width], &x.device())], 2) };
    x.reshape([batch, heads, count, chunk, width])
}

/// `[B, H, N, C, V]` -> `[B, H, T, V]`, the zeros that `split` added cut off.
pub(crate) fn join<B: Backend>(x: Tensor<B, 5>, time: usize) -> Tensor<B, 4> {
    let [batch, heads, count, chunk, width] = x.dims();
    let x = x.reshape([batch, heads, count * chunk, width]);
    if count * chunk == time { x } else { x.narrow(2, 0, time) }
}

/// `[C, C]` with 1 where `row - column >= offset`, else 0.
pub(crate) fn lower<B: Backend>(chunk: usize, offset: i64, device: &B::Device) -> Tensor<B, 2> {
    Tensor::<B, 2>::ones([chunk, chunk], device).tril(-offset)
}
