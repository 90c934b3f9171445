//! A hybrid that is trained towards its parent's answers: by the loss that is said, and nowhere but where it may.

use std::path::Path;

use burn::backend::Autodiff;
use burn::tensor::{Int, Tensor, TensorData};
use burn_flex::Flex;
use dtr_distill::initialise::{Decay, Gate, Initialise, Ridge, Start, Write, calibrate, students};
use dtr_distill::recover::{Recovery, Trained, recover};
use dtr_distill::{Batch, Row};
use dtr_models::checkpoint::{load, save_module};
use dtr_models::decoder::Block;
use dtr_models::{Decoder, MixerConfig};

const LENGTH: usize = 24;
const TASK_WEIGHT: f64 = 0.3;

const START: Initialise = Initialise {
    projections: Start::Copy,
    decay: Decay::Constant,
    write: Write::Constant,
    gate: Gate::Neutral,
    shrink: 1.0,
    scale: false,
    ridge: Ridge::Off,
    feature_map_steps: 0,
};

fn rows() -> Vec<Row> {
    let row = |row: usize| {
        let mut row = Row::plain((0..LENGTH).map(|t| ((row * 104_729 + t * t * 31) % 500) as u32).collect());
        (row.weights[3], row.weights[LENGTH - 2], row.weights[LENGTH - 1]) = (8.0, 0.5, 2.0);
        row
    };
    (0..2).map(row).collect()
}

/// `log softmax` of a model's logits, token by token, in double precision.
fn predicted(model: &Decoder<Flex>, row: &Row) -> Vec<Vec<f64>> {
    let ids: Vec<i64> = row.tokens.iter().map(|&token| i64::from(token)).collect();
    let ids = Tensor::<Flex, 2, Int>::from_data(TensorData::new(ids, [1, LENGTH]), &Default::default());
    let logits = model.logits(ids).into_data().to_vec::<f32>().expect("logits");
    let normal = |logits: &[f32]| {
        let sum = logits.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln();
        logits.iter().map(|&logit| f64::from(logit) - sum).collect()
    };
    logits.chunks(logits.len() / LENGTH).map(normal).collect()
}

/// `sum w KL(p || q) / sum w + 0.3 sum w CE / sum w`, as the definition says it.
fn by_hand(parent: &Decoder<Flex>, hybrid: &Decoder<Flex>) -> f64 {
    let (mut divergence, mut weights, mut surprise, mut told) = (0.0, 0.0, 0.0, 0.0);
    for row in rows() {
        let (p, q) = (predicted(parent, &row), predicted(hybrid, &row));
        for at in 0..LENGTH {
            let weight = f64::from(row.weights[at]);
            divergence += weight * p[at].iter().zip(&q[at]).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            weights += weight;
            if at + 1 < LENGTH {
                surprise -= weight * q[at][row.tokens[at + 1] as usize];
                told += weight;
            }
        }
    }
    divergence / weights + TASK_WEIGHT * surprise / told
}

#[test]
fn the_mixers_learn_what_the_parent_answers_where_it_counts() {
    let device = Default::default();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/tiny-qwen3");
    let (config, parent) = load::<Flex>(&path, &device).expect("the parent");
    let mut hybrid = parent.clone();
    let found = calibrate(&parent, &[Batch::new(&rows(), &device)], &START, &device).expect("a calibration");
    let operator = MixerConfig::GatedDelta { convolution: 4, rotary: false };
    hybrid.layers[5].mixer = students(&operator, &config.attention, &parent, &found, &START).remove(5);
    let settings = Recovery { steps: 12, learning_rate: 1e-2, task_weight: TASK_WEIGHT, trained: Trained::Mixers };
    let mut losses = Vec::new();
    let healed =
        recover::<Autodiff<Flex>>(&parent, &hybrid, &settings, &mut |_| Ok(rows()), &device, &mut |_, loss| losses.push(f64::from(loss)))
            .expect("recovers");
    let (before, after) = (by_hand(&parent, &hybrid), by_hand(&parent, &healed));
    assert!((losses[0] - before).abs() < 1e-4 * before, "{} {before}", losses[0]);
    // The tokens are chance, and what is surprising in them stays so.
    assert!(after < 0.9 * before, "{before} {after}");

    let directory = tempfile::tempdir().expect("a directory");
    let bytes = |layer: &Block<Flex>| {
        let path = directory.path().join("layer.safetensors");
        save_module(layer, &path).expect("written");
        std::fs::read(path).expect("read")
    };
    assert!(bytes(&hybrid.layers[5]) != bytes(&healed.layers[5]), "the mixer put in has learnt");
    let mut rest = healed.layers;
    rest[5].mixer = hybrid.layers[5].mixer.clone();
    assert!((0..config.layers()).all(|layer| bytes(&rest[layer]) == bytes(&hybrid.layers[layer])), "and nothing else has");
}
