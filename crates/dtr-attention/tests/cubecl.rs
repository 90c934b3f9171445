//! The kernels of CubeCL against the naive recurrence in double precision on the CPU: `--features flex,wgpu` or `flex,cuda`.
//!
//! Without a GPU, Mesa's software rasteriser will do for wgpu (Debian's `mesa-vulkan-drivers`).

use burn::backend::Autodiff;
#[cfg(feature = "cuda")]
use burn::backend::Cuda as Device;
#[cfg(all(feature = "wgpu", not(feature = "cuda")))]
use burn::backend::Wgpu as Device;
use burn::prelude::*;
use burn::tensor::FloatDType;
use burn_flex::Flex;
use dtr_attention::recurrence::{self, Inputs};
use dtr_attention::{MixerBackend, linear};

const VALUES: f64 = 1e-4;
const GRADIENTS: f64 = 1e-3;
/// A tensor whose numbers are smaller than this share of the largest gradient of its case is compared with that, as in `tests/portability`.
const NEGLIGIBLE: f64 = 1e-2;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Decay {
    None,
    Head,
    Channel,
}

const RULES: [(Decay, bool); 6] =
    [(Decay::None, false), (Decay::Head, false), (Decay::Channel, false), (Decay::None, true), (Decay::Head, true), (Decay::Channel, true)];

/// Numbers in `[-1, 1]`, always the same for one `seed`, rounded to `f32`.
fn numbers(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1_u64 << 31) as f64
    };
    (0..count).map(|_| f64::from((uniform() * 2.0 - 1.0) as f32)).collect()
}

/// A recurrence with its inputs as numbers.
struct Case {
    decay: Decay,
    delta: bool,
    /// `q, k, v, g, beta, state`, those that are there, all with four dimensions.
    inputs: Vec<(Vec<f64>, [usize; 4])>,
}

/// Outputs and last states one after the other, and gradients of all inputs.
struct Results {
    values: Vec<f64>,
    gradients: Vec<Vec<f64>>,
}

impl Case {
    /// Of shape `B, H, T, D, V`.
    fn new((decay, delta): (Decay, bool), [batch, heads, time, width, values]: [usize; 5]) -> Self {
        let of = |seed, width| (numbers(seed, batch * heads * time * width), [batch, heads, time, width]);
        let mut k = of(2, width);
        for row in k.0.chunks_mut(width) {
            // Unit length, or without decay the state would grow with the length.
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-3);
            row.iter_mut().for_each(|x| *x = f64::from((*x / norm) as f32));
        }
        let mut inputs = vec![of(1, width), k, of(3, values)];
        if decay != Decay::None {
            let (g, shape) = of(4, if decay == Decay::Head { 1 } else { width });
            inputs.push((g.iter().map(|x| -x.abs()).collect(), shape));
        }
        if delta {
            let (beta, shape) = of(5, 1);
            inputs.push((beta.iter().map(|x| 0.75 + 0.5 * x).collect(), shape));
        }
        inputs.push((numbers(6, batch * heads * width * values), [batch, heads, width, values]));
        Self { decay, delta, inputs }
    }

    /// Of `sum(weights * values)` on a device; `swapped`: `[B, T, H, ..]` in memory, so that kernels see strides.
    fn run<B: MixerBackend>(&self, form: Form<Autodiff<B>>, dtype: FloatDType, swapped: bool) -> Results
    where
        Autodiff<B>: MixerBackend,
    {
        let device = Default::default();
        let leaf = |(values, shape): &(Vec<f64>, [usize; 4])| {
            let tensor = Tensor::<B, 4>::from_data(TensorData::new(values.clone(), *shape), (&device, dtype.into()));
            let tensor = if swapped { (tensor.swap_dims(1, 2) * 1.0).swap_dims(1, 2) } else { tensor };
            Tensor::<Autodiff<B>, 4>::from_inner(tensor).require_grad()
        };
        let leaves: Vec<_> = self.inputs.iter().map(leaf).collect();
        let mut given = leaves.iter().cloned();
        let mut next = || given.next().expect("an input");
        let mut inputs = Inputs::new(next(), next(), next());
        if self.decay != Decay::None {
            inputs = inputs.fading(next());
        }
        if self.delta {
            inputs = inputs.correcting(next().squeeze_dim(3));
        }
        let (output, state) = form(inputs, next());
        let result = Tensor::cat(vec![output.flatten::<1>(0, 3), state.flatten(0, 3)], 0);
        let weights = numbers(9, result.dims()[0]);
        let weights = Tensor::<B, 1>::from_data(TensorData::new(weights, result.dims()), (&device, dtype.into()));
        let gradients = (result.clone() * Tensor::from_inner(weights)).sum().backward();
        let numbers = |tensor: Tensor<B, 1>| tensor.into_data().convert::<f64>().to_vec().expect("numbers");
        let gradient = |leaf: &Tensor<Autodiff<B>, 4>| numbers(leaf.grad(&gradients).expect("a gradient").flatten(0, 3));
        Results { values: numbers(result.inner()), gradients: leaves.iter().map(gradient).collect() }
    }

    /// With decays so weak that what one chunk writes is there in the next but one.
    fn remembering(mut self) -> Self {
        if self.decay != Decay::None {
            self.inputs[3].0.iter_mut().for_each(|g| *g = f64::from((*g * 0.02) as f32));
        }
        self
    }

    /// On the device in `f32`, with the first state.
    fn given(&self) -> (Inputs<Device>, Tensor<Device, 4>) {
        let device = Default::default();
        let all = self.inputs.iter().map(|(values, shape)| TensorData::new(values.clone(), *shape).convert::<f32>());
        let mut all = all.map(|data| Tensor::from_data(data, &device));
        let mut next = || all.next().expect("an input");
        let mut inputs = Inputs::new(next(), next(), next());
        if self.decay != Decay::None {
            inputs = inputs.fading(next());
        }
        if self.delta {
            inputs = inputs.correcting(next().squeeze_dim(3));
        }
        (inputs, next())
    }

    /// On the device by its kernels, in `dtype`, against the definition.
    fn check(&self, what: &str, dtype: FloatDType, swapped: bool, [of_values, of_gradients]: [f64; 2]) {
        let found = self.run::<Device>(recurrence::scan, dtype, swapped);
        let expected = self.run::<Flex>(|inputs, state| recurrence::naive(&inputs, state), FloatDType::F64, false);
        close(&format!("{what}: values"), &found.values, &expected.values, of_values, 1e-3);
        // The gradient of a decay is summed up from differences of the other gradients (keys.rs): where it is far smaller than they are, its error
        // is theirs.
        let size = expected.gradients.iter().flatten().fold(1e-1_f64, |largest, x| largest.max(x.abs()));
        for (i, (found, expected)) in found.gradients.iter().zip(&expected.gradients).enumerate() {
            close(&format!("{what}: gradient of input {i}"), found, expected, of_gradients, NEGLIGIBLE * size);
        }
    }
}

type Form<B> = fn(Inputs<B>, Tensor<B, 4>) -> (Tensor<B, 4>, Tensor<B, 4>);

/// Differences in parts of the largest number, or of `least` where all are smaller.
fn close(what: &str, found: &[f64], expected: &[f64], tolerance: f64, least: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: number of elements");
    let largest = expected.iter().fold(least, |largest, x| largest.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance * largest, "{what}, element {i}: {found} instead of {expected}, largest {largest}");
    }
}

#[test]
fn values_and_gradients_are_those_of_the_definition() {
    for rule in RULES {
        for (shape, swapped) in [
            ([1, 1, 1, 4, 4], false),
            ([1, 2, 1, 5, 7], true),
            ([2, 3, 37, 5, 9], true),
            ([1, 2, 70, 17, 6], false),
            ([2, 1, 33, 32, 65], true),
        ] {
            Case::new(rule, shape).check(&format!("{rule:?} {shape:?}"), FloatDType::F32, swapped, [VALUES, GRADIENTS]);
        }
    }
}

#[test]
fn columns_that_several_units_share() {
    for shape in [[1, 1, 20, 150, 3], [1, 1, 9, 3, 260], [1, 2, 11, 130, 140]] {
        for rule in [(Decay::Head, true), (Decay::Channel, true), (Decay::Channel, false)] {
            Case::new(rule, shape).check(&format!("{rule:?} {shape:?}"), FloatDType::F32, true, [VALUES, GRADIENTS]);
        }
    }
}

#[test]
fn many_states_need_no_sharing() {
    // As many columns as fill a large device: one unit a column, whatever exchanges sums otherwise.
    Case::new((Decay::Channel, true), [64, 33, 3, 12, 34]).check("many states", FloatDType::F32, false, [VALUES, GRADIENTS]);
}

#[test]
fn strong_decay_and_equal_keys_stay_finite() {
    for decay in [f64::NEG_INFINITY, -300.0, -50.0, 0.0] {
        let mut case = Case::new((Decay::Head, true), [1, 1, 200, 8, 8]);
        let row = case.inputs[1].0[..8].to_vec();
        case.inputs[1].0 = row.repeat(200);
        case.inputs[3].0 = vec![decay; 200];
        case.inputs[4].0 = vec![1.0; 200];
        case.check(&format!("decay {decay}"), FloatDType::F32, false, [VALUES, GRADIENTS]);
    }
}

#[test]
fn time_in_chunks() {
    for rule in RULES {
        for (shape, swapped) in [
            ([1, 1, 128, 1, 1], false),
            ([2, 2, 150, 5, 9], true),
            ([1, 2, 131, 33, 4], false),
            ([1, 1, 333, 1, 19], true),
            ([1, 1, 301, 128, 70], false),
        ] {
            Case::new(rule, shape).remembering().check(&format!("{rule:?} {shape:?}"), FloatDType::F32, swapped, [VALUES, GRADIENTS]);
        }
    }
}

#[test]
fn chunks_of_strong_and_weak_decays() {
    for delta in [false, true] {
        let mut case = Case::new((Decay::Channel, delta), [1, 2, 260, 6, 5]);
        for (i, g) in case.inputs[3].0.iter_mut().enumerate() {
            *g *= [0.0, 1e-4, 1.0, 30.0, 500.0][i % 5];
        }
        case.check(&format!("delta rule: {delta}"), FloatDType::F32, false, [VALUES, GRADIENTS]);
    }
}

/// Pieces too short for chunks leave the same states as the whole, but not to the last bit: the whole went another way.
#[test]
fn long_sequences_are_cut_into_chunks() {
    for rule in RULES {
        let (inputs, state) = Case::new(rule, [1, 2, 320, 6, 10]).remembering().given();
        let (_, whole) = recurrence::scan(inputs.clone(), state.clone());
        let pieces = (0..4).fold(state, |state, piece| recurrence::scan(inputs.narrow(piece * 80, 80), state).1);
        let [whole, pieces] = [whole, pieces].map(|x| -> Vec<f64> { x.into_data().convert::<f64>().to_vec().expect("numbers") });
        close(&format!("{rule:?}: last state"), &whole, &pieces, VALUES, 1e-3);
        assert_ne!(whole, pieces, "{rule:?}: token by token from end to end");
    }
}

#[test]
fn padding_leaves_the_state_as_it_is() {
    for rule in RULES {
        for [time, padding] in [[23, 7], [180, 100]] {
            let (inputs, state) = Case::new(rule, [2, 2, time, 6, 10]).remembering().given();
            // Padding in front of both rows.
            let tokens: Vec<f32> = (0..2 * time).map(|i| f32::from(u8::from(i % time >= padding))).collect();
            let padded = inputs.clone().without_padding(Tensor::from_data(TensorData::new(tokens, [2, time]), &state.device()));
            let numbers = |x: Tensor<Device, 4>| -> Vec<f64> { x.into_data().convert::<f64>().to_vec().expect("numbers") };
            let (found, last) = recurrence::scan(padded, state.clone());
            let (expected, expected_last) = recurrence::scan(inputs.narrow(padding, time - padding), state);
            close("outputs behind padding", &numbers(found.narrow(2, padding, time - padding)), &numbers(expected), VALUES, 1e-3);
            close("state behind padding", &numbers(last), &numbers(expected_last), VALUES, 1e-3);
        }
    }
}

#[test]
fn linear_attention_is_its_definition() {
    let [width, values] = [13, 21];
    let case = Case::new((Decay::None, false), [2, 3, 45, width, values]);
    let run = |fused: bool| -> Vec<Vec<f64>> {
        fn leaf<B: Backend>((values, shape): &(Vec<f64>, [usize; 4])) -> Tensor<Autodiff<B>, 4> {
            let data = TensorData::new(values.iter().map(|x| x.abs() + 0.1).collect::<Vec<_>>(), *shape).convert::<f32>();
            Tensor::<Autodiff<B>, 4>::from_data(data, &Default::default()).require_grad()
        }
        fn results<B: Backend>(output: Tensor<Autodiff<B>, 4>, leaves: &[Tensor<Autodiff<B>, 4>]) -> Vec<Vec<f64>> {
            let gradients = output.clone().powi_scalar(2).sum().backward();
            let numbers = |x: Tensor<B, 4>| x.into_data().convert::<f64>().to_vec().expect("numbers");
            let of = |leaf: &Tensor<Autodiff<B>, 4>| numbers(leaf.grad(&gradients).expect("a gradient"));
            leaves.iter().map(of).chain([numbers(output.inner())]).collect()
        }
        if fused {
            let leaves: Vec<_> = case.inputs[..3].iter().map(leaf::<Device>).collect();
            let state = linear::empty_state([2, 3, width, values], &Default::default());
            let (output, _) = linear::scan(leaves[0].clone(), leaves[1].clone(), leaves[2].clone(), state);
            results(output, &leaves)
        } else {
            let leaves: Vec<_> = case.inputs[..3].iter().map(leaf::<Flex>).collect();
            results(linear::naive(leaves[0].clone(), leaves[1].clone(), leaves[2].clone()), &leaves)
        }
    };
    for (found, expected) in run(true).iter().zip(&run(false)) {
        close("linear attention", found, expected, GRADIENTS, 1e-3);
    }
}
