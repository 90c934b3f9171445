//! What must hold for mixers of an encoder: every token sees all others, padding does not matter, nor, where nothing fades, the order.

use burn::prelude::*;
use dtr_attention::Positions;
use dtr_models::{AttentionShape, Context, Mixer, MixerConfig, Pooling, pooling::Summary};
use dtr_tests::{Inner, close, difference, numbers};

const SHAPE: AttentionShape = AttentionShape {
    hidden: 24,
    heads: 4,
    kv_heads: 2,
    head_dim: 6,
    qkv_bias: true,
    output_bias: true,
    qk_norm: false,
    causal: false,
    eps: 1e-6,
};

fn operators() -> [MixerConfig; 4] {
    [
        MixerConfig::Softmax { window: None },
        MixerConfig::Hedgehog {},
        MixerConfig::GatedDelta { convolution: 4, rotary: false },
        MixerConfig::GatedDelta { convolution: 1, rotary: false },
    ]
}

/// A mixer with weights that look random.
fn mixer(operator: &MixerConfig) -> Mixer<Inner> {
    struct Fill(u64);
    impl burn::module::ModuleMapper<Inner> for Fill {
        fn map_float<const D: usize>(&mut self, param: burn::module::Param<Tensor<Inner, D>>) -> burn::module::Param<Tensor<Inner, D>> {
            self.0 += 1;
            let values = numbers::<Inner, D>(param.lazy_shape().dims(), self.0);
            // Norms stay positive.
            burn::module::Param::from_tensor(if D == 1 { values.mul_scalar(0.3).add_scalar(1.0) } else { values.mul_scalar(0.5) })
        }
    }
    let mut mixer = operator.init::<Inner>(&SHAPE, &Default::default()).map(&mut Fill(1000));
    if let Mixer::GatedDelta(mixer) = &mut mixer {
        // Half-lives of several tokens: what is far away is still to be seen.
        mixer.a_log = burn::module::Param::from_tensor(Tensor::full([4], -3.0, &Default::default()));
    }
    mixer
}

/// Positions are added to the embedding: a layer knows nothing of them but where padding is.
fn context(positions: Positions) -> Context<Inner> {
    Context { rotary: None, tokens: positions.tokens(&Default::default()), positions }
}

#[test]
fn padding_on_either_side_changes_nothing() {
    for operator in operators() {
        let mixer = mixer(&operator);
        let x = numbers::<Inner, 3>([4, 17, 24], 8);
        // Begin and length of the tokens in each row.
        let rows = [(0, 17), (8, 9), (0, 5), (6, 4)];
        let mask: Vec<Vec<bool>> =
            rows.iter().map(|&(begin, length)| (0..17).map(|i| (begin..begin + length).contains(&i)).collect()).collect();
        let y = mixer.mix(x.clone(), &context(Positions::padded(&mask, &[0; 4])));
        for (row, &(begin, length)) in rows.iter().enumerate() {
            let part = |x: &Tensor<Inner, 3>| x.clone().slice([row..row + 1, begin..begin + length, 0..24]);
            let wanted = mixer.mix(part(&x), &context(Positions::range(0, length)));
            close(&format!("{operator:?}, {length} tokens from {begin}"), &part(&y), &wanted, 1e-5);
        }
    }
}

#[test]
fn a_batch_of_padding_alone_gives_numbers() {
    for operator in operators() {
        let positions = Positions::padded(&[vec![false; 7], vec![true; 7]], &[0, 0]);
        let y = mixer(&operator).mix(numbers([2, 7, 24], 4), &context(positions));
        assert!(y.is_finite().all().into_scalar().elem::<bool>(), "{operator:?}");
    }
}

#[test]
fn every_token_sees_the_last_and_the_first() {
    for operator in operators() {
        let mixer = mixer(&operator);
        let x = numbers::<Inner, 3>([1, 12, 24], 1);
        let context = context(Positions::range(0, 12));
        let before = mixer.mix(x.clone(), &context);
        for at in [0, 11] {
            let changed = x.clone().slice_assign([0..1, at..at + 1, 0..24], numbers([1, 1, 24], 2));
            let after = mixer.mix(changed, &context);
            for token in 0..12 {
                let of = |y: &Tensor<Inner, 3>| y.clone().narrow(1, token, 1);
                assert!(difference(&of(&before), &of(&after)) > 0.0, "{operator:?}: token {token} does not see token {at}");
            }
        }
    }
}

#[test]
fn what_does_not_fade_knows_no_order_and_what_does_no_direction() {
    let context = context(Positions::range(0, 12));
    let x = numbers::<Inner, 3>([2, 12, 24], 3);
    for operator in operators() {
        let mixer = mixer(&operator);
        let reversed = mixer.mix(x.clone().flip([1]), &context).flip([1]);
        close(&format!("{operator:?}, reversed"), &reversed, &mixer.mix(x.clone(), &context), 1e-5);
        if matches!(operator, MixerConfig::GatedDelta { .. }) {
            continue;
        }
        let order = Tensor::<Inner, 1, Int>::from_ints([7, 0, 11, 3, 5, 1, 2, 10, 9, 4, 8, 6], &Default::default());
        let turned = mixer.mix(x.clone().select(1, order.clone()), &context);
        close(&format!("{operator:?}, in another order"), &turned, &mixer.mix(x.clone(), &context).select(1, order), 1e-5);
    }
}

#[test]
fn vectors_are_of_tokens_alone() {
    let device = Default::default();
    let x = Tensor::<Inner, 3>::from_floats([[[3.0, 4.0], [1.0, 0.0], [9.0, 9.0]], [[7.0, 7.0], [0.0, 2.0], [0.0, 4.0]]], &device);
    let tokens = Tensor::<Inner, 2>::from_floats([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]], &device);
    let check = |summary, normalise, expected: [[f32; 2]; 2]| {
        let pooling = Pooling { summary, normalise, tokens: None };
        let found = pooling.pool(x.clone(), Some(tokens.clone()));
        assert!(difference(&found, &Tensor::from_floats(expected, &device)) < 1e-6, "{pooling:?}: {found}");
    };
    check(Summary::Mean, false, [[2.0, 2.0], [0.0, 3.0]]);
    check(Summary::Mean, true, [[0.5_f32.sqrt(), 0.5_f32.sqrt()], [0.0, 1.0]]);
    check(Summary::First, false, [[3.0, 4.0], [0.0, 2.0]]);
    check(Summary::First, true, [[0.6, 0.8], [0.0, 1.0]]);
}
