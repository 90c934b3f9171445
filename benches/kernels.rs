//! Fused CPU kernels beside the composed Burn operations that define them. `cargo xtask bench`

use std::time::Duration;

use burn::backend::Autodiff;
use burn::prelude::*;
use burn::tensor::Distribution;
use burn_flex::Flex;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dtr_attention::recurrence::{self, Inputs};
use dtr_attention::{Positions, Span, softmax};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Train = Autodiff<Flex>;

fn random<B: Backend, const R: usize>(shape: [usize; R]) -> Tensor<B, R> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
}

fn inputs<B: Backend>(shape @ [batch, heads, time, _]: [usize; 4]) -> Inputs<B> {
    let flat = || random::<B, 3>([batch, heads, time]).abs();
    Inputs {
        q: random(shape),
        k: random(shape).mul_scalar(0.1),
        v: random(shape),
        g: Some(flat().neg().unsqueeze_dim(3)),
        beta: Some(flat().clamp(0.0, 1.0)),
    }
}

fn gated_delta(criterion: &mut Criterion) {
    let shape = [16, 4, 160, 32];
    let mut group = criterion.benchmark_group("gated-delta/flex/f32");
    group.sample_size(10).measurement_time(Duration::from_secs(3)).throughput(Throughput::Elements(16 * 160));
    let state = || Tensor::zeros([16, 4, 32, 32], &Default::default());
    let given = inputs::<Flex>(shape);
    group.bench_function("forward, fused", |bench| bench.iter(|| recurrence::scan(given.clone(), state())));
    group.bench_function("forward, composed", |bench| bench.iter(|| recurrence::chunk(given.clone(), state(), 32)));
    let tracked = || {
        let given = inputs::<Train>(shape);
        Inputs {
            q: given.q.require_grad(),
            k: given.k.require_grad(),
            v: given.v.require_grad(),
            g: given.g.require_grad(),
            beta: given.beta.require_grad(),
        }
    };
    let given = tracked();
    let zero = Tensor::<Train, 4>::zeros([16, 4, 32, 32], &Default::default());
    group.bench_function("forward and backward, fused", |bench| {
        bench.iter(|| recurrence::scan(given.clone(), zero.clone()).0.sum().backward())
    });
    group.bench_function("forward and backward, composed", |bench| {
        bench.iter(|| recurrence::chunk(given.clone(), zero.clone(), 32).0.sum().backward());
    });
    group.finish();
}

fn attention(criterion: &mut Criterion) {
    for (batch, time) in [(16, 160), (1, 2048)] {
        let mut group = criterion.benchmark_group(format!("attention/flex/f32/{batch}x{time}"));
        group.sample_size(10).measurement_time(Duration::from_secs(3)).throughput(Throughput::Elements((batch * time) as u64));
        let (q, k, v) =
            (random::<Flex, 4>([batch, 4, time, 32]), random::<Flex, 4>([batch, 2, time, 32]), random::<Flex, 4>([batch, 2, time, 32]));
        let positions = Positions::range(0, time);
        group
            .bench_function("fused", |bench| bench.iter(|| softmax::attend(q.clone(), k.clone(), v.clone(), &positions, Span::FULL, 0.18)));
        let wide = |x: &Tensor<Flex, 4>| softmax::repeat_heads(x.clone(), 4);
        group.bench_function("composed", |bench| {
            bench.iter(|| softmax::chunk(q.clone(), wide(&k), wide(&v), &positions, Span::FULL, 0.18, 128));
        });
        group.finish();
    }
}

criterion_group!(benches, gated_delta, attention);
criterion_main!(benches);
