//! Every kernel against its definition written out in `f64`, every gradient against finite differences of that definition.

use dtr_kernels::linear::LinearInputs;
use dtr_kernels::recurrence::{self, Inputs};
use dtr_kernels::view::{Rows, View};
use dtr_kernels::{adamw, attention, convolution, cross_entropy, layer_norm, linear, rows};

/// Numbers in [-1, 1] that look random.
fn numbers(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        // Exact in f32.
        f64::from((state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0)
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn single(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

#[track_caller]
fn close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1.0_f64, |scale, x| scale.max(x.abs()));
    for (i, (&found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(found) - expected).abs() <= tolerance * scale, "{what}: [{i}] is {found} instead of {expected}");
    }
}

/// Gradients of the inputs, from the inputs and the gradient of the output.
type Backward<'a> = dyn Fn(&[Vec<f32>], &[f32]) -> Vec<Vec<f32>> + 'a;

/// A kernel beside its definition; `sizes` are the numbers of its inputs.
struct Case<'a> {
    what: String,
    inputs: Vec<Vec<f64>>,
    definition: &'a dyn Fn(&[Vec<f64>]) -> Vec<f64>,
    forward: &'a dyn Fn(&[Vec<f32>]) -> Vec<f32>,
    backward: &'a Backward<'a>,
}

impl Case<'_> {
    #[track_caller]
    fn check(&self) {
        let expected = (self.definition)(&self.inputs);
        let inputs: Vec<Vec<f32>> = self.inputs.iter().map(|x| single(x)).collect();
        close(&self.what, &(self.forward)(&inputs), &expected, 2e-6);
        let weights = numbers(99, expected.len());
        let grads = (self.backward)(&inputs, &single(&weights));
        for (i, grad) in grads.iter().enumerate() {
            assert_eq!(grad.len(), self.inputs[i].len(), "{}: gradient {i}", self.what);
            // Along two directions: all the gradient's numbers count in each.
            for seed in [7, 8] {
                let direction = numbers(seed, grad.len());
                let along = |step: f64| {
                    let mut moved = self.inputs.clone();
                    moved[i].iter_mut().zip(&direction).for_each(|(x, d)| *x += step * d);
                    (self.definition)(&moved).iter().zip(&weights).map(|(y, w)| y * w).sum::<f64>()
                };
                let expected = (along(1e-5) - along(-1e-5)) / 2e-5;
                let found: f64 = grad.iter().zip(&direction).map(|(&g, d)| f64::from(g) * d).sum();
                let size = grad.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt().max(1.0);
                assert!((found - expected).abs() <= 1e-5 * size, "{}: gradient {i} gives {found} instead of {expected}", self.what);
            }
        }
    }
}

/// Sizes, decays a token and rule of a recurrence.
#[derive(Debug, Clone, Copy)]
struct Recurrence {
    dims: [usize; 5],
    decays: usize,
    delta: bool,
}

impl Recurrence {
    fn inputs(self) -> Vec<Vec<f64>> {
        let [batch, heads, time, width, values] = self.dims;
        let tokens = batch * heads * time;
        let mut all = vec![numbers(1, tokens * width), numbers(2, tokens * width), numbers(3, tokens * values)];
        // Keys no longer than 1, else the delta rule grows.
        all[1].iter_mut().for_each(|k| *k *= (width as f64).powf(-0.5));
        all.push(numbers(4, tokens * self.decays).iter().map(|g| g - 1.0).collect());
        all.push(if self.delta { numbers(5, tokens).iter().map(|b| b * 0.5 + 0.5).collect() } else { Vec::new() });
        all.push(numbers(6, batch * heads * width * values));
        all
    }

    fn definition(self, x: &[Vec<f64>]) -> Vec<f64> {
        let [batch, heads, time, width, values] = self.dims;
        let (mut outputs, mut states) = (Vec::new(), Vec::new());
        for head in 0..batch * heads {
            let mut state = x[5][head * width * values..(head + 1) * width * values].to_vec();
            for token in head * time..(head + 1) * time {
                let at = |i: usize, size: usize| &x[i][token * size..(token + 1) * size];
                let (q, k, v, g) = (at(0, width), at(1, width), at(2, values), at(3, self.decays));
                for d in 0..width {
                    let g = match self.decays {
                        0 => 0.0,
                        1 => g[0],
                        _ => g[d],
                    };
                    state[d * values..(d + 1) * values].iter_mut().for_each(|s| *s *= g.exp());
                }
                let read = |state: &[f64], by: &[f64], c: usize| (0..width).map(|d| by[d] * state[d * values + c]).sum::<f64>();
                let u: Vec<f64> = (0..values).map(|c| if self.delta { x[4][token] * (v[c] - read(&state, k, c)) } else { v[c] }).collect();
                for d in 0..width {
                    for c in 0..values {
                        state[d * values + c] += k[d] * u[c];
                    }
                }
                outputs.extend((0..values).map(|c| read(&state, q, c)));
            }
            states.extend(state);
        }
        outputs.extend(states);
        outputs
    }

    fn views(self, x: &[Vec<f32>]) -> Inputs<'_> {
        let [batch, heads, time, width, values] = self.dims;
        let rows = |i: usize, width| View::contiguous(&x[i], [batch, heads, time, width]);
        Inputs {
            q: rows(0, width),
            k: rows(1, width),
            v: rows(2, values),
            g: (self.decays > 0).then(|| rows(3, self.decays)),
            beta: self.delta.then(|| rows(4, 1)),
            state: View::contiguous(&x[5], [batch, heads, width, values]),
        }
    }

    fn check(self) {
        let [batch, heads, time, width, values] = self.dims;
        Case {
            what: format!("{self:?}"),
            inputs: self.inputs(),
            definition: &|x| self.definition(x),
            forward: &|x| recurrence::forward(&self.views(x)),
            backward: &|x, grad| {
                let (grad, last) = grad.split_at(batch * heads * time * values);
                let (grad, last) =
                    (View::contiguous(grad, [batch, heads, time, values]), View::contiguous(last, [batch, heads, width, values]));
                let g = recurrence::backward(&self.views(x), grad, last);
                vec![g.q, g.k, g.v, g.g, g.beta, g.state]
            },
        }
        .check();
    }
}

#[test]
fn recurrences() {
    for dims in [[1, 2, 1, 3, 5], [2, 1, 17, 6, 40], [1, 1, 40, 19, 17], [1, 2, 0, 3, 4]] {
        for decays in [0, 1, dims[3]] {
            for delta in [false, true] {
                Recurrence { dims, decays, delta }.check();
            }
        }
    }
}

/// Sizes `[B, H, G, Tq, Tk, D, V]` and span of attention; the first row of positions has padding on its left.
#[derive(Debug, Clone, Copy)]
struct Attention {
    dims: [usize; 7],
    window: Option<usize>,
    sinks: usize,
    /// Whether all tokens stand at one position.
    at_once: bool,
}

const PADDING: i32 = 1 << 30;

impl Attention {
    fn positions(self) -> Vec<i32> {
        let [batch, _, _, _, keys, ..] = self.dims;
        let row =
            |batch: usize| (0..keys).map(move |j| if batch == 0 && j < keys / 4 { PADDING } else { i32::from(!self.at_once) * j as i32 });
        (0..batch).flat_map(row).collect()
    }

    /// Where each query's output begins, and whether it is a token: what padding gets is nobody's business.
    fn rows(self) -> Vec<(usize, bool)> {
        let [batch, heads, _, queries, keys, _, values] = self.dims;
        let positions = self.positions();
        let place = |row: usize, i: usize| {
            let (b, h) = (row / heads, row % heads);
            let start = if attention::is_by_head(queries) { row * queries + i } else { (b * queries + i) * heads + h };
            (start * values, positions[b * keys + keys - queries + i] != PADDING)
        };
        (0..batch * heads).flat_map(|row| (0..queries).map(move |i| (row, i))).map(|(row, i)| place(row, i)).collect()
    }

    fn tokens(self, output: &[f32]) -> Vec<f32> {
        let mut output = output.to_vec();
        for (start, _) in self.rows().into_iter().filter(|(_, token)| !token) {
            output[start..start + self.dims[6]].fill(0.0);
        }
        output
    }

    fn definition(self, x: &[Vec<f64>]) -> Vec<f64> {
        let [batch, heads, groups, queries, keys, width, values] = self.dims;
        let positions = self.positions();
        let mut output = vec![0.0; batch * heads * queries * values];
        for (n, (start, _)) in self.rows().into_iter().enumerate().filter(|(_, (_, token))| *token) {
            let (row, i) = (n / queries, n % queries);
            let (b, h) = (row / heads, row % heads);
            let group = b * groups + h / (heads / groups);
            let at = |x: &[f64], row: usize, size: usize| x[row * size..(row + 1) * size].to_vec();
            let q = at(&x[0], row * queries + i, width);
            let own = positions[b * keys + keys - queries + i];
            let sees = |j: usize| {
                let key = positions[b * keys + j];
                (self.at_once || j <= keys - queries + i)
                    && key <= own
                    && (self.window.is_none_or(|w| own - key < w as i32) || key < self.sinks as i32)
            };
            let score = |j: usize| q.iter().zip(at(&x[1], group * keys + j, width)).map(|(q, k)| 0.4 * q * k).sum::<f64>().exp();
            let weights: Vec<f64> = (0..keys).map(|j| if sees(j) { score(j) } else { 0.0 }).collect();
            let total: f64 = weights.iter().sum();
            for c in 0..values {
                output[start + c] = (0..keys).map(|j| weights[j] / total * x[2][(group * keys + j) * values + c]).sum();
            }
        }
        output
    }

    fn views<'a>(self, x: &'a [Vec<f32>], positions: &'a [i32]) -> attention::Inputs<'a> {
        let [batch, heads, groups, queries, keys, width, values] = self.dims;
        attention::Inputs {
            q: View::contiguous(&x[0], [batch, heads, queries, width]),
            k: View::contiguous(&x[1], [batch, groups, keys, width]),
            v: View::contiguous(&x[2], [batch, groups, keys, values]),
            positions,
            in_order: !self.at_once,
            window: self.window,
            sinks: self.sinks,
            scale: 0.4,
        }
    }

    fn check(self) {
        let [batch, heads, groups, queries, keys, width, values] = self.dims;
        let positions = self.positions();
        let by_head = attention::is_by_head(queries);
        Case {
            what: format!("{self:?}"),
            inputs: vec![
                numbers(1, batch * heads * queries * width),
                numbers(2, batch * groups * keys * width),
                numbers(3, batch * groups * keys * values),
            ],
            definition: &|x| self.definition(x),
            forward: &|x| self.tokens(&attention::forward(self.views(x, &positions))),
            backward: &|x, grad| {
                let strides = if by_head {
                    [heads * queries * values, queries * values, values, 1]
                } else {
                    [heads * queries * values, values, heads * values, 1]
                };
                let inputs = self.views(x, &positions);
                let (output, sums) = attention::forward_for_backward(inputs);
                let output = View::new(&output, [batch, heads, queries, values], [heads * queries * values, values, heads * values, 1]);
                let grad = self.tokens(grad);
                attention::backward(inputs, output, &sums, View::new(&grad, [batch, heads, queries, values], strides)).to_vec()
            },
        }
        .check();
    }
}

#[test]
fn softmax_attention() {
    for (window, sinks) in [(None, 0), (Some(5), 2), (Some(70), 0)] {
        for dims in [[2, 2, 1, 9, 9, 3, 5], [1, 4, 2, 3, 40, 6, 18], [2, 2, 2, 20, 90, 6, 4]] {
            Attention { dims, window, sinks, at_once: false }.check();
        }
    }
    for dims in [[2, 2, 1, 3, 9, 3, 5], [2, 2, 2, 90, 90, 6, 4]] {
        Attention { dims, window: None, sinks: 0, at_once: true }.check();
    }
}

#[test]
fn normalised_linear_attention() {
    for [batch, heads, time, width, values] in [[1, 2, 1, 3, 5], [2, 1, 37, 6, 31], [1, 1, 70, 9, 16]] {
        let tokens = batch * heads * time;
        let positive = |seed, count| numbers(seed, count).iter().map(|x| x.abs() + 0.1).collect::<Vec<f64>>();
        let plain = Recurrence { dims: [batch, heads, time, width, values + 1], decays: 0, delta: false };
        let cut = |x: &[Vec<f32>], run: &dyn Fn(&LinearInputs<'_>) -> Vec<Vec<f32>>| {
            let rows = |i: usize, width| View::contiguous(&x[i], [batch, heads, time, width]);
            let state = View::contiguous(&x[3], [batch, heads, width, values + 1]);
            run(&LinearInputs { q: rows(0, width), k: rows(1, width), v: rows(2, values), state, eps: 1e-10 })
        };
        let results = tokens * values + batch * heads * width * (values + 1);
        Case {
            what: format!("linear attention {batch} {heads} {time} {width} {values}"),
            inputs: vec![
                positive(1, tokens * width),
                positive(2, tokens * width),
                numbers(3, tokens * values),
                positive(4, batch * heads * width * (values + 1)),
            ],
            definition: &|x| {
                let wide: Vec<f64> = x[2].chunks(values).flat_map(|v| v.iter().copied().chain([1.0])).collect();
                let joined = plain.definition(&[x[0].clone(), x[1].clone(), wide, vec![], vec![], x[3].clone()]);
                let (outputs, states) = joined.split_at(tokens * (values + 1));
                let row = |row: &[f64]| row[..values].iter().map(|x| x / (row[values] + 1e-10)).collect::<Vec<_>>();
                outputs.chunks(values + 1).flat_map(row).chain(states.iter().copied()).collect()
            },
            forward: &|x| cut(x, &|inputs| vec![linear::forward(inputs)[..results].to_vec()]).remove(0),
            backward: &|x, grad| {
                cut(x, &|inputs| {
                    let joined = linear::forward(inputs);
                    let (grad, last) = grad.split_at(tokens * values);
                    let grad = View::contiguous(grad, [batch, heads, time, values]);
                    linear::backward(inputs, &joined, grad, View::contiguous(last, [batch, heads, width, values + 1])).to_vec()
                })
            },
        }
        .check();
    }
}

#[test]
fn short_convolution() {
    for ([batch, time, channels, width], biased) in
        [([2, 35, 5, 4], false), ([2, 35, 5, 4], true), ([1, 2, 20, 3], true), ([1, 3, 4, 1], false)]
    {
        fn inputs(x: &[Vec<f32>], [batch, time, channels, width]: [usize; 4]) -> convolution::Inputs<'_> {
            convolution::Inputs {
                x: View::contiguous(&x[0], [batch, time, channels]),
                taps: View::contiguous(&x[1], [width, channels]),
                state: View::contiguous(&x[2], [batch, width - 1, channels]),
                bias: x.get(3).map(Vec::as_slice),
            }
        }
        let dims = [batch, time, channels, width];
        let mut numbered =
            vec![numbers(1, batch * time * channels), numbers(2, width * channels), numbers(3, batch * (width - 1) * channels)];
        numbered.extend(biased.then(|| numbers(4, channels)));
        Case {
            what: format!("convolution {dims:?}, {biased}"),
            inputs: numbered,
            definition: &|x| {
                let input = |b: usize, t: usize, n: usize| match t.checked_sub(width - 1) {
                    Some(t) => x[0][(b * time + t) * channels + n],
                    None => x[2][(b * (width - 1) + t) * channels + n],
                };
                let all = (0..batch).flat_map(|b| (0..time).flat_map(move |t| (0..channels).map(move |n| (b, t, n))));
                let bias = |n: usize| x.get(3).map_or(0.0, |bias| bias[n]);
                let y = all.map(|(b, t, n)| bias(n) + (0..width).map(|j| x[1][j * channels + n] * input(b, t + j, n)).sum::<f64>());
                y.map(|y| y / (1.0 + (-y).exp())).collect()
            },
            forward: &|x| convolution::silu(&inputs(x, dims)),
            backward: &|x, grad| {
                let grads = convolution::silu_backward(&inputs(x, dims), View::contiguous(grad, [batch, time, channels]));
                let mut all = vec![grads.x, grads.taps, grads.state];
                all.extend(biased.then_some(grads.bias));
                all
            },
        }
        .check();
    }
}

fn plain(x: &[f32], width: usize) -> Rows<'_> {
    Rows::new(x, &[x.len() / width, width], &[width, 1], &[0, 1])
}

#[test]
fn norms_gates_and_rotations() {
    for (count, width) in [(3, 6), (400, 34), (1, 2)] {
        let size = count * width;
        Case {
            what: format!("rms norm {count} {width}"),
            inputs: vec![numbers(1, size), numbers(2, width)],
            definition: &|x| {
                let norm = |row: &[f64]| (row.iter().map(|x| x * x).sum::<f64>() / width as f64 + 1e-5).sqrt();
                let y = x[0].chunks(width).flat_map(|row| row.iter().zip(&x[1]).map(move |(a, w)| a / norm(row) * w));
                y.collect()
            },
            forward: &|x| rows::rms_norm(&plain(&x[0], width), &x[1], 1e-5),
            backward: &|x, grad| rows::rms_norm_backward(&plain(&x[0], width), &x[1], 1e-5, &plain(grad, width)).to_vec(),
        }
        .check();
        Case {
            what: format!("swiglu {count} {width}"),
            inputs: vec![numbers(1, size), numbers(2, size)],
            definition: &|x| x[0].iter().zip(&x[1]).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect(),
            forward: &|x| rows::swiglu(&plain(&x[0], width), &plain(&x[1], width)),
            backward: &|x, grad| rows::swiglu_backward(&plain(&x[0], width), &plain(&x[1], width), &plain(grad, width)).to_vec(),
        }
        .check();
        let half = width / 2;
        let (cos, sin): (Vec<f64>, Vec<f64>) = numbers(5, count * half).iter().map(|angle| (angle.cos(), angle.sin())).unzip();
        let (short_cos, short_sin) = (single(&cos), single(&sin));
        let turn = |x: &[f32], sign| rows::rotate_half(&plain(x, width), [&plain(&short_cos, half), &plain(&short_sin, half)], sign);
        Case {
            what: format!("rotation {count} {width}"),
            inputs: vec![numbers(1, size)],
            definition: &|x| {
                let turned = |i: usize| {
                    let (row, j) = (i / width, i % width);
                    let (c, s) = (cos[row * half + j % half], sin[row * half + j % half]);
                    let at = |j: usize| x[0][row * width + j];
                    if j < half { at(j) * c - at(j + half) * s } else { at(j) * c + at(j - half) * s }
                };
                (0..size).map(turned).collect()
            },
            forward: &|x| turn(&x[0], 1.0),
            backward: &|_, grad| vec![turn(grad, -1.0)],
        }
        .check();
    }
}

#[test]
fn cross_entropies() {
    for (count, width) in [(4, 3), (7, 150), (1, 64)] {
        let targets: Vec<i64> = (0..count as i64).map(|i| if i % 3 == 1 { -100 } else { (i * 7) % width as i64 }).collect();
        Case {
            what: format!("cross-entropy {count} {width}"),
            inputs: vec![numbers(1, count * width).iter().map(|x| 5.0 * x).collect()],
            definition: &|x| {
                let loss = |(row, &target): (&[f64], &i64)| {
                    usize::try_from(target).map_or(0.0, |target| row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[target])
                };
                x[0].chunks(width).zip(&targets).map(loss).collect()
            },
            forward: &|x| cross_entropy::forward(&plain(&x[0], width), &targets),
            backward: &|x, grad| vec![cross_entropy::backward(&plain(&x[0], width), &targets, grad)],
        }
        .check();
    }
}

#[test]
fn strong_decay_and_equal_keys_stay_finite() {
    let (time, width) = (300, 16);
    for g in [-1e4_f32, f32::NEG_INFINITY, -50.0, 0.0] {
        let row = numbers(3, width);
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        let keys = single(&row.iter().map(|x| x / length).collect::<Vec<_>>()).repeat(time);
        let wide = single(&numbers(1, time * width));
        let (decays, ones, state) = (vec![g; time], vec![1.0; time], single(&numbers(4, width * width)));
        let rows = |x, width| View::contiguous(x, [1, 1, time, width]);
        let inputs = Inputs {
            q: rows(&wide, width),
            k: rows(&keys, width),
            v: rows(&wide, width),
            g: Some(rows(&decays, 1)),
            beta: Some(rows(&ones, 1)),
            state: View::contiguous(&state, [1, 1, width, width]),
        };
        let joined = recurrence::forward(&inputs);
        let (outputs, states) = joined.split_at(time * width);
        let grads = recurrence::backward(&inputs, rows(outputs, width), View::contiguous(states, [1, 1, width, width]));
        for numbers in [&joined, &grads.q, &grads.k, &grads.v, &grads.g, &grads.beta, &grads.state] {
            assert!(numbers.iter().all(|x| x.is_finite() && x.abs() < 1e6), "decay {g}");
        }
    }
}

#[test]
fn long_sequences_stay_finite() {
    for decays in [0, 1, 8] {
        for delta in [false, true] {
            let case = Recurrence { dims: [1, 1, 32_768, 8, 8], decays, delta };
            let inputs: Vec<Vec<f32>> = case.inputs().iter().map(|x| single(x)).collect();
            let joined = recurrence::forward(&case.views(&inputs));
            assert!(joined.iter().all(|x| x.is_finite()), "{case:?}");
        }
    }
}

#[test]
fn what_is_no_number_stays_in_its_head() {
    let case = Recurrence { dims: [1, 3, 9, 4, 5], decays: 1, delta: true };
    let mut inputs: Vec<Vec<f32>> = case.inputs().iter().map(|x| single(x)).collect();
    // A key of the second head's fifth token.
    inputs[1][(9 + 4) * 4] = f32::NAN;
    let joined = recurrence::forward(&case.views(&inputs));
    let head = |n: usize| &joined[n * 9 * 5..(n + 1) * 9 * 5];
    assert!(head(0).iter().chain(head(2)).chain(&head(1)[..4 * 5]).all(|x| x.is_finite()));
    assert!(head(1)[4 * 5..].iter().all(|x| x.is_nan()));
}

#[test]
fn adamw_is_its_definition() {
    // Lengths around the width of registers and of tasks.
    for length in [1, 15, 16, 17, 8192, 8192 * 17 + 5] {
        let [w, grad, m] = [1, 2, 3].map(|seed| numbers(seed, length));
        let v: Vec<f64> = numbers(4, length).iter().map(|x| x * x).collect();
        let step = adamw::Step { keep: 0.875, rates: [0.0625, 0.25], unbias: 2.0, betas: [0.75, 0.96875], eps: 0.001 };
        let [keep, unbias, eps] = [step.keep, step.unbias, step.eps].map(f64::from);
        let first: Vec<f64> = m.iter().zip(&grad).map(|(m, g)| 0.75 * m + 0.25 * g).collect();
        let second: Vec<f64> = v.iter().zip(&grad).map(|(v, g)| 0.96875 * v + 0.03125 * g * g).collect();
        let moved = |i: usize| keep * w[i] - (0.0625 * first[i] + 0.25 * grad[i]) / ((second[i] * unbias).sqrt() + eps);
        let found = adamw::step(&single(&w), &single(&grad), [&single(&m), &single(&v)], step);
        close("weights", &found[0], &(0..length).map(moved).collect::<Vec<_>>(), 2e-6);
        close("first moment", &found[1], &first, 2e-6);
        close("second moment", &found[2], &second, 2e-6);
    }
}

#[test]
fn layer_norm_is_its_definition() {
    for (count, width) in [(1, 1), (3, 5), (40, 384), (2, 1000)] {
        let (x, weight, bias) = (numbers(1, count * width), numbers(2, width), numbers(3, width));
        let mut expected = Vec::new();
        for row in x.chunks(width) {
            let mean = row.iter().sum::<f64>() / width as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
            expected.extend(row.iter().zip(weight.iter().zip(&bias)).map(|(x, (w, b))| (x - mean) / (variance + 1e-3).sqrt() * w + b));
        }
        let (x, weight, bias) = (single(&x), single(&weight), single(&bias));
        let rows = Rows::new(&x, &[count, width], &[width, 1], &[0, 1]);
        close(&format!("{count} rows of {width}"), &layer_norm::layer_norm(&rows, [&weight, &bias], 1e-3), &expected, 2e-6);
    }
}

#[test]
fn gelu_is_its_definition() {
    // The normal distribution by the series of its density.
    let normal = |x: f64| {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / (2.0 * f64::from(n));
            sum += term / f64::from(2 * n + 1);
        }
        0.5 + sum / (2.0 * std::f64::consts::PI).sqrt()
    };
    let x: Vec<f64> = numbers(1, 3 * 77).iter().map(|x| 5.0 * x).chain([0.0, -0.0, 1e-6]).collect();
    let tanh = |x: f64| x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh());
    for approximate in [false, true] {
        let expected: Vec<f64> = x.iter().map(|&x| if approximate { tanh(x) } else { x * normal(x) }).collect();
        let x = single(&x);
        let rows = Rows::new(&x, &[3, 78], &[78, 1], &[0, 1]);
        close(&format!("approximate {approximate}"), &layer_norm::gelu(&rows, approximate), &expected, 1e-6);
    }
    let far = [-1e30, -100.0, 100.0, f32::NAN];
    let found = layer_norm::gelu(&Rows::new(&far, &[1, 4], &[4, 1], &[0, 1]), false);
    assert!(found[0].abs() < 1e-6 && found[1].abs() < 1e-6 && (found[2] - 100.0).abs() < 1e-6 && found[3].is_nan(), "{found:?}");
}
