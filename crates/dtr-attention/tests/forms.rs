//! All forms of the delta rule and of linear attention give the same numbers, at random lengths and chunk lengths.

use burn::prelude::*;
use burn::tensor::Distribution;
use burn::tensor::activation::{relu, sigmoid};
use burn_flex::{Flex, FlexDevice};
use dtr_attention::{delta, linear, norm};
use proptest::prelude::*;

fn random<const R: usize>(shape: [usize; R]) -> Tensor<Flex, R> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &FlexDevice)
}

fn close<const R: usize>(found: &Tensor<Flex, R>, expected: &Tensor<Flex, R>) -> Result<(), TestCaseError> {
    let difference = (found.clone() - expected.clone()).abs().max().into_scalar();
    let largest = expected.clone().abs().max().into_scalar().max(1.0);
    prop_assert!(difference <= 2e-5 * largest, "differs by {difference} of {largest}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn delta_forms_agree(time in 1_usize..90, width in 1_usize..20, value in 1_usize..40, chunk in 0_u32..7) {
        let [q, k] = [0, 1].map(|_| norm::unit(random([2, 2, time, width]), 1.0, 1e-6));
        let v = random([2, 2, time, value]);
        let g = random([2, 2, time]).abs().neg();
        let beta = sigmoid(random([2, 2, time]));
        let state = random([2, 2, width, value]);
        let inputs = delta::Inputs { q, k, v, g, beta };
        let (expected, expected_state) = delta::naive(&inputs, state.clone());
        for (output, last) in [delta::scan(inputs.clone(), state.clone()), delta::chunk(inputs.clone(), state.clone(), 1 << chunk)] {
            close(&output, &expected)?;
            close(&last, &expected_state)?;
        }
        // In two parts, and token by token.
        let cut = time / 2;
        let part = |start: usize, length: usize| {
            let wide = |x: &Tensor<Flex, 4>| x.clone().narrow(2, start, length);
            let flat = |x: &Tensor<Flex, 3>| x.clone().narrow(2, start, length);
            delta::Inputs { q: wide(&inputs.q), k: wide(&inputs.k), v: wide(&inputs.v), g: flat(&inputs.g), beta: flat(&inputs.beta) }
        };
        let mut outputs = Vec::new();
        let mut between = state;
        if cut > 0 {
            let (output, last) = delta::scan(part(0, cut), between);
            outputs.push(output);
            between = last;
        }
        for t in cut..time {
            let (output, last) = if t % 2 == 0 { delta::scan(part(t, 1), between) } else { delta::recurrent(part(t, 1), between) };
            outputs.push(output);
            between = last;
        }
        close(&Tensor::cat(outputs, 2), &expected)?;
        close(&between, &expected_state)?;
    }

    #[test]
    fn linear_forms_agree(time in 1_usize..90, width in 1_usize..20, value in 1_usize..20, chunk in 1_usize..70) {
        // Some weight on every key, so that no quotient is near 0 / 0.
        let [q, k] = [0, 1].map(|_| relu(random([2, 2, time, width])).add_scalar(0.1));
        let v = random([2, 2, time, value]);
        let expected = linear::naive(q.clone(), k.clone(), v.clone());
        let state = linear::empty_state([2, 2, width, value], &FlexDevice);
        let (output, last) = linear::chunk(q.clone(), k.clone(), v.clone(), state.clone(), chunk);
        close(&output, &expected)?;
        let mut outputs = Vec::new();
        let mut between = state;
        for t in 0..time {
            let at = |x: &Tensor<Flex, 4>| x.clone().narrow(2, t, 1);
            let (output, next) = linear::recurrent(at(&q), at(&k), at(&v), between);
            outputs.push(output);
            between = next;
        }
        close(&Tensor::cat(outputs, 2), &expected)?;
        close(&last, &between)?;
    }
}
