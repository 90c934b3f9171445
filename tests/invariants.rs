//! What must hold for every mixer and layout: forms agree, decoding continues reading, padding and the future do not matter.

use burn::prelude::*;
use dtr_attention::recurrence::{self, Inputs};
use dtr_attention::{MixerBackend, Positions, Span, convolution, gate, norm, rotary, softmax};
use dtr_models::generate::{Sampling, Session, generate};
use dtr_models::{AttentionShape, Context, DecoderConfig, Mixer, MixerConfig, checkpoint};
use dtr_tests::{Inner, Train, close, difference, golden, ids, numbers, tiny_qwen3};
use proptest::prelude::*;

const SHAPE: AttentionShape = AttentionShape {
    hidden: 24,
    heads: 4,
    kv_heads: 2,
    head_dim: 6,
    qkv_bias: true,
    output_bias: false,
    qk_norm: true,
    causal: true,
    eps: 1e-6,
};

fn operators() -> Vec<MixerConfig> {
    vec![
        MixerConfig::Softmax { window: None },
        MixerConfig::Softmax { window: Some(5) },
        MixerConfig::SlidingWindow { window: 6, sinks: 2 },
        MixerConfig::Hedgehog {},
        MixerConfig::GatedDelta { convolution: 4, rotary: false },
        MixerConfig::GatedDelta { convolution: 1, rotary: true },
        MixerConfig::Mamba2 { state: 8, convolution: 4 },
        MixerConfig::Mamba2 { state: 3, convolution: 1 },
        MixerConfig::LinearMap {},
    ]
}

/// A mixer with weights that look random.
fn mixer(operator: &MixerConfig, seed: u64) -> Mixer<Inner> {
    struct Fill(u64);
    impl burn::module::ModuleMapper<Inner> for Fill {
        fn map_float<const D: usize>(&mut self, param: burn::module::Param<Tensor<Inner, D>>) -> burn::module::Param<Tensor<Inner, D>> {
            self.0 += 1;
            let values = numbers::<Inner, D>(param.lazy_shape().dims(), self.0);
            // Norms stay positive.
            burn::module::Param::from_tensor(if D == 1 { values.mul_scalar(0.3).add_scalar(1.0) } else { values.mul_scalar(0.5) })
        }
    }
    operator.init::<Inner>(&SHAPE, &Default::default()).map(&mut Fill(seed * 1000))
}

fn context(positions: Positions) -> Context<Inner> {
    let rope = dtr_models::rope::Rope { theta: 100.0, scaling: dtr_models::rope::RopeScaling::Default };
    let device = Default::default();
    Context { rotary: Some(rope.tables(SHAPE.head_dim, &positions, &device)), tokens: positions.tokens(&device), positions }
}

#[test]
fn reading_in_pieces_is_reading_at_once() {
    for operator in operators() {
        let mixer = mixer(&operator, 1);
        let x = numbers::<Inner, 3>([2, 40, 24], 7);
        let whole = mixer.mix(x.clone(), &context(Positions::range(0, 40)));
        for cuts in [vec![40], vec![1; 40], vec![13, 1, 1, 20, 5], vec![33, 7]] {
            let (mut state, mut at, mut parts) = (mixer.empty_state(2), 0, Vec::new());
            for length in cuts {
                let (y, next) = mixer.forward(x.clone().narrow(1, at, length), &context(Positions::range(at, length)), state);
                parts.push(y);
                state = next;
                at += length;
            }
            close(&format!("{operator:?}"), &Tensor::cat(parts, 1), &whole, 1e-5);
        }
    }
}

#[test]
fn padding_changes_nothing_and_the_state_goes_on() {
    for operator in operators() {
        let mixer = mixer(&operator, 2);
        let lengths = [17, 9, 3];
        let x = numbers::<Inner, 3>([3, 17, 24], 8);
        for left in [true, false] {
            let mask: Vec<Vec<bool>> =
                lengths.iter().map(|&length| (0..17).map(|i| if left { i >= 17 - length } else { i < length }).collect()).collect();
            let begins: Vec<usize> = lengths.iter().map(|&length| if left { 17 - length } else { 0 }).collect();
            let padded = Positions::padded(&mask, &[0; 3]);
            let (y, state) = mixer.forward(x.clone(), &context(padded), mixer.empty_state(3));
            let later = numbers::<Inner, 3>([3, 1, 24], 9);
            let steps = Positions::padded(&[vec![true], vec![true], vec![true]], &lengths);
            let (next, _) = mixer.forward(later.clone(), &context(steps), state.clone());
            for (row, (&length, &begin)) in lengths.iter().zip(&begins).enumerate() {
                let alone = x.clone().slice([row..row + 1, begin..begin + length, 0..24]);
                let (wanted, state_alone) = mixer.forward(alone, &context(Positions::range(0, length)), mixer.empty_state(1));
                let what = format!("{operator:?}, left {left}, {length} tokens");
                close(&what, &y.clone().slice([row..row + 1, begin..begin + length, 0..24]), &wanted, 1e-5);
                let (wanted, _) = mixer.forward(later.clone().narrow(0, row, 1), &context(Positions::range(length, 1)), state_alone);
                close(&format!("{what}, next token"), &next.clone().narrow(0, row, 1), &wanted, 1e-5);
            }
        }
    }
}

#[test]
fn a_batch_of_padding_alone_gives_numbers() {
    for operator in operators() {
        let mixer = mixer(&operator, 3);
        let positions = Positions::padded(&[vec![false; 7], vec![true; 7]], &[0, 0]);
        let y = mixer.mix(numbers([2, 7, 24], 4), &context(positions));
        assert!(y.is_finite().all().into_scalar().elem::<bool>(), "{operator:?}");
    }
}

#[test]
fn the_future_does_not_matter() {
    for operator in operators() {
        let mixer = mixer(&operator, 5);
        let x = numbers::<Inner, 3>([1, 30, 24], 1);
        let changed = Tensor::cat(vec![x.clone().narrow(1, 0, 21), numbers([1, 9, 24], 2)], 1);
        let context = context(Positions::range(0, 30));
        let [a, b] = [x, changed].map(|x| mixer.mix(x, &context).narrow(1, 0, 21));
        assert!(difference(&a, &b) <= 1e-6, "{operator:?}");
    }
}

#[test]
fn a_window_holds_no_more_than_it_sees() {
    let mixer = mixer(&MixerConfig::SlidingWindow { window: 6, sinks: 2 }, 6);
    let (_, state) = mixer.forward(numbers([1, 100, 24], 1), &context(Positions::range(0, 100)), mixer.empty_state(1));
    assert_eq!(state.bytes(), 2 * 2 * 6 * (6 + 2) * 4, "keys and values of two groups of width 6 at 8 positions");
}

/// The bundled parent with these operators in its layers.
fn hybrid(letters: &str) -> (DecoderConfig, dtr_models::Decoder<Inner>) {
    let device = Default::default();
    let (mut config, mut model) = checkpoint::load::<Inner>(&golden("models/qwen3_gqa_3"), &device).expect("a model");
    for (layer, letter) in letters.chars().enumerate() {
        let operator = operators().into_iter().find(|operator| operator.letter() == letter).expect("an operator");
        if letter != 'S' {
            model.layers[layer].mixer = operator.init::<Inner>(&config.attention, &device).map(&mut Randomise(layer as u64));
            config.mixers[layer] = operator;
        }
    }
    (config, model)
}

struct Randomise(u64);

impl burn::module::ModuleMapper<Inner> for Randomise {
    fn map_float<const D: usize>(&mut self, param: burn::module::Param<Tensor<Inner, D>>) -> burn::module::Param<Tensor<Inner, D>> {
        self.0 += 17;
        burn::module::Param::from_tensor(numbers::<Inner, D>(param.lazy_shape().dims(), self.0).mul_scalar(0.4))
    }
}

#[test]
fn a_hybrid_saves_and_loads_as_it_is() {
    for letters in ["GS", "SW", "HG", "WH", "MS"] {
        let (config, model) = hybrid(letters);
        assert_eq!(config.layout(), letters);
        let directory = tempfile::tempdir().expect("a directory");
        checkpoint::save(directory.path(), &config, &model, &golden("models/qwen3_gqa_3")).expect("saved");
        let (again, loaded) = checkpoint::load::<Inner>(directory.path(), &Default::default()).expect("a hybrid");
        assert_eq!(again, config);
        let rows = ids(&[(0..30).map(|i| i * 7 % 39).collect()]);
        assert!(difference(&model.logits(rows.clone()), &loaded.logits(rows)) <= 0.0, "{letters}");
    }
}

#[test]
fn prefill_and_decode_give_the_logits_of_one_pass() {
    for letters in ["SS", "GS", "WH", "HG", "MG"] {
        let (_, model) = hybrid(letters);
        let tokens: Vec<u32> = (0..40).map(|i| i * 11 % 39).collect();
        let whole = model.logits(ids(&[tokens.iter().map(|&token| i64::from(token)).collect()]));
        let (mut session, mut logits) = Session::start(&model, &[tokens[..25].to_vec()], &Default::default());
        for (at, token) in tokens.iter().enumerate().skip(25) {
            close(&format!("{letters}, token {at}"), &logits.unsqueeze_dim::<3>(1), &whole.clone().narrow(1, at - 1, 1), 1e-4);
            logits = session.step(&[*token]);
        }
    }
}

#[test]
fn a_batch_of_unequal_prompts_generates_what_each_generates_alone() {
    for letters in ["SS", "GS", "WH", "MS"] {
        let (_, model) = hybrid(letters);
        let prompts: Vec<Vec<u32>> = [12, 5, 1].iter().map(|&length| (0..length).map(|i| (i * 5 + length) % 39).collect()).collect();
        let device = Default::default();
        let together = generate(&model, &prompts, 10, Sampling::GREEDY, &[], &device, |_| {});
        for (prompt, wanted) in prompts.iter().zip(together) {
            let alone = generate(&model, std::slice::from_ref(prompt), 10, Sampling::GREEDY, &[], &device, |_| {});
            assert_eq!(alone[0], wanted, "{letters}");
        }
    }
}

#[test]
fn the_layout_of_softmax_alone_is_the_parent_bit_for_bit() {
    let device = Default::default();
    let (config, model) = checkpoint::load::<Inner>(&tiny_qwen3(), &device).expect("the parent");
    let directory = tempfile::tempdir().expect("a directory");
    checkpoint::save(directory.path(), &config, &model, &tiny_qwen3()).expect("saved");
    let (_, again) = checkpoint::load::<Inner>(directory.path(), &device).expect("the same");
    let rows = ids(&[(0..64).map(|i| i * 29 % 2000 + 20).collect()]);
    let [a, b] = [model, again].map(|model| model.logits(rows.clone()).into_data());
    assert_eq!(a, b);
}

fn delta_inputs<B: MixerBackend>(shape @ [batch, heads, time, _]: [usize; 4], value: usize, seed: u64) -> (Inputs<B>, Tensor<B, 4>) {
    let flat = |seed| numbers::<B, 3>([batch, heads, time], seed);
    let inputs = Inputs {
        q: numbers(shape, seed),
        k: norm::unit(numbers(shape, seed + 1), 1.0, 1e-6),
        v: numbers([batch, heads, time, value], seed + 2),
        g: Some(flat(seed + 3).abs().neg().unsqueeze_dim(3)),
        beta: Some(flat(seed + 4).abs()),
    };
    let state = numbers([batch, heads, shape[3], value], seed + 5);
    (inputs, state)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn all_forms_of_attention_agree(
        queries in 1_usize..80, earlier in 0_usize..40, chunk in 1_usize..50, window in proptest::option::of(1_usize..30), sinks in 0_usize..4, seed in 0_u64..1000,
    ) {
        let span = Span { window, sinks };
        let keys = queries + earlier;
        // Rows as a cache holds them: room behind the last key.
        let cache = |seed| numbers::<Inner, 4>([2, 2, keys + 9, 6], seed).narrow(2, 0, keys);
        let (q, k, v) = (numbers::<Inner, 4>([2, queries, 4, 6], seed).swap_dims(1, 2), cache(seed + 1), cache(seed + 2));
        let positions = Positions::range(0, keys);
        let hidden = positions.narrow(earlier..keys).hidden(&positions, span, &Default::default());
        let wide = |x: &Tensor<Inner, 4>| softmax::repeat_heads(x.clone(), 4);
        let wanted = softmax::naive(q.clone(), wide(&k), wide(&v), hidden, 0.4);
        close("chunk", &softmax::chunk(q.clone(), wide(&k), wide(&v), &positions, span, 0.4, chunk), &wanted, 1e-5);
        close("fused", &softmax::attend(q, k, v, &positions, span, 0.4), &wanted, 1e-5);
    }
}

/// Central differences of `loss` in a few coordinates of `x` against `gradient`.
fn check_differences<const R: usize>(
    what: &str,
    x: &Tensor<Inner, R>,
    gradient: &Tensor<Inner, R>,
    loss: impl Fn(Tensor<Inner, R>) -> f64,
) {
    const STEP: f32 = 1e-2;
    let (shape, count) = (x.dims(), x.shape().num_elements());
    let values: Vec<f32> = x.clone().into_data().iter::<f32>().collect();
    let gradients: Vec<f32> = gradient.clone().into_data().iter::<f32>().collect();
    for probe in 0..count.min(12) {
        let index = probe * 7919 % count;
        let moved = |by: f32| {
            let mut values = values.clone();
            values[index] += by;
            loss(Tensor::from_data(TensorData::new(values, shape), &Default::default()))
        };
        let slope = (moved(STEP) - moved(-STEP)) / f64::from(2.0 * STEP);
        let error = (slope - f64::from(gradients[index])).abs();
        assert!(error <= 2e-3 * slope.abs().max(1.0), "{what}[{index}]: slope {slope}, gradient {}", gradients[index]);
    }
}

/// Sum of `output * weights` in f64, the weights fixed.
fn weighted<const R: usize>(output: Tensor<Inner, R>) -> f64 {
    let weights = numbers::<Inner, R>(output.dims(), 99);
    (output * weights).into_data().iter::<f32>().map(f64::from).sum()
}

/// Gradients of the fused operation in its inputs, by autodiff and by central differences.
macro_rules! check_backward {
    ($what:literal, [$($x:ident),*], $operation:expr) => {{
        let leaves = ($(Tensor::<Train, _>::from_inner($x.clone()).require_grad(),)*);
        let output = { let ($($x,)*) = leaves.clone(); $operation };
        let weights = Tensor::from_inner(numbers(output.dims(), 99));
        let gradients = (output * weights).sum().backward();
        let ($($x,)*) = leaves;
        check_backward!(@each $what, gradients, [$($x),*], [$($x),*], $operation);
    }};
    (@each $what:literal, $gradients:ident, [$($x:ident),*], $all:tt, $operation:expr) => {
        $(check_backward!(@one $what, $gradients, $x, $all, $operation);)*
    };
    (@one $what:literal, $gradients:ident, $probed:ident, [$($x:ident),*], $operation:expr) => {{
        let gradient = $probed.grad(&$gradients).expect("a gradient");
        let values = ($($x.clone().inner(),)*);
        check_differences(concat!($what, ", ", stringify!($probed)), &$probed.clone().inner(), &gradient, |moved| {
            #[allow(unused_variables, reason = "the probed input takes the place of its own value")]
            let ($($x,)*) = values.clone();
            let $probed = moved;
            weighted($operation)
        });
    }};
}

#[test]
fn hand_written_backward_passes_are_the_slopes() {
    let x = numbers::<Inner, 4>([2, 3, 5, 6], 1);
    let weight = numbers::<Inner, 1>([6], 2);
    check_backward!("rms norm", [x, weight], norm::rms(x, weight, 1e-2));

    let flat = numbers::<Inner, 3>([2, 5, 6], 3);
    check_backward!("rms norm of rows", [flat, weight], norm::rms(flat, weight, 1e-2));

    let up = numbers::<Inner, 3>([2, 5, 6], 4);
    check_backward!("swiglu", [flat, up], gate::swiglu(flat, up));

    for width in [1_usize, 4] {
        let filter = numbers::<Inner, 2>([6, width], 5);
        let state = numbers::<Inner, 3>([2, width - 1, 6], 6);
        let bias = numbers::<Inner, 1>([6], 7);
        if width == 1 {
            check_backward!(
                "convolution of width 1",
                [flat, filter],
                convolution::causal_silu(flat, filter, Tensor::zeros([2, 0, 6], &Default::default()))
            );
        } else {
            check_backward!("convolution", [flat, filter, state], convolution::causal_silu(flat, filter, state));
            check_backward!("convolution and bias", [flat, filter, bias, state], convolution::causal_bias_silu(flat, filter, bias, state));
        }
    }

    for (width, value, time) in [(6, 10, 37), (4, 32, 33), (3, 8, 1)] {
        let (Inputs { q, k, v, g, beta }, state) = delta_inputs::<Inner>([1, 2, time, width], value, 7);
        let (g, beta) = (g.expect("a decay"), beta.expect("a strength"));
        check_backward!("gated delta", [q, k, v, g, beta, state], {
            let (output, last) = recurrence::scan(Inputs { q, k, v, g: Some(g), beta: Some(beta) }, state);
            Tensor::cat(vec![output, last], 2)
        });
    }

    let (k, v) = (numbers::<Inner, 4>([2, 3, 21, 6], 8), numbers::<Inner, 4>([2, 3, 21, 17], 9));
    let q = numbers::<Inner, 4>([2, 6, 21, 6], 10);
    let padded = Positions::padded(&[vec![true; 21], (0..21).map(|i| i >= 6).collect()], &[0, 0]);
    for (positions, span) in
        [(Positions::range(0, 21), Span::FULL), (Positions::range(0, 21), Span { window: Some(5), sinks: 2 }), (padded, Span::FULL)]
    {
        check_backward!("attention", [q, k, v], softmax::attend(q, k, v, &positions, span, 0.4));
    }

    let rope = dtr_models::rope::Rope { theta: 100.0, scaling: dtr_models::rope::RopeScaling::Default };
    check_backward!("rotary", [q], {
        let tables = rope.tables(6, &Positions::range(3, 21), &Default::default());
        rotary::rotate_half(q, tables.cos, tables.sin)
    });
}

#[test]
fn long_sequences_stay_finite() {
    let (inputs, state) = delta_inputs::<Inner>([1, 1, 32_768, 8], 8, 1);
    let (output, last) = recurrence::scan(inputs, state);
    for x in [output, last] {
        assert!(x.is_finite().all().into_scalar().elem::<bool>());
    }
}
