//! Speed and memory over context length, the models interleaved so that a drifting machine slows all of them alike.

use std::collections::BTreeSet;

use burn::module::Module;
use dtr_attention::MixerBackend;
use dtr_eval::efficiency::{Sample, measure, median, order};
use dtr_models::Decoder;
use dtr_search::Layout;
use serde::{Deserialize, Serialize};
use sysinfo::System;

use super::prepare::{Parent, letter, operators};
use super::{Found, Run};
use crate::error::Error;
use crate::events::{Efficiency, Event, Model};
use crate::schema::key;

/// Tokens of context that every model reads before it is measured, so that none pays for what only the first one needs.
const WARM: usize = 64;

/// What was measured of one layout at one context length.
#[derive(Clone, Serialize, Deserialize)]
struct Speed {
    prefill_seconds: Vec<f64>,
    /// For all tokens generated; none of an encoder.
    decode_seconds: Vec<f64>,
    cache_bytes: usize,
    /// Most bytes held at once beside the weights; `None` where the device has memory of its own.
    working_bytes: Option<usize>,
    weight_bytes: usize,
}

/// One layout on its way to longer contexts: what it took at those it was measured at.
#[derive(Default)]
struct Growth {
    /// Context lengths with bytes.
    seen: Vec<(usize, usize)>,
    too_long: bool,
}

impl Growth {
    /// Bytes that a longer context will take: they grow as they last did, or with the square of the length where there is no last.
    fn at(&self, context: usize) -> Option<usize> {
        let &(last, bytes) = self.seen.last()?;
        let log = |(context, bytes): (usize, usize)| ((context as f64).ln(), (bytes.max(1) as f64).ln());
        let power = match self.seen[..] {
            [.., before, last] => {
                let ((x0, y0), (x1, y1)) = (log(before), log(last));
                ((y1 - y0) / (x1 - x0)).clamp(1.0, 2.0)
            }
            _ => 2.0,
        };
        Some((bytes as f64 * (context as f64 / last as f64).powf(power)) as usize)
    }
}

impl Run<'_> {
    pub(super) fn measure<B: MixerBackend>(&mut self, parent: &Parent<B>, found: &[Found<B>], device: &B::Device) -> Result<(), Error> {
        let settings = self.experiment.efficiency();
        let Some(bank) = found.first().map(|found| &found.banks[0]) else { return Ok(()) };
        // What a layout costs does not depend on what its students learnt.
        let uniform = |operator| std::iter::repeat_n(letter(operator), parent.config.layers()).collect::<Layout>();
        let all: Vec<(Model, Layout)> = operators(self.experiment).iter().map(|operator| (Model::AllLinear, uniform(operator))).collect();
        let of = |found: &Found<B>| -> Vec<(Model, Layout)> {
            found.models().into_iter().map(|(model, (layout, _))| (model, layout)).chain(all.clone()).collect()
        };
        let layouts: BTreeSet<Layout> = found.iter().flat_map(of).map(|(_, layout)| layout).collect();
        let layouts: Vec<Layout> = layouts.into_iter().collect();
        let models: Vec<Decoder<B>> = layouts.iter().map(|layout| parent.hybrid(layout, bank).1).collect();
        let bar = self.progress.stage("measuring speed", (settings.contexts.len() * settings.repetitions * layouts.len()) as u64, "runs");
        let mut growth: Vec<Growth> = layouts.iter().map(|_| Growth::default()).collect();
        let vocabulary = parent.config.vocabulary;
        let mut warm = false;
        for &context in &settings.contexts {
            let available = available_bytes();
            for (growth, layout) in growth.iter_mut().zip(&layouts) {
                let needed = growth.at(context).filter(|needed| *needed > available);
                growth.too_long |= needed.is_some();
                if let Some(needed) = needed {
                    bar.warn(&format!("{layout} would take {:.1} GB at {context} tokens of context: not measured", needed as f64 / 1e9));
                }
            }
            let fitting: Vec<usize> = (0..layouts.len()).filter(|&at| !growth[at].too_long).collect();
            let names: Vec<&Layout> = fitting.iter().map(|&at| &layouts[at]).collect();
            let key = key(&("interleaved", &parent.identity, &bank.identity, settings, &names));
            let path = format!("efficiency/{context}.json");
            let speeds: Vec<Speed> = if let Some(speeds) = self.directory.load_unit(&path, &key)? {
                bar.inc((settings.repetitions * fitting.len()) as u64);
                speeds
            } else {
                if !warm {
                    for model in &models {
                        measure(model, WARM.min(context), 1, vocabulary, device);
                    }
                    warm = true;
                }
                let models: Vec<&Decoder<B>> = fitting.iter().map(|&at| &models[at]).collect();
                let speeds = self.speeds(&models, context, vocabulary, device, &mut || bar.inc(1));
                self.directory.save_unit(&path, &key, &speeds)?;
                speeds
            };
            for (&at, speed) in fitting.iter().zip(&speeds) {
                growth[at].seen.extend(speed.working_bytes.map(|bytes| (context, bytes)));
            }
            for found in found {
                for (model, layout) in of(found) {
                    let at = layouts.iter().position(|other| *other == layout).expect("every layout is measured");
                    let task = found.task.clone();
                    let event = if let Some(place) = fitting.iter().position(|&fitting| fitting == at) {
                        Event::Efficiency(row(task, model, &layout, context, settings.decode_tokens, &speeds[place]))
                    } else {
                        let needed_bytes = growth[at].at(context).unwrap_or(0);
                        Event::TooLong { task, model, layout: layout.to_string(), context, needed_bytes }
                    };
                    self.log.emit(event)?;
                }
            }
        }
        bar.finish();
        Ok(())
    }

    fn speeds<B: MixerBackend>(
        &self,
        models: &[&Decoder<B>],
        context: usize,
        vocabulary: usize,
        device: &B::Device,
        done: &mut dyn FnMut(),
    ) -> Vec<Speed> {
        let settings = self.experiment.efficiency();
        let memory = self.memory.filter(|_| self.experiment.compute().device.is_host());
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); models.len()];
        let mut working: Vec<Option<usize>> = vec![None; models.len()];
        for repetition in 0..settings.repetitions {
            for at in order(models.len(), repetition) {
                memory.inspect(|memory| (memory.reset)());
                samples[at].push(measure(models[at], context, settings.decode_tokens, vocabulary, device));
                working[at] = working[at].max(memory.map(|memory| (memory.peak)()));
                done();
            }
        }
        let speed = |((samples, working_bytes), model): ((Vec<Sample>, _), &&Decoder<B>)| Speed {
            cache_bytes: samples[0].cache_bytes,
            prefill_seconds: samples.iter().map(|sample| sample.prefill_seconds).collect(),
            decode_seconds: samples.iter().filter_map(|sample| sample.decode_seconds).collect(),
            working_bytes,
            weight_bytes: model.num_params() * std::mem::size_of::<f32>(),
        };
        samples.into_iter().zip(working).zip(models).map(speed).collect()
    }
}

fn row(task: String, model: Model, layout: &Layout, context: usize, decoded: usize, speed: &Speed) -> Efficiency {
    let rates = |tokens: usize, seconds: &[f64]| -> Vec<f64> { seconds.iter().map(|seconds| tokens as f64 / seconds).collect() };
    let (prefill, decode) = (rates(context, &speed.prefill_seconds), rates(decoded, &speed.decode_seconds));
    Efficiency {
        context,
        model,
        task,
        layout: layout.to_string(),
        prefill_tokens_per_second_range: range(&prefill),
        prefill_tokens_per_second: median(prefill),
        decode_tokens_per_second_range: range(&decode),
        decode_tokens_per_second: (!decode.is_empty()).then(|| median(decode)),
        first_token_seconds: Some(median(speed.prefill_seconds.clone())),
        first_token_seconds_range: range(&speed.prefill_seconds),
        peak_bytes: speed.working_bytes.map(|bytes| bytes + speed.weight_bytes),
        cache_bytes: speed.cache_bytes,
    }
}

fn range(values: &[f64]) -> Option<[f64; 2]> {
    let lowest = values.iter().copied().min_by(f64::total_cmp)?;
    Some([lowest, values.iter().copied().max_by(f64::total_cmp)?])
}

/// Memory that could be had now: of the machine, or of the group of processes that this one is held to.
fn available_bytes() -> usize {
    let mut system = System::new();
    system.refresh_memory();
    let machine = system.available_memory();
    system.cgroup_limits().map_or(machine, |limits| machine.min(limits.total_memory.saturating_sub(limits.rss))) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_grows_as_it_last_did() {
        let at = |seen: &[(usize, usize)], context| Growth { seen: seen.to_vec(), too_long: false }.at(context);
        assert_eq!(at(&[], 512), None);
        assert_eq!(at(&[(512, 1000)], 1024), Some(4000));
        assert_eq!(at(&[(512, 1000), (1024, 2000)], 4096), Some(8000));
        // What shrinks, or grows faster than any attention does, is noise.
        assert_eq!(at(&[(512, 1000), (1024, 900)], 2048), Some(1800));
        assert_eq!(at(&[(512, 10), (1024, 1000)], 2048), Some(4000));
    }
}
