//! Speed and memory over context length, the models interleaved so that a drifting machine slows all of them alike.

use std::collections::BTreeSet;

use dtr_attention::MixerBackend;
use dtr_eval::efficiency::{Sample, measure, median};
use dtr_search::Layout;
use serde::{Deserialize, Serialize};

use super::prepare::{Bank, Parent};
use super::{Found, Run};
use crate::error::Error;
use crate::events::Event;
use crate::schema::key;

/// Medians at one context length.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Speed {
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    cache_bytes: usize,
}

impl Run<'_> {
    pub(super) fn measure<B: MixerBackend>(&mut self, parent: &Parent<B>, found: &[Found<B>], device: &B::Device) -> Result<(), Error> {
        let settings = self.experiment.efficiency();
        // What a layout costs does not depend on what its students learnt.
        let layouts: BTreeSet<Layout> = found.iter().flat_map(Found::models).map(|(_, (layout, _))| layout).collect();
        let layouts: Vec<Layout> = layouts.into_iter().collect();
        let Some(bank) = found.first().map(|found| &found.banks[0]) else { return Ok(()) };
        let bar = self.progress.stage("measuring speed", (settings.contexts.len() * settings.repetitions * layouts.len()) as u64, "runs");
        let key = key(&(&parent.identity, &bank.identity, settings, &layouts));
        for &context in &settings.contexts {
            let path = format!("efficiency/{context}.json");
            let speeds: Vec<Speed> = if let Some(speeds) = self.directory.load_unit(&path, &key)? {
                speeds
            } else {
                let speeds = self.speeds(parent, bank, &layouts, context, device, &mut || bar.inc(1));
                self.directory.save_unit(&path, &key, &speeds)?;
                speeds
            };
            for found in found {
                for (model, (layout, _)) in found.models() {
                    let at = layouts.iter().position(|other| *other == layout).expect("every layout is measured");
                    let Speed { prefill_tokens_per_second, decode_tokens_per_second, cache_bytes } = speeds[at];
                    let task = found.task.clone();
                    self.log.emit(Event::Efficiency {
                        task,
                        model,
                        context,
                        prefill_tokens_per_second,
                        decode_tokens_per_second,
                        cache_bytes,
                    })?;
                }
            }
        }
        bar.finish();
        Ok(())
    }

    fn speeds<B: MixerBackend>(
        &self,
        parent: &Parent<B>,
        bank: &Bank<B>,
        layouts: &[Layout],
        context: usize,
        device: &B::Device,
        done: &mut dyn FnMut(),
    ) -> Vec<Speed> {
        let settings = self.experiment.efficiency();
        let models: Vec<_> = layouts.iter().map(|layout| parent.hybrid(layout, bank).1).collect();
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); models.len()];
        for _ in 0..settings.repetitions {
            for (model, samples) in models.iter().zip(&mut samples) {
                samples.push(measure(model, context, settings.decode_tokens, parent.config.vocabulary, device));
                done();
            }
        }
        let rate = |samples: &[Sample], tokens: usize, seconds: fn(&Sample) -> f64| {
            median(samples.iter().map(|sample| tokens as f64 / seconds(sample)).collect())
        };
        let speed = |samples: Vec<Sample>| Speed {
            prefill_tokens_per_second: rate(&samples, context, |sample| sample.prefill_seconds),
            decode_tokens_per_second: rate(&samples, settings.decode_tokens, |sample| sample.decode_seconds),
            cache_bytes: samples[0].cache_bytes,
        };
        samples.into_iter().map(speed).collect()
    }
}
