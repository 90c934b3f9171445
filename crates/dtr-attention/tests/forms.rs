//! All forms of a mixer give the same numbers: at random lengths and chunk lengths, in parts, packed, padded.

use burn::backend::Autodiff;
use burn::prelude::*;
use burn::tensor::Distribution;
use burn::tensor::activation::{relu, sigmoid};
use burn_flex::{Flex, FlexDevice};
use dtr_attention::recurrence::{self, Inputs};
use dtr_attention::{Positions, Span, linear, norm, packed, softmax, window_linear};
use proptest::prelude::*;

type Train = Autodiff<Flex>;

fn random<const R: usize>(shape: [usize; R]) -> Tensor<Flex, R> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &FlexDevice)
}

fn close<const R: usize>(found: &Tensor<Flex, R>, expected: &Tensor<Flex, R>, tolerance: f32) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.dims(), expected.dims());
    let difference = (found.clone() - expected.clone()).abs().max().into_scalar();
    let largest = expected.clone().abs().max().into_scalar().max(1.0);
    prop_assert!(difference <= tolerance * largest, "differs by {difference} of {largest}");
    Ok(())
}

/// What fades the state.
#[derive(Debug, Clone, Copy)]
enum Decay {
    None,
    Head,
    Channel,
}

fn any_rule() -> impl Strategy<Value = (Decay, bool)> {
    (prop_oneof![Just(Decay::None), Just(Decay::Head), Just(Decay::Channel)], any::<bool>())
}

/// Inputs of a rule. Keys are short, or without decay the state would grow with the length.
fn inputs((decay, delta): (Decay, bool), [batch, heads, time, width, value]: [usize; 5]) -> Inputs<Flex> {
    let [q, k] = [0, 1].map(|_| norm::unit(random([batch, heads, time, width]), 1.0, 1e-6));
    let inputs = Inputs::new(q, k, random([batch, heads, time, value]));
    let inputs = match decay {
        Decay::None => inputs,
        Decay::Head => inputs.fading(random([batch, heads, time, 1]).abs().neg()),
        Decay::Channel => inputs.fading(random([batch, heads, time, width]).abs().neg()),
    };
    if delta { inputs.correcting(sigmoid(random([batch, heads, time])).mul_scalar(1.5)) } else { inputs }
}

/// The same with gradients wanted, and these inputs in order.
fn tracked(inputs: &Inputs<Flex>) -> (Inputs<Train>, Vec<Tensor<Train, 4>>) {
    let leaf = |x: &Tensor<Flex, 4>| Tensor::<Train, 4>::from_inner(x.clone()).require_grad();
    let (q, k, v, g) = (leaf(&inputs.q), leaf(&inputs.k), leaf(&inputs.v), inputs.g.as_ref().map(leaf));
    let beta = inputs.beta.as_ref().map(|beta| leaf(&beta.clone().unsqueeze_dim(3)));
    let leaves = [Some(&q), Some(&k), Some(&v), g.as_ref(), beta.as_ref()].into_iter().flatten().cloned().collect();
    (Inputs { q, k, v, g, beta: beta.map(|beta| beta.squeeze_dim(3)) }, leaves)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn forms_of_recurrences_agree(rule in any_rule(), time in 1_usize..90, width in 1_usize..20, value in 1_usize..40, chunk in 0_u32..7) {
        let inputs = inputs(rule, [2, 2, time, width, value]);
        let state = random([2, 2, width, value]);
        let (expected, expected_state) = recurrence::naive(&inputs, state.clone());
        for (output, last) in [recurrence::scan(inputs.clone(), state.clone()), recurrence::chunk(inputs.clone(), state.clone(), 1 << chunk)] {
            close(&output, &expected, 2e-5)?;
            close(&last, &expected_state, 2e-5)?;
        }
        // In two parts, and token by token.
        let cut = time / 2;
        let mut outputs = Vec::new();
        let mut between = state;
        if cut > 0 {
            let (output, last) = recurrence::scan(inputs.narrow(0, cut), between);
            outputs.push(output);
            between = last;
        }
        for t in cut..time {
            let token = inputs.narrow(t, 1);
            let (output, last) = if t % 2 == 0 { recurrence::scan(token, between) } else { recurrence::recurrent(token, between) };
            outputs.push(output);
            between = last;
        }
        close(&Tensor::cat(outputs, 2), &expected, 2e-5)?;
        close(&between, &expected_state, 2e-5)?;
    }

    #[test]
    fn gradients_of_fused_and_composed_recurrences_agree(rule in any_rule(), time in 1_usize..40, width in 1_usize..9, value in 1_usize..40) {
        let inputs = inputs(rule, [1, 2, time, width, value]);
        let (state, weight) = (random([1, 2, width, value]), random([1, 2, time, value]));
        let gradients = |fused: bool| -> Vec<Tensor<Flex, 4>> {
            let (inputs, mut leaves) = tracked(&inputs);
            let state = Tensor::<Train, 4>::from_inner(state.clone()).require_grad();
            leaves.push(state.clone());
            let (output, last) = if fused { recurrence::scan(inputs, state) } else { recurrence::chunk(inputs, state, 8) };
            let gradients = ((output * Tensor::from_inner(weight.clone())).sum() + last.square().sum()).backward();
            leaves.iter().map(|leaf| leaf.grad(&gradients).expect("a gradient")).collect()
        };
        for (fused, composed) in gradients(true).iter().zip(&gradients(false)) {
            close(fused, composed, 1e-4)?;
        }
    }

    #[test]
    fn padding_changes_nothing(rule in any_rule(), time in 1_usize..40, left in 1_usize..9, right in 1_usize..9) {
        let (width, value) = (5, 7);
        let inputs = inputs(rule, [1, 2, time, width, value]);
        let state = random([1, 2, width, value]);
        let (expected, expected_state) = recurrence::scan(inputs.clone(), state.clone());
        let wide = |x: &Tensor<Flex, 4>| {
            let around = |length: usize| random::<4>([1, 2, length, x.dims()[3]]);
            Tensor::cat(vec![around(left), x.clone(), around(right)], 2)
        };
        let padded = Inputs {
            q: wide(&inputs.q),
            k: wide(&inputs.k),
            v: wide(&inputs.v),
            g: inputs.g.as_ref().map(wide),
            beta: inputs.beta.as_ref().map(|beta| wide(&beta.clone().unsqueeze_dim(3)).squeeze_dim(3)),
        };
        let tokens: Vec<f32> = (0..left + time + right).map(|t| f32::from(u8::from((left..left + time).contains(&t)))).collect();
        let tokens = Tensor::from_data(TensorData::new(tokens, [1, left + time + right]), &FlexDevice);
        let (output, last) = recurrence::scan(padded.without_padding(tokens), state);
        close(&output.narrow(2, left, time), &expected, 1e-6)?;
        close(&last, &expected_state, 1e-6)?;
    }

    #[test]
    fn packed_sequences_do_not_see_each_other(rule in any_rule(), lengths in proptest::collection::vec(0_usize..20, 1..5)) {
        let time: usize = lengths.iter().sum();
        prop_assume!(time > 0);
        let inputs = inputs(rule, [1, 2, time, 4, 6]);
        let mut bounds = vec![0];
        bounds.extend(lengths.iter().scan(0, |end, length| { *end += length; Some(*end) }));
        let state = || recurrence::empty_state([1, 2, 4, 6], &FlexDevice);
        let cut = packed::each(&bounds, |_, start, length| recurrence::scan(inputs.narrow(start, length), state()).0);
        // The other way to pack: a decay that forgets all at the first token of each sequence.
        let forget: Vec<f32> = (0..time).map(|t| if bounds.contains(&t) { f32::NEG_INFINITY } else { 0.0 }).collect();
        let forget = Tensor::<Flex, 4>::from_data(TensorData::new(forget, [1, 1, time, 1]), &FlexDevice).expand([1, 2, time, 1]);
        let g = match &inputs.g {
            Some(g) => g.clone() + forget.expand(g.dims()),
            None => forget,
        };
        let (forgetting, _) = recurrence::scan(inputs.clone().fading(g), state());
        close(&forgetting, &cut, 1e-6)?;
    }

    #[test]
    fn forms_of_linear_attention_agree(time in 1_usize..90, width in 1_usize..20, value in 1_usize..20, chunk in 1_usize..70) {
        // Some weight on every key, so that no quotient is near 0 / 0.
        let [q, k] = [0, 1].map(|_| relu(random([2, 2, time, width])).add_scalar(0.1));
        let v = random([2, 2, time, value]);
        let expected = linear::naive(q.clone(), k.clone(), v.clone());
        let state = linear::empty_state([2, 2, width, value], &FlexDevice);
        for (output, last) in [linear::chunk(q.clone(), k.clone(), v.clone(), state.clone(), chunk), linear::scan(q.clone(), k.clone(), v.clone(), state.clone())] {
            close(&output, &expected, 2e-5)?;
            let mut outputs = Vec::new();
            let mut between = state.clone();
            for t in 0..time {
                let at = |x: &Tensor<Flex, 4>| x.clone().narrow(2, t, 1);
                let (output, next) = linear::recurrent(at(&q), at(&k), at(&v), between);
                outputs.push(output);
                between = next;
            }
            close(&Tensor::cat(outputs, 2), &expected, 2e-5)?;
            close(&last, &between, 2e-5)?;
        }
    }

    #[test]
    fn gradients_of_fused_and_composed_linear_attention_agree(time in 1_usize..40, width in 1_usize..9, value in 1_usize..40) {
        let leaves = [width, width, value].map(|width| random([1, 2, time, width]).abs().add_scalar(0.1));
        let (state, weight) = (random([1, 2, width, value + 1]).abs(), random([1, 2, time, value]));
        let gradients = |fused: bool| -> Vec<Tensor<Flex, 4>> {
            let tracked = |x: &Tensor<Flex, 4>| Tensor::<Train, 4>::from_inner(x.clone()).require_grad();
            let ([q, k, v], state) = (leaves.each_ref().map(tracked), tracked(&state));
            let given = [q.clone(), k.clone(), v.clone(), state.clone()];
            let (output, last) = if fused { linear::scan(q, k, v, state) } else { linear::chunk(q, k, v, state, 8) };
            let gradients = ((output * Tensor::from_inner(weight.clone())).sum() + last.square().sum()).backward();
            given.iter().map(|leaf| leaf.grad(&gradients).expect("a gradient")).collect()
        };
        for (fused, composed) in gradients(true).iter().zip(&gradients(false)) {
            close(fused, composed, 1e-4)?;
        }
    }

    #[test]
    fn forms_of_attention_over_all_agree(time in 1_usize..200, width in 1_usize..9, value in 1_usize..9, chunk in 1_usize..70, left in 0_usize..9) {
        let [q, k] = [0, 1].map(|_| random([2, 2, time + left, width]));
        let v = random([2, 2, time + left, value]);
        let mask: Vec<bool> = (0..time + left).map(|t| t >= left).collect();
        let positions = Positions::padded(&[vec![true; time + left], mask], &[0, 0]).at_once();
        prop_assert!(time == 1 || !positions.is_in_order());
        let whole = Tensor::<Flex, 4, Bool>::from_data(TensorData::new(vec![false], [1, 1, 1, 1]), &FlexDevice);
        let part = |x: &Tensor<Flex, 4>, row: usize, from: usize| x.clone().slice([row..row + 1, 0..2, from..time + left]);
        for found in [
            softmax::attend(q.clone(), k.clone(), v.clone(), &positions, Span::FULL, 0.4),
            softmax::chunk(q.clone(), k.clone(), v.clone(), &positions, Span::FULL, 0.4, chunk),
        ] {
            for (row, from) in [(0, 0), (1, left)] {
                let expected = softmax::naive(part(&q, row, from), part(&k, row, from), part(&v, row, from), whole.clone(), 0.4);
                close(&part(&found, row, from), &expected, 2e-5)?;
            }
        }
    }

    #[test]
    fn linear_attention_over_all_is_its_definition_in_any_order(time in 1_usize..90, width in 1_usize..20, value in 1_usize..20, turn in 0_usize..90) {
        let [q, k] = [0, 1].map(|_| relu(random([2, 2, time, width])).add_scalar(0.1));
        let v = random([2, 2, time, value]);
        let found = linear::over_all(q.clone(), k.clone(), v.clone());
        close(&found, &linear::naive_over_all(q.clone(), k.clone(), v.clone()), 2e-5)?;
        // Tokens in another order give their outputs in that order.
        let turn = turn % time;
        let turned = |x: &Tensor<Flex, 4>| Tensor::cat([x.clone().narrow(2, turn, time - turn), x.clone().narrow(2, 0, turn.max(1))].into_iter().take(1 + usize::from(turn > 0)).collect(), 2);
        close(&linear::over_all(turned(&q), turned(&k), turned(&v)), &turned(&found), 2e-5)?;
    }

    #[test]
    fn recurrences_from_both_ends_are_two_definitions(rule in any_rule(), time in 1_usize..60, width in 1_usize..9, value in 1_usize..9) {
        let shape = [2, 2, time, width, value];
        let (forward, backward) = (inputs(rule, shape), inputs(rule, shape));
        let empty = || recurrence::empty_state([2, 2, width, value], &FlexDevice);
        let expected = recurrence::naive(&forward, empty()).0 + recurrence::naive(&backward, empty()).0.flip([2]);
        let found = recurrence::both_ways(forward.clone(), backward.clone());
        close(&found, &expected, 2e-5)?;
        close(&recurrence::both_ways(backward, forward).flip([2]), &found, 2e-5)?;
    }

    #[test]
    fn forms_of_window_and_linear_attention_agree(time in 1_usize..60, window in 1_usize..20, cut in 0_usize..60) {
        let [batch, heads, width, value, features] = [2, 2, 5, 6, 4];
        let inputs = window_linear::Inputs {
            q: random([batch, heads, time, width]),
            k: random([batch, heads, time, width]),
            v: random([batch, heads, time, value]),
            q_features: random([batch, heads, time, features]).abs(),
            k_features: random([batch, heads, time, features]).abs(),
            gamma: random([heads]).abs(),
            tokens: None,
        };
        let expected = window_linear::naive(&inputs, window, 0.4);
        let part = |start: usize, length: usize| {
            let cut = |x: &Tensor<Flex, 4>| x.clone().narrow(2, start, length);
            window_linear::Inputs {
                q: cut(&inputs.q),
                k: cut(&inputs.k),
                v: cut(&inputs.v),
                q_features: cut(&inputs.q_features),
                k_features: cut(&inputs.k_features),
                gamma: inputs.gamma.clone(),
                tokens: None,
            }
        };
        let mut state = window_linear::empty_state([batch, heads, width, value, features], window, &FlexDevice);
        let mut outputs = Vec::new();
        for (start, length) in [(0, cut.min(time)), (cut.min(time), time - cut.min(time))] {
            // The first part at once, the others token by token.
            let step = if start == 0 { length.max(1) } else { 1 };
            for start in (start..start + length).step_by(step) {
                let (output, next) = window_linear::scan(part(start, step), state, window, 0.4);
                outputs.push(output);
                state = next;
            }
        }
        close(&Tensor::cat(outputs, 2), &expected, 2e-5)?;
    }
}

#[test]
fn rows_of_padding_alone_are_finite() {
    let nothing = || Tensor::<Flex, 2>::zeros([1, 9], &FlexDevice);
    let finite = |x: Tensor<Flex, 4>| x.is_finite().all().into_scalar();
    for rule in [(Decay::None, false), (Decay::Head, true), (Decay::Channel, true)] {
        let state = random([1, 2, 4, 6]);
        let (output, last) = recurrence::scan(inputs(rule, [1, 2, 9, 4, 6]).without_padding(nothing()), state.clone());
        assert!(finite(output) && (last - state).abs().max().into_scalar() < 1e-6);
    }
    let wide = || random([1, 2, 9, 4]);
    let (output, _) =
        linear::scan(wide().abs(), Tensor::zeros([1, 2, 9, 4], &FlexDevice), wide(), linear::empty_state([1, 2, 4, 4], &FlexDevice));
    assert!(finite(output));
    let inputs = window_linear::Inputs {
        q: wide(),
        k: wide(),
        v: wide(),
        q_features: wide().abs(),
        k_features: wide().abs(),
        gamma: random([2]).abs(),
        tokens: Some(nothing()),
    };
    assert!(finite(window_linear::naive(&inputs, 3, 0.5)));
    assert!(finite(window_linear::scan(inputs, window_linear::empty_state([1, 2, 4, 4, 4], 3, &FlexDevice), 3, 0.5).0));
    let positions = Positions::padded(&[vec![false; 9]], &[0]);
    assert!(finite(softmax::attend(wide(), wide(), wide(), &positions, Span::FULL, 0.5)));
}

#[test]
fn shapes_that_do_not_belong_together_are_named() {
    let inputs = inputs((Decay::Head, true), [1, 2, 5, 4, 6]);
    let state = random([1, 2, 4, 6]);
    assert_eq!(inputs.check(&state), Ok(()));
    let error = inputs.check(&random([1, 2, 4, 7])).expect_err("a state of another mixer");
    assert!(error.to_string().contains("the state has the shape [1, 2, 4, 7]"), "{error}");
    let error = inputs.clone().fading(random([1, 2, 5, 3])).check(&state).expect_err("three decays for four channels");
    assert_eq!((error.what, error.expected), ("g", vec![1, 2, 5, 1]));
    assert!(inputs.correcting(random([1, 2, 6])).check(&state).is_err());
}
