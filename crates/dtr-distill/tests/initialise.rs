//! Where students start: what is fitted in closed form is never worse than before, and each part does what it says.

use std::path::Path;

use burn_flex::Flex;
use dtr_distill::initialise::{Decay, Gate, Initialise, Ridge, Start, Write, calibrate, fit, students};
use dtr_distill::loss::normalised_mse;
use dtr_distill::observe::observe;
use dtr_distill::{Batch, Row};
use dtr_models::checkpoint::load;
use dtr_models::{Mixer, MixerConfig};

fn loss(operator: &MixerConfig, initialise: &Initialise) -> (f32, Vec<Mixer<Flex>>) {
    loss_in(("assets/models/tiny-qwen3", 1000), |_| 40, operator, initialise)
}

/// Mean loss over the layers of a parent with so many tokens, on the calibration rows; `length` says how long each is.
fn loss_in(
    (parent, vocabulary): (&str, usize),
    length: impl Fn(usize) -> usize,
    operator: &MixerConfig,
    initialise: &Initialise,
) -> (f32, Vec<Mixer<Flex>>) {
    let device = Default::default();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(parent);
    let (config, parent) = load::<Flex>(&path, &device).expect("the parent");
    let row = |seed: usize| Row::plain((0..length(seed)).map(|t| ((seed * 7919 + t * t * 31) % vocabulary) as u32).collect());
    let batches: Vec<Batch<Flex>> = (0..2).map(|n| Batch::new(&(0..8).map(|r| row(n * 8 + r)).collect::<Vec<_>>(), &device)).collect();
    let found = calibrate(&parent, &batches, initialise, &device).expect("finite");
    let mut made = students(operator, &config.attention, &parent, &found, initialise);
    fit(&parent, &parent, &mut made.iter_mut().enumerate().collect::<Vec<_>>(), &batches, initialise, &device).expect("finite");
    let mut sum = 0.0;
    for batch in &batches {
        observe(&parent, &parent, batch, |layer, seen| {
            let loss: f32 = normalised_mse(made[layer].mix(seen.input, &seen.context), seen.output, seen.weights).into_scalar();
            assert!(loss.is_finite());
            sum += loss / (made.len() * batches.len()) as f32;
        });
    }
    (sum, made)
}

#[test]
fn closed_forms_only_help() {
    for operator in [
        MixerConfig::GatedDelta { convolution: 4, rotary: false },
        MixerConfig::GatedDelta { convolution: 4, rotary: true },
        MixerConfig::Mamba2 { state: 80, convolution: 4 },
        MixerConfig::Hedgehog {},
        MixerConfig::SlidingWindow { window: 8, sinks: 1 },
        MixerConfig::LinearMap {},
    ] {
        let plain = loss(&operator, &Initialise::COPY).0;
        let scaled = loss(&operator, &Initialise { scale: true, ..Initialise::COPY }).0;
        let fitted = loss(&operator, &Initialise { ridge: Ridge::Before, ..Initialise::COPY }).0;
        assert!(fitted < 0.9 * plain && fitted < 1.0, "{operator:?}: {plain} {fitted}");
        assert!(scaled < 1.5 * plain, "{operator:?}: {plain} {scaled}");
        if matches!(operator, MixerConfig::GatedDelta { .. }) {
            let gated = loss(&operator, &Initialise { gate: Gate::Magnitude, ridge: Ridge::Before, ..Initialise::COPY }).0;
            assert!(gated < fitted, "{operator:?}: heads that say little do so, {gated} {fitted}");
            let start = Initialise { gate: Gate::Magnitude, write: Write::Received, ridge: Ridge::Before, ..Initialise::COPY };
            let written = loss(&operator, &start).0;
            assert!(written < gated, "{operator:?}: what nobody looks at is not written over the rest, {written} {gated}");
        }
        if operator != (MixerConfig::LinearMap {}) {
            let random = loss(&operator, &Initialise { projections: Start::Random, ridge: Ridge::Before, ..Initialise::COPY }).0;
            assert!(fitted < random, "{operator:?}: the parent's projections are better than random ones, {fitted} {random}");
        }
    }
}

#[test]
fn closed_forms_help_in_other_families() {
    // Rows of unequal length: padding is there, and counts for nothing.
    let length = |seed: usize| 12 + 5 * (seed % 6);
    for parent in ["gpt2_tied", "bert", "roberta"] {
        let path = format!("tests/golden/models/{parent}");
        for operator in [MixerConfig::GatedDelta { convolution: 4, rotary: false }, MixerConfig::Hedgehog {}] {
            let start =
                Initialise { decay: Decay::Distance, write: Write::Entropy, gate: Gate::Magnitude, shrink: 0.2, ..Initialise::COPY };
            let start = if matches!(operator, MixerConfig::Hedgehog {}) { Initialise::COPY } else { start };
            let plain = loss_in((&path, 39), length, &operator, &start).0;
            let fitted = loss_in((&path, 39), length, &operator, &Initialise { ridge: Ridge::Before, ..start }).0;
            assert!(fitted < 0.95 * plain && fitted < 1.0, "{parent}, {operator:?}: {plain} {fitted}");
        }
    }
}

#[test]
fn gates_are_where_they_were_asked_to_be() {
    let operator = MixerConfig::GatedDelta { convolution: 4, rotary: false };
    let numbers = |mixer: &Mixer<Flex>| {
        let Mixer::GatedDelta(mixer) = mixer else { panic!("gated delta") };
        let [bias, write]: [Vec<f32>; 2] = [mixer.dt_bias.val().into_data(), mixer.in_proj_b.weight.val().abs().sum().into_data()]
            .map(|data| data.to_vec().expect("numbers"));
        (bias, write[0])
    };
    let (bias, write) = numbers(&loss(&operator, &Initialise::COPY).1[3]);
    assert!(bias.iter().all(|bias| *bias == 0.0) && write == 0.0);
    let (bias, write) = numbers(&loss(&operator, &Initialise { decay: Decay::Distance, write: Write::Entropy, ..Initialise::COPY }).1[3]);
    assert!(bias.iter().all(|bias| bias.is_finite() && *bias < 0.0), "half-lives of more than a token: {bias:?}");
    assert!(write > 0.0);
    let operator = MixerConfig::Mamba2 { state: 16, convolution: 4 };
    let rates = |initialise| {
        let Mixer::Mamba2(mixer) = &loss(&operator, initialise).1[3] else { panic!("mamba-2") };
        mixer.a_log.val().into_data().to_vec::<f32>().expect("numbers")
    };
    let one_token = std::f32::consts::LN_2.ln();
    assert!(rates(&Initialise::COPY).iter().all(|rate| (rate - one_token).abs() < 1e-6));
    let nearer = rates(&Initialise { decay: Decay::Distance, ..Initialise::COPY });
    for (rate, bias) in nearer.iter().zip(bias) {
        // That of gated delta has a half-life of the whole distance, and no half-life is below half a token.
        assert!(*rate >= bias.exp().ln_1p().ln() && *rate <= one_token + 2.0_f32.ln() + 1e-6, "{nearer:?}");
    }
    assert!(nearer.iter().any(|rate| (rate - nearer[0]).abs() > 0.1), "heads look differently far: {nearer:?}");
}
