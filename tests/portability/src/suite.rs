//! What dtr asks of a backend, as cases that record numbers: values, gradients, decisions.

mod models;
mod operations;
mod pipeline;
mod primitives;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use burn::prelude::*;
use burn::tensor::FloatDType;
use dtr_attention::TrainBackend;
use dtr_attention::precision::single;
use dtr_experiment::backend::message;
use dtr_experiment::schema::Precision;
use dtr_portability::outcome::{Kind, Numbers, Outcome};

/// Seconds after which a case is mentioned: a device at work should not look like one that hangs.
const SLOW: f64 = 5.0;

/// Tensors of four dimensions, one an input of a case.
pub type Inputs<B> = Vec<Tensor<B, 4>>;

/// The suite on one device.
pub struct Suite<'a, B: TrainBackend> {
    device: B::Device,
    dtype: Precision,
    only: &'a str,
    group: &'static str,
    outcomes: Vec<Outcome>,
}

impl<'a, B: TrainBackend> Suite<'a, B> {
    /// A suite of the cases whose group or name contains `only`, with inputs and weights of this element type.
    pub fn new(device: B::Device, dtype: Precision, only: &'a str) -> Self {
        Self { device, dtype, only, group: "", outcomes: Vec::new() }
    }

    /// Runs all of them.
    pub fn run(mut self) -> Vec<Outcome> {
        for (group, cases) in [
            ("primitive", Self::primitives as fn(&mut Self)),
            ("operation", Self::operations),
            ("mixer", Self::mixers),
            ("model", Self::models),
            ("pipeline", Self::pipeline),
        ] {
            self.group = group;
            cases(&mut self);
        }
        self.outcomes
    }

    /// Records what `work` gives, one entry a kind; a panic is recorded as what it says.
    fn record<const N: usize>(&mut self, case: &str, kinds: [Kind; N], work: impl Fn(&B::Device, Precision) -> [Numbers; N]) {
        self.record_any(case, &kinds, &|device, dtype| work(device, dtype).to_vec());
    }

    /// The same, compiled once and not once a case.
    fn record_any(&mut self, case: &str, kinds: &[Kind], work: &dyn Fn(&B::Device, Precision) -> Vec<Numbers>) {
        if !self.group.contains(self.only) && !case.contains(self.only) {
            return;
        }
        let began = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| work(&self.device, self.dtype))).map_err(|panic| message(&*panic));
        let seconds = began.elapsed().as_secs_f64();
        if seconds > SLOW {
            eprintln!("  {} {case}: {seconds:.0} s", self.group);
        }
        for (index, &kind) in kinds.iter().enumerate() {
            let (group, case) = (self.group.to_owned(), case.to_owned());
            let numbers = done.as_ref().map(|numbers| numbers[index].clone()).map_err(String::clone);
            self.outcomes.push(Outcome { group, case, kind, numbers, seconds });
        }
    }

    /// A function of tensors of these shapes: its values and all gradients of a weighted sum of them.
    fn differentiable(&mut self, case: &str, shapes: &[[usize; 4]], f: impl Fn(Inputs<B>) -> Tensor<B, 4>) {
        let f: &dyn Fn(Inputs<B>) -> Tensor<B, 4> = &f;
        self.record_any(case, &[Kind::Value, Kind::Gradient], &|device, dtype| {
            let leaf =
                |(seed, shape): (usize, &[usize; 4])| in_precision(tensor::<B, 4>(seed as u64 + 1, *shape, device), dtype).require_grad();
            let leaves: Inputs<B> = shapes.iter().enumerate().map(leaf).collect();
            let output = single(f(leaves.clone()));
            let weights = tensor(99, output.dims(), device);
            let gradients = (output.clone() * weights).sum().backward();
            let gradient = |leaf: &Tensor<B, 4>| leaf.grad(&gradients).map_or_else(Vec::new, values);
            vec![vec![values(output)], leaves.iter().map(gradient).collect()]
        });
    }

    /// Values alone.
    fn value(&mut self, case: &str, f: impl Fn(&B::Device, Precision) -> Vec<f64>) {
        self.record(case, [Kind::Value], |device, dtype| [vec![f(device, dtype)]]);
    }
}

/// Numbers around 0 within 3, the same for one `seed` on every device; multiples of 1/32, which every element type holds exactly.
pub fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f32 / (1_u64 << 31) as f32
    };
    (0..count).map(|_| (((uniform() + uniform() + uniform()) * 2.0 - 3.0) * 32.0).round() / 32.0).collect()
}

/// The same as a tensor.
pub fn tensor<B: Backend, const R: usize>(seed: u64, shape: [usize; R], device: &B::Device) -> Tensor<B, R> {
    Tensor::from_data(TensorData::new(numbers(seed, shape.iter().product()), shape), device)
}

/// In half precision if that is asked for; in the reference, whose precision is double, as it is.
pub fn in_precision<B: Backend, const R: usize>(x: Tensor<B, R>, dtype: Precision) -> Tensor<B, R> {
    if dtype == Precision::F32 { x } else { x.cast(FloatDType::from(dtype)) }
}

/// What is in a tensor.
pub fn values<B: Backend, const R: usize>(tensor: Tensor<B, R>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().iter().collect()
}
