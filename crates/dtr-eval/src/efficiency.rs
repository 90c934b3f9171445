//! Speed and memory of a model over context length.

use std::time::Instant;

use burn::prelude::*;
use dtr_attention::{MixerBackend, Positions};
use dtr_models::Decoder;
use dtr_models::generate::Session;
use rand::Rng;

use crate::random;

/// One measurement at one context length, batch 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Seconds to read the context; of an encoder, to encode a text of that length.
    pub prefill_seconds: f64,
    /// Seconds to generate the tokens after it; an encoder generates none.
    pub decode_seconds: Option<f64>,
    /// Bytes of keys, values and states at the end of the context; an encoder keeps none.
    pub cache_bytes: usize,
}

/// Reads `context` random tokens below `vocabulary`, then, unless the model is an encoder, generates `decode` more, greedily.
pub fn measure<B: MixerBackend>(model: &Decoder<B>, context: usize, decode: usize, vocabulary: usize, device: &B::Device) -> Sample {
    let mut random = random::stream("efficiency");
    let prompt: Vec<u32> = (0..context).map(|_| random.random_range(0..vocabulary as u32)).collect();
    if model.is_encoder() {
        let ids: Vec<i64> = prompt.iter().map(|&token| i64::from(token)).collect();
        let began = Instant::now();
        let ids = Tensor::from_data(TensorData::new(ids, [1, context]), device);
        let hidden = model.forward(ids, Positions::range(0, context), &mut model.empty_state(1));
        // Reading a number back waits for the device.
        let _: f32 = hidden.mean().into_scalar().elem();
        return Sample { prefill_seconds: began.elapsed().as_secs_f64(), decode_seconds: None, cache_bytes: 0 };
    }
    let began = Instant::now();
    let (mut session, logits) = Session::start(model, &[prompt], device);
    let mut token = likeliest(logits);
    let prefill_seconds = began.elapsed().as_secs_f64();
    let cache_bytes = session.cache_bytes();
    let began = Instant::now();
    for _ in 0..decode {
        token = likeliest(session.step(&[token]));
    }
    Sample { prefill_seconds, decode_seconds: Some(began.elapsed().as_secs_f64()), cache_bytes }
}

/// The order in which `models` are measured in one repetition. Every second repetition goes back the way the last one came, so that
/// over the two each model stands in the middle on average and a steady drift of the machine weighs on all alike; each pair begins with
/// another model.
pub fn order(models: usize, repetition: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..models).map(|place| (place + repetition / 2) % models).collect();
    if repetition % 2 == 1 {
        order.reverse();
    }
    order
}

/// Reading the token back also waits for the device.
fn likeliest<B: Backend>(logits: Tensor<B, 2>) -> u32 {
    logits.argmax(1).into_scalar().elem::<i64>() as u32
}

/// The middle value; of an even number of values, the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_drift_weighs_on_all_models_alike() {
        for models in 1..6 {
            for repetitions in [2, 4, 6] {
                let mut slowed = vec![0; models];
                let mut time = 0;
                for repetition in 0..repetitions {
                    for model in order(models, repetition) {
                        slowed[model] += time;
                        time += 1;
                    }
                }
                assert!(slowed.iter().all(|sum| *sum == slowed[0]), "{models} models, {repetitions} repetitions: {slowed:?}");
            }
        }
    }

    #[test]
    fn median_of_few() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-12);
        assert!((median(vec![4.0, 1.0]) - 2.5).abs() < 1e-12);
        assert!(median(vec![]).is_nan());
    }
}
