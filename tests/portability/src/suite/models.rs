//! Whole models: the bundled parent as its checkpoint says it, and what it and a hybrid of it write.

use std::path::Path;

use burn::module::Module;
use burn::prelude::*;
use dtr_attention::{Positions, TrainBackend};
use dtr_experiment::schema::Precision;
use dtr_models::generate::{Sampling, generate};
use dtr_models::layers::cast;
use dtr_models::{Decoder, MixerConfig, checkpoint};
use dtr_portability::outcome::Kind;

use super::operations::Fill;
use super::{Suite, values};

/// The bundled parent.
pub(super) fn parent() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/tiny-qwen3")
}

/// The parent, or with a gated-delta and a Hedgehog layer of arbitrary weights in it.
fn model<B: Backend>(hybrid: bool, dtype: Precision, device: &B::Device) -> Decoder<B> {
    let (config, mut model) = checkpoint::load::<B>(&parent(), device).expect("the bundled parent");
    if hybrid {
        for (layer, operator) in [(2, MixerConfig::GatedDelta { convolution: 4, rotary: false }), (5, MixerConfig::Hedgehog {})] {
            model.layers[layer].mixer = operator.init(&config.attention, device).map(&mut Fill(layer as u64 * 50));
        }
    }
    if dtype == Precision::F32 { model } else { cast(model, dtype.into()) }
}

/// Tokens in `rows` rows.
fn ids<B: Backend>(rows: usize, time: usize, device: &B::Device) -> Tensor<B, 2, Int> {
    let ids: Vec<i64> = (0..rows * time).map(|i| (i as i64 * 31 + 7) % 500).collect();
    Tensor::from_data(TensorData::new(ids, [rows, time]), device)
}

impl<B: TrainBackend> Suite<'_, B> {
    pub(super) fn models(&mut self) {
        for (name, hybrid) in [("parent", false), ("hybrid", true)] {
            self.value(&format!("{name}, logits"), |device, dtype| {
                values(model::<B::InnerBackend>(hybrid, dtype, device).logits(ids(2, 40, device)).narrow(1, 32, 8))
            });
            self.value(&format!("{name}, prefill and decode"), |device, dtype| {
                let (model, ids) = (model::<B::InnerBackend>(hybrid, dtype, device), ids::<B::InnerBackend>(2, 40, device));
                let mut states = model.empty_state(2);
                let mut at = 0;
                let mut read = |length| {
                    let hidden = model.forward(ids.clone().narrow(1, at, length), Positions::range(at, length), &mut states);
                    at += length;
                    hidden
                };
                let hidden = [32, 1, 1, 6].map(&mut read);
                values(model.head(Tensor::cat(hidden.to_vec(), 1).narrow(1, 32, 8)))
            });
            self.record(&format!("{name}, generation"), [Kind::Decision], |device, dtype| {
                let prompts: Vec<Vec<u32>> = [40, 17, 3].iter().map(|&length| (0..length).map(|i| (i * 31 + 7) % 500).collect()).collect();
                let texts = generate(&model::<B::InnerBackend>(hybrid, dtype, device), &prompts, 16, Sampling::GREEDY, &[], device, |_| {});
                [texts.into_iter().map(|text| text.into_iter().map(f64::from).collect()).collect()]
            });
        }
        self.value("first block", |device, dtype| {
            let model = model::<B::InnerBackend>(false, dtype, device);
            let context = model.context(Positions::range(0, 40));
            let x = model.embed(ids(2, 40, device), &context.positions);
            values(model.layers[0].forward(x, &context, model.layers[0].mixer.empty_state(2)).0)
        });
        self.record("weights in and out", [Kind::Decision], |device, dtype| {
            let model = model::<B::InnerBackend>(false, dtype, device);
            [vec![values(model.embed(ids(1, 400, device), &Positions::range(0, 400)))]]
        });
    }
}
