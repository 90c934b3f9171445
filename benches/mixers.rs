//! Mixers forward, in training and in decoding, and what goes by rows: fused kernels beside the composed Burn operations that
//! define them. `cargo xtask bench`; the same shapes in `PyTorch`: `benches/pytorch/mixers.py`.
//!
//! Groups: `forward/<mixer>/<tokens>`, `training/..` (forward and backward), `decode/<mixer>/<tokens of context>`, `rows/..`;
//! `composed-forward` and `composed-training` are the definitions.

use std::time::Duration;

use burn::backend::Autodiff;
use burn::prelude::*;
use burn::tensor::Distribution;
use burn_flex::{Flex, FlexDevice};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dtr_attention::recurrence::{self, Inputs};
use dtr_attention::{Positions, Span, gate, linear, loss, norm, softmax};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Train = Autodiff<Flex>;

const HEADS: usize = 8;
const WIDTH: usize = 64;
const MIXERS: [&str; 7] = ["softmax", "linear", "scalar_decay", "vector_decay", "delta", "gated_delta", "kimi_delta"];

fn random<const R: usize>(shape: [usize; R]) -> Tensor<Flex, R> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &FlexDevice)
}

/// Leaves that a mixer reads: `q, k, v`, then decay and write strength as far as it has them.
fn leaves(mixer: &str, time: usize) -> Vec<Tensor<Flex, 4>> {
    let wide = || random([1, HEADS, time, WIDTH]);
    let (q, k) = if mixer == "linear" { (wide().abs(), wide().abs()) } else { (wide(), norm::unit(wide(), 1.0, 1e-6)) };
    let mut all = vec![q, k, wide()];
    match mixer {
        "scalar_decay" | "gated_delta" => all.push(random([1, HEADS, time, 1]).abs().mul_scalar(-0.1)),
        "vector_decay" | "kimi_delta" => all.push(wide().abs().mul_scalar(-0.1)),
        _ => {}
    }
    if mixer.contains("delta") {
        all.push(burn::tensor::activation::sigmoid(random([1, HEADS, time, 1])));
    }
    all
}

fn state<B: Backend>(width: usize) -> Tensor<B, 4> {
    Tensor::zeros([1, HEADS, WIDTH, width], &Default::default())
}

/// A mixer over leaves.
fn mix<B: dtr_attention::MixerBackend>(mixer: &str, fused: bool, leaves: &[Tensor<B, 4>]) -> Tensor<B, 4> {
    let [q, k, v] = [0, 1, 2].map(|i| leaves[i].clone());
    let time = q.dims()[2];
    if mixer == "softmax" {
        let (positions, scale) = (Positions::range(0, time), (WIDTH as f64).powf(-0.5));
        return if fused {
            softmax::attend(q, k, v, &positions, Span::FULL, scale)
        } else {
            softmax::chunk(q, k, v, &positions, Span::FULL, scale, 128)
        };
    }
    if mixer == "linear" {
        return if fused { linear::scan(q, k, v, state(WIDTH + 1)).0 } else { linear::chunk(q, k, v, state(WIDTH + 1), 64).0 };
    }
    let (decays, delta) = (mixer.contains("decay") || mixer == "gated_delta" || mixer == "kimi_delta", mixer.contains("delta"));
    let inputs = Inputs {
        q,
        k,
        v,
        g: decays.then(|| leaves[3].clone()),
        beta: delta.then(|| leaves[leaves.len() - 1].clone().reshape([1, HEADS, time])),
    };
    let by_channel = inputs.g.as_ref().is_some_and(|g| g.dims()[3] > 1);
    let chunk = if by_channel { 16 } else { 32 };
    if fused { recurrence::scan(inputs, state(WIDTH)).0 } else { recurrence::chunk(inputs, state(WIDTH), chunk).0 }
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group
}

fn forward(criterion: &mut Criterion) {
    for (name, fused, times) in [("forward", true, &[256, 1024, 4096, 8192, 32_768][..]), ("composed-forward", false, &[1024])] {
        let mut group = group(criterion, name);
        for mixer in MIXERS {
            for &time in times {
                let given = leaves(mixer, time);
                group.throughput(Throughput::Elements(time as u64));
                group.bench_function(BenchmarkId::new(mixer, time), |bench| bench.iter(|| mix(mixer, fused, &given)));
            }
        }
        group.finish();
    }
}

fn training(criterion: &mut Criterion) {
    for (name, fused, times) in [("training", true, &[256, 1024, 4096][..]), ("composed-training", false, &[256])] {
        let mut group = group(criterion, name);
        for mixer in MIXERS {
            for &time in times {
                let given: Vec<Tensor<Train, 4>> = leaves(mixer, time).into_iter().map(|x| Tensor::from_inner(x).require_grad()).collect();
                let weight = Tensor::<Train, 4>::from_inner(random([1, HEADS, time, WIDTH]));
                group.throughput(Throughput::Elements(time as u64));
                group.bench_function(BenchmarkId::new(mixer, time), |bench| {
                    bench.iter(|| (mix(mixer, fused, &given) * weight.clone()).sum().backward());
                });
            }
        }
        group.finish();
    }
}

fn decode(criterion: &mut Criterion) {
    let mut group = group(criterion, "decode");
    for context in [1, 1024, 32_768] {
        for mixer in ["linear", "gated_delta"] {
            let given = leaves(mixer, context);
            let (_, kept) = match mixer {
                "linear" => linear::scan(given[0].clone(), given[1].clone(), given[2].clone(), state(WIDTH + 1)),
                _ => recurrence::scan(gated(&given), state(WIDTH)),
            };
            let token = leaves(mixer, 1);
            group.bench_function(BenchmarkId::new(mixer, context), |bench| {
                bench.iter(|| match mixer {
                    "linear" => linear::scan(token[0].clone(), token[1].clone(), token[2].clone(), kept.clone()),
                    _ => recurrence::scan(gated(&token), kept.clone()),
                });
            });
        }
        let (cache, q) = (leaves("softmax", context), random([1, HEADS, 1, WIDTH]));
        let positions = Positions::range(0, context);
        group.bench_function(BenchmarkId::new("softmax", context), |bench| {
            bench.iter(|| softmax::attend(q.clone(), cache[1].clone(), cache[2].clone(), &positions, Span::FULL, 0.125));
        });
    }
    group.finish();
}

fn gated(leaves: &[Tensor<Flex, 4>]) -> Inputs<Flex> {
    let [q, k, v, g] = [0, 1, 2, 3].map(|i| leaves[i].clone());
    Inputs::new(q, k, v).fading(g).correcting(leaves[4].clone().squeeze_dim(3))
}

fn rows(criterion: &mut Criterion) {
    let tracked = |shape| Tensor::<Train, 2>::from_inner(random(shape)).require_grad();
    let mut group = group(criterion, "rows");
    let (x, up, weight) = (tracked([4096, 1024]), tracked([4096, 1024]), Tensor::<Train, 1>::ones([1024], &FlexDevice).require_grad());
    let outer = Tensor::<Train, 2>::from_inner(random([4096, 1024]));
    group.bench_function(BenchmarkId::new("rms_norm", 1024), |bench| {
        bench.iter(|| (norm::rms(x.clone(), weight.clone(), 1e-6) * outer.clone()).sum().backward());
    });
    group.bench_function(BenchmarkId::new("swiglu", 1024), |bench| {
        bench.iter(|| (gate::swiglu(x.clone(), up.clone()) * outer.clone()).sum().backward());
    });
    let logits = tracked([1024, 32_000]);
    let targets = Tensor::<Train, 1, Int>::arange(0..1024, &FlexDevice);
    group.bench_function(BenchmarkId::new("cross_entropy", 32_000), |bench| {
        bench.iter(|| loss::cross_entropy(logits.clone(), targets.clone()).mean().backward());
    });
    group.finish();
}

criterion_group!(benches, forward, training, decode, rows);
criterion_main!(benches);
