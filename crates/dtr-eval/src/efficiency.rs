//! Speed and memory of a model over context length.

use std::time::Instant;

use burn::prelude::*;
use dtr_attention::MixerBackend;
use dtr_models::Decoder;
use dtr_models::generate::Session;
use rand::Rng;

use crate::random;

/// One measurement at one context length, batch 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Seconds to read the context.
    pub prefill_seconds: f64,
    /// Seconds to generate the tokens after it.
    pub decode_seconds: f64,
    /// Bytes of keys, values and states at the end of the context.
    pub cache_bytes: usize,
}

/// Reads `context` random tokens below `vocabulary`, then generates `decode` more, greedily.
pub fn measure<B: MixerBackend>(model: &Decoder<B>, context: usize, decode: usize, vocabulary: usize, device: &B::Device) -> Sample {
    let mut random = random::stream("efficiency");
    let prompt: Vec<u32> = (0..context).map(|_| random.random_range(0..vocabulary as u32)).collect();
    let began = Instant::now();
    let (mut session, logits) = Session::start(model, &[prompt], device);
    let mut token = likeliest(logits);
    let prefill_seconds = began.elapsed().as_secs_f64();
    let cache_bytes = session.cache_bytes();
    let began = Instant::now();
    for _ in 0..decode {
        token = likeliest(session.step(&[token]));
    }
    Sample { prefill_seconds, decode_seconds: began.elapsed().as_secs_f64(), cache_bytes }
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
