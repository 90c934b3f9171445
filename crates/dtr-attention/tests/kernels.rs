//! Fused operations against their definitions in f64: outputs, gradients by autodiff of the definition, finite differences.
//!
//! All inputs come as four dimensions; each case cuts, swaps and reshapes them as it likes, so that kernels see strided tensors.

use burn::backend::Autodiff;
use burn::prelude::*;
use burn::tensor::activation::silu;
use burn::tensor::{DType, FloatDType};
use burn_flex::{Flex, FlexDevice};
use dtr_attention::softmax::repeat_heads;
use dtr_attention::{Positions, Span, convolution, gate, norm, recurrence, rotary, softmax};

type Train = Autodiff<Flex>;
type Inputs = Vec<Tensor<Train, 4>>;

/// Largest difference to the definition, relative to the largest number.
const TOLERANCE: f64 = 2e-6;
const GRADIENT_TOLERANCE: f64 = 1e-5;
/// Elements of each input that are moved for finite differences.
const MOVED: usize = 24;

/// Numbers around 0, always the same for one `seed`.
fn numbers(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1_u64 << 31) as f64
    };
    // Rounded to f32, so that both precisions see the same numbers.
    (0..count).map(|_| f64::from(((uniform() + uniform() + uniform()) * 2.0 - 3.0) as f32)).collect()
}

fn tensor(values: &[f64], shape: [usize; 4], dtype: FloatDType) -> Tensor<Train, 4> {
    let data = TensorData::new(values.to_vec(), shape);
    Tensor::from_data(data, (&FlexDevice, dtype.into()))
}

fn values(tensor: Tensor<Train, 4>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().to_vec().expect("numbers")
}

fn close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: number of elements");
    let largest = expected.iter().fold(1.0_f64, |largest, x| largest.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance * largest, "{what}, element {i}: {found} instead of {expected}");
    }
}

/// Output and the gradients of `sum(output * weights)` in the element type `dtype`.
fn run(f: &impl Fn(Inputs) -> Tensor<Train, 4>, inputs: &[(Vec<f64>, [usize; 4])], dtype: FloatDType) -> (Vec<f64>, Vec<Vec<f64>>) {
    let leaves: Inputs = inputs.iter().map(|(values, shape)| tensor(values, *shape, dtype).require_grad()).collect();
    let output = f(leaves.clone());
    let weights = tensor(&numbers(99, output.shape().num_elements()), output.dims(), dtype);
    let gradients = (output.clone() * weights).sum().backward();
    let gradient = |leaf: &Tensor<Train, 4>| values(Tensor::from_inner(leaf.grad(&gradients).expect("a gradient")));
    (values(output), leaves.iter().map(gradient).collect())
}

/// The fused form in f32 must agree with the definition in f64.
fn check(what: &str, shapes: &[[usize; 4]], fused: impl Fn(Inputs) -> Tensor<Train, 4>, definition: impl Fn(Inputs) -> Tensor<Train, 4>) {
    let inputs: Vec<_> = shapes.iter().enumerate().map(|(i, &shape)| (numbers(i as u64 + 1, shape.iter().product()), shape)).collect();
    let (output, gradients) = run(&fused, &inputs, FloatDType::F32);
    let (expected, expected_gradients) = run(&definition, &inputs, FloatDType::F64);
    close(&format!("{what}: output"), &output, &expected, TOLERANCE);
    for (i, (found, expected)) in gradients.iter().zip(&expected_gradients).enumerate() {
        close(&format!("{what}: gradient of input {i}"), found, expected, GRADIENT_TOLERANCE);
    }
}

/// As [`check`], and the gradients also against central differences of the definition.
fn check_differences(
    what: &str,
    shapes: &[[usize; 4]],
    fused: impl Fn(Inputs) -> Tensor<Train, 4>,
    definition: impl Fn(Inputs) -> Tensor<Train, 4>,
) {
    const STEP: f64 = 1e-5;
    check(what, shapes, &fused, &definition);
    let inputs: Vec<_> = shapes.iter().enumerate().map(|(i, &shape)| (numbers(i as u64 + 1, shape.iter().product()), shape)).collect();
    let (_, gradients) = run(&fused, &inputs, FloatDType::F32);
    for (i, gradient) in gradients.iter().enumerate() {
        let places: Vec<usize> = (0..gradient.len()).step_by(gradient.len().div_ceil(MOVED)).collect();
        let slope = |place: usize| {
            let [above, below] = [STEP, -STEP].map(|step| {
                let mut moved = inputs.clone();
                moved[i].0[place] += step;
                let output = definition(moved.iter().map(|(values, shape)| tensor(values, *shape, FloatDType::F64)).collect());
                let output = values(output);
                output.iter().zip(numbers(99, output.len())).map(|(output, weight)| output * weight).sum::<f64>()
            });
            (above - below) / (2.0 * STEP)
        };
        let expected: Vec<f64> = places.iter().map(|&place| slope(place)).collect();
        let found: Vec<f64> = places.iter().map(|&place| gradient[place]).collect();
        close(&format!("{what}: differences by input {i}"), &found, &expected, GRADIENT_TOLERANCE);
    }
}

/// The gated delta rule from `[B, T, H, ..]`, with decay, write strength and unit keys made inside.
fn delta_inputs(inputs: Inputs) -> (recurrence::Inputs<Train>, Tensor<Train, 4>) {
    let [q, k, v, g, beta, state]: [Tensor<Train, 4>; 6] = inputs.try_into().expect("six inputs");
    let k = k.clone() / k.powi_scalar(2).sum_dim(3).add_scalar(1e-6).sqrt();
    let g = burn::tensor::activation::sigmoid(g).neg().squeeze_dim::<3>(3);
    let beta = burn::tensor::activation::sigmoid(beta).squeeze_dim::<3>(3);
    let heads = |x: Tensor<Train, 4>| x.swap_dims(1, 2);
    (
        recurrence::Inputs {
            q: heads(q),
            k: heads(k),
            v: heads(v),
            g: Some(g.swap_dims(1, 2).unsqueeze_dim(3)),
            beta: Some(beta.swap_dims(1, 2)),
        },
        state,
    )
}

type Rule = fn(recurrence::Inputs<Train>, Tensor<Train, 4>) -> (Tensor<Train, 4>, Tensor<Train, 4>);

/// Outputs and last state, in one.
fn delta_by(rule: Rule) -> impl Fn(Inputs) -> Tensor<Train, 4> {
    move |inputs| {
        let (inputs, state) = delta_inputs(inputs);
        let (output, state) = rule(inputs, state);
        Tensor::cat(vec![output, state], 2)
    }
}

fn delta_shapes([batch, heads, time, width, value]: [usize; 5]) -> [[usize; 4]; 6] {
    let wide = |width| [batch, time, heads, width];
    [wide(width), wide(width), wide(value), wide(1), wide(1), [batch, heads, width, value]]
}

#[test]
fn gated_delta_is_its_definition() {
    for shape in [
        [1, 2, 1, 6, 10],
        [2, 1, 2, 6, 10],
        [1, 2, 31, 6, 10],
        [1, 2, 33, 32, 32],
        [2, 1, 63, 10, 7],
        [1, 1, 65, 12, 75],
        [1, 2, 100, 32, 32],
    ] {
        check(
            &format!("{shape:?}"),
            &delta_shapes(shape),
            delta_by(recurrence::scan),
            delta_by(|inputs, state| recurrence::naive(&inputs, state)),
        );
    }
}

#[test]
fn gated_delta_agrees_with_finite_differences() {
    for shape in [[1, 2, 1, 6, 10], [1, 2, 5, 6, 10], [1, 1, 19, 3, 9]] {
        check_differences(
            &format!("{shape:?}"),
            &delta_shapes(shape),
            delta_by(recurrence::scan),
            delta_by(|inputs, state| recurrence::naive(&inputs, state)),
        );
    }
}

#[test]
fn gated_delta_survives_strong_decay_and_equal_keys() {
    let time = 512;
    for decay in [-50.0, 0.0] {
        let leaf = |values: Vec<f64>, shape| tensor(&values, shape, FloatDType::F32).require_grad();
        let row = numbers(3, 32);
        let key: Vec<f64> = row.iter().map(|x| x / row.iter().map(|x| x * x).sum::<f64>().sqrt()).collect();
        let q = leaf(numbers(1, time * 32), [1, 1, time, 32]);
        let k = leaf(key.repeat(time), [1, 1, time, 32]);
        let v = leaf(numbers(2, time * 32), [1, 1, time, 32]);
        let g = leaf(vec![decay; time], [1, 1, time, 1]);
        let beta = leaf(vec![1.0; time], [1, 1, time, 1]);
        let state = leaf(numbers(4, 32 * 32), [1, 1, 32, 32]);
        let flat = |x: &Tensor<Train, 4>| x.clone().squeeze_dim::<3>(3);
        let inputs = recurrence::Inputs { q: q.clone(), k: k.clone(), v: v.clone(), g: Some(g.clone()), beta: Some(flat(&beta)) };
        let (output, last) = recurrence::scan(inputs, state.clone());
        let gradients = (output.clone().sum() + last.clone().sum()).backward();
        let mut all = vec![values(output), values(last)];
        all.extend([&q, &k, &v, &g, &beta, &state].map(|leaf| values(Tensor::from_inner(leaf.grad(&gradients).expect("a gradient")))));
        for (i, values) in all.iter().enumerate() {
            assert!(values.iter().all(|x| x.is_finite() && x.abs() < 1e6), "decay {decay}, result {i}");
        }
    }
}

/// Attention of `H = 4`, `G = 2` from `[B, T, H, ..]`; rows of `positions` that are padding are taken out of the output.
struct Attention {
    positions: Positions,
    span: Span,
    queries: usize,
    sizes: [usize; 2],
}

impl Attention {
    fn shapes(&self) -> [[usize; 4]; 3] {
        let (batch, keys, [width, value]) = (self.positions.rows().max(2), self.positions.length(), self.sizes);
        [[batch, self.queries, 4, width], [batch, keys, 2, width], [batch, keys, 2, value]]
    }

    fn tokens(&self, output: Tensor<Train, 4>) -> Tensor<Train, 4> {
        let keys = self.positions.length();
        let dtype: FloatDType = output.dtype().into();
        match self.positions.narrow(keys - self.queries..keys).tokens::<Train>(&output.device()) {
            Some(tokens) => output * tokens.cast(dtype).unsqueeze_dims::<4>(&[1, 3]),
            None => output,
        }
    }

    fn fused(&self, inputs: Inputs) -> Tensor<Train, 4> {
        let [q, k, v]: [_; 3] = inputs.into_iter().map(|x| x.swap_dims(1, 2)).collect::<Vec<_>>().try_into().expect("three inputs");
        self.tokens(softmax::attend(q, k, v, &self.positions, self.span, 0.4))
    }

    fn definition(&self, inputs: Inputs) -> Tensor<Train, 4> {
        let [q, k, v]: [_; 3] = inputs.into_iter().map(|x| x.swap_dims(1, 2)).collect::<Vec<_>>().try_into().expect("three inputs");
        let keys = self.positions.length();
        let hidden = self.positions.narrow(keys - self.queries..keys).hidden(&self.positions, self.span, &q.device());
        self.tokens(softmax::naive(q, repeat_heads(k, 4), repeat_heads(v, 4), hidden, 0.4))
    }
}

/// Left, right and no padding, rows of different length.
fn padded(length: usize) -> Positions {
    let left = (0..length).map(|i| i >= length / 3).collect();
    let right = (0..length).map(|i| i < length - length / 4).collect();
    Positions::padded(&[left, right, vec![true; length]], &[0, 0, 0])
}

const WINDOW: Span = Span { window: Some(7), sinks: 2 };

#[test]
fn attention_is_its_definition() {
    let check = |positions: Positions, span, queries, sizes| {
        let attention = Attention { positions, span, queries, sizes };
        let what = format!("{queries} of {} queries, {span:?}, {sizes:?}", attention.positions.length());
        check(&what, &attention.shapes(), |inputs| attention.fused(inputs), |inputs| attention.definition(inputs));
    };
    for span in [Span::FULL, WINDOW, Span { window: Some(70), sinks: 0 }] {
        for time in [1, 2, 31, 33, 63, 65, 100, 150] {
            check(Positions::range(0, time), span, time, [6, 10]);
        }
        check(Positions::range(0, 100), span, 100, [32, 32]);
        for queries in [1, 3, 20] {
            check(Positions::range(0, 140), span, queries, [6, 10]);
            check(Positions::range(0, 70), span, queries, [8, 43]);
        }
        check(padded(40), span, 40, [6, 10]);
        check(padded(140), span, 140, [6, 10]);
        // Padding before later tokens, as a cache has it.
        check(padded(90).followed_by(&Positions::padded(&vec![vec![true; 4]; 3], &[60, 68, 90])), span, 4, [6, 10]);
        // A cache that begins later.
        check(Positions::range(30, 90), span, 17, [6, 10]);
        check(Positions::range(0, 2).followed_by(&Positions::range(50, 80)), span, 60, [6, 10]);
    }
}

#[test]
fn attention_agrees_with_finite_differences() {
    for (positions, span, queries) in
        [(Positions::range(0, 21), Span::FULL, 21), (Positions::range(0, 21), WINDOW, 9), (padded(12), WINDOW, 12)]
    {
        let attention = Attention { positions, span, queries, sizes: [6, 10] };
        check_differences("attention", &attention.shapes(), |inputs| attention.fused(inputs), |inputs| attention.definition(inputs));
    }
}

#[test]
fn attention_of_padding_is_finite() {
    let positions = padded(50);
    let [q, k, v] =
        [(1, 4), (2, 2), (3, 2)].map(|(seed, heads)| tensor(&numbers(seed, 3 * heads * 50 * 8), [3, heads, 50, 8], FloatDType::F32));
    for span in [Span::FULL, WINDOW] {
        let output = values(softmax::attend(q.clone(), k.clone(), v.clone(), &positions, span, 0.4));
        assert!(output.iter().all(|x| x.is_finite()), "{span:?}");
    }
}

#[test]
fn attention_of_one_query_reads_a_part_of_a_larger_cache() {
    let (room, used) = (200, 137);
    let [k, v] = [1, 2].map(|seed| tensor(&numbers(seed, 2 * 2 * room * 32), [2, 2, room, 32], FloatDType::F32).narrow(2, 0, used));
    let q = tensor(&numbers(3, 2 * 4 * 32), [2, 4, 1, 32], FloatDType::F32);
    let positions = Positions::range(0, used);
    for span in [Span::FULL, WINDOW] {
        let hidden = positions.narrow(used - 1..used).hidden(&positions, span, &FlexDevice);
        let [long_q, long_k, long_v] = [q.clone(), repeat_heads(k.clone(), 4), repeat_heads(v.clone(), 4)].map(|x| x.cast(FloatDType::F64));
        let expected = softmax::naive(long_q, long_k, long_v, hidden, 0.3);
        let found = softmax::attend(q.clone(), k.clone(), v.clone(), &positions, span, 0.3);
        close("decode", &values(found), &values(expected), TOLERANCE);
    }
}

fn weight(x: &Tensor<Train, 4>) -> Tensor<Train, 1> {
    x.clone().reshape([x.shape().num_elements()])
}

#[test]
fn rms_norm_is_its_definition() {
    let definition = |inputs: Inputs| {
        let x = inputs[0].clone().swap_dims(1, 2);
        let scale = x.clone().powi_scalar(2).mean_dim(3).add_scalar(1e-5).sqrt();
        x / scale * weight(&inputs[1]).unsqueeze::<4>()
    };
    let fused = |inputs: Inputs| norm::rms(inputs[0].clone().swap_dims(1, 2), weight(&inputs[1]), 1e-5);
    for [batch, time, heads, width] in [[1, 1, 1, 1], [2, 3, 2, 6], [3, 65, 4, 32], [1, 7, 1, 128], [2, 300, 2, 33]] {
        check_differences(&format!("width {width}"), &[[batch, time, heads, width], [1, 1, 1, width]], fused, definition);
    }
}

#[test]
fn rms_norm_of_rows_is_its_definition() {
    let definition = |inputs: Inputs| {
        let x = inputs[0].clone();
        let scale = x.clone().powi_scalar(2).mean_dim(3).add_scalar(1e-5).sqrt();
        x / scale * weight(&inputs[1]).unsqueeze::<4>()
    };
    let fused = |inputs: Inputs| {
        let [a, b, c, width] = inputs[0].dims();
        norm::rms(inputs[0].clone().reshape([a * b, c, width]), weight(&inputs[1]), 1e-5).reshape([a, b, c, width])
    };
    check("three dimensions", &[[2, 67, 3, 24], [1, 1, 1, 24]], fused, definition);
}

#[test]
fn merged_heads_stand_side_by_side() {
    let definition = |inputs: Inputs| {
        let [batch, heads, time, width] = inputs[0].dims();
        inputs[0].clone().swap_dims(1, 2).reshape([1, batch, time, heads * width])
    };
    check("contiguous", &[[2, 3, 65, 10]], |inputs| softmax::merge_heads(inputs[0].clone()).unsqueeze(), definition);
    let swapped = |inputs: Inputs| softmax::merge_heads(inputs[0].clone().swap_dims(1, 2)).unsqueeze();
    check("by token", &[[2, 65, 3, 10]], swapped, move |inputs| definition(vec![inputs[0].clone().swap_dims(1, 2)]));
    let narrow = |x: &Tensor<Train, 4>| x.clone().narrow(2, 1, 4);
    let definition = move |inputs: Inputs| definition(vec![narrow(&inputs[0])]);
    check("a part", &[[2, 3, 7, 10]], move |inputs| softmax::merge_heads(narrow(&inputs[0])).unsqueeze(), definition);
}

#[test]
fn rotary_is_its_definition() {
    let tables = |x: &Tensor<Train, 4>, batch: usize| {
        let [_, _, time, width] = x.dims();
        let angles = tensor(&numbers(7, batch * time * width / 2), [batch, 1, time, width / 2], x.dtype().into());
        (angles.clone().cos(), angles.sin())
    };
    for (shape, batch) in [([2, 5, 3, 6], 1), ([2, 5, 3, 6], 2), ([3, 70, 4, 32], 3), ([1, 1, 2, 10], 1)] {
        let fused = |inputs: Inputs| {
            let x = inputs[0].clone().swap_dims(1, 2);
            let (cos, sin) = tables(&x, batch);
            rotary::rotate_half(x, cos, sin)
        };
        let definition = |inputs: Inputs| {
            let x = inputs[0].clone().swap_dims(1, 2);
            let (cos, sin) = tables(&x, batch);
            let half = x.dims()[3] / 2;
            let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
            Tensor::cat(vec![first.clone() * cos.clone() - second.clone() * sin.clone(), second * cos + first * sin], 3)
        };
        check_differences(&format!("{shape:?}"), &[shape], fused, definition);
    }
}

#[test]
fn swiglu_is_its_definition() {
    for shape in [[1, 1, 1, 1], [2, 3, 2, 10], [2, 65, 4, 33]] {
        let whole = [shape[0], shape[1], shape[2], 2 * shape[3]];
        let halves = |x: &Tensor<Train, 4>| (x.clone().narrow(3, 0, shape[3]), x.clone().narrow(3, shape[3], shape[3]));
        let fused = |inputs: Inputs| {
            let (gate, up) = halves(&inputs[0]);
            gate::swiglu(gate, up)
        };
        let definition = |inputs: Inputs| {
            let (gate, up) = halves(&inputs[0]);
            silu(gate) * up
        };
        check_differences(&format!("halves of {whole:?}"), &[whole], fused, definition);
        let swapped = |inputs: Inputs| gate::swiglu(inputs[0].clone().swap_dims(1, 2), inputs[1].clone());
        let definition = |inputs: Inputs| silu(inputs[0].clone().swap_dims(1, 2)) * inputs[1].clone();
        check(&format!("swapped {shape:?}"), &[shape, [shape[0], shape[2], shape[1], shape[3]]], swapped, definition);
    }
}

#[test]
fn sigmoid_is_accurate_over_the_whole_range() {
    let inputs: Vec<f64> = (-8700..8800).map(|i| f64::from((f64::from(i) / 100.0 + 0.0037) as f32)).collect();
    let shape = [1, 1, 1, inputs.len()];
    let ones = tensor(&vec![1.0; inputs.len()], shape, FloatDType::F32);
    let found = values(gate::swiglu(tensor(&inputs, shape, FloatDType::F32), ones));
    for (x, found) in inputs.iter().zip(found) {
        let expected = x / (1.0 + (-x).exp());
        assert!((found - expected).abs() <= 4e-7 * expected.abs() + 1e-36, "silu({x}) = {found} instead of {expected}");
    }
}

#[test]
fn convolution_is_its_definition() {
    for (time, channels, width) in [(1, 5, 4), (2, 5, 4), (33, 7, 3), (65, 40, 4), (100, 8, 2)] {
        // `x`, filters, state and, where there is one, bias.
        let named = |inputs: Inputs| {
            let mut inputs = inputs.into_iter();
            let [x, w, state] = [(); 3].map(|()| inputs.next().expect("three inputs").squeeze_dim::<3>(0));
            let bias: Option<Tensor<Train, 1>> = inputs.next().map(|bias| bias.reshape([channels]));
            (x, w.reshape([channels, width]), state.narrow(1, 0, width - 1), bias)
        };
        let fused = |inputs: Inputs| {
            let (x, w, state, bias) = named(inputs);
            let y = match bias {
                Some(bias) => convolution::causal_bias_silu(x, w, bias, state),
                None => convolution::causal_silu(x, w, state),
            };
            y.unsqueeze()
        };
        let definition = |inputs: Inputs| {
            let (x, w, state, bias) = named(inputs);
            let y = convolution::causal(x, w, state);
            silu(bias.map_or(y.clone(), |bias| y + bias.unsqueeze())).unsqueeze()
        };
        let shapes = [[1, 2, time, channels], [1, channels, width, 1], [1, 2, width - 1, channels], [1, 1, 1, channels]];
        for inputs in [3, 4] {
            let what = format!("{time} tokens, {channels} channels, width {width}, {inputs} inputs");
            check_differences(&what, &shapes[..inputs], fused, definition);
        }
    }
}

#[test]
fn other_element_types_keep_their_type() {
    for dtype in [FloatDType::F64, FloatDType::F16] {
        let x = tensor(&numbers(1, 2 * 3 * 4 * 8), [2, 3, 4, 8], FloatDType::F32);
        let expected = values(gate::swiglu(x.clone(), x.clone()));
        let found = gate::swiglu(x.clone().cast(dtype), x.cast(dtype));
        assert_eq!(found.dtype(), DType::from(dtype));
        close(&format!("{dtype:?}"), &values(found), &expected, 2e-3);
    }
}
