//! `dtr inspect`: what a model is, from its configuration and the headers of its files; no weights are read.

use std::collections::BTreeMap;
use std::path::Path;

use dtr_attention::TrainBackend;
use dtr_experiment::Error;
use dtr_experiment::words::{bytes, count};
use dtr_models::checkpoint::{self, Stored};
use dtr_models::export::possible;
use dtr_models::mixer::Footprint;
use dtr_models::{DecoderConfig, Format, Refusal};
use serde_json::{Value, json};

use super::say;
use crate::backend::{Work, default_device, dispatch};

/// Layers with one mixer, and what each of them remembers.
struct Group {
    letter: char,
    mixer: String,
    layers: Vec<usize>,
    footprint: Footprint,
}

/// All that is told of a model.
struct Inspected {
    config: DecoderConfig,
    stored: Vec<Stored>,
    groups: Vec<Group>,
    formats: Vec<(Format, Result<(), Refusal>)>,
}

/// `dtr inspect`.
pub fn inspect(directory: &Path, json: bool) -> Result<(), Error> {
    struct InspectWork(DecoderConfig);
    impl Work for InspectWork {
        type Output = Vec<Group>;

        fn run<B: TrainBackend>(self, device: B::Device) -> Self::Output {
            groups::<B>(&self.0, &device)
        }
    }

    let (config, stored) = (checkpoint::load_config(directory)?, checkpoint::stored(directory)?);
    let groups = dispatch(default_device()?, InspectWork(config.clone()))?;
    let model = Inspected { formats: possible(&config), config, stored, groups };
    say(&if json { model.json().to_string() } else { model.text() });
    Ok(())
}

fn groups<B: TrainBackend>(config: &DecoderConfig, device: &B::Device) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (layer, mixer) in config.mixers.iter().enumerate() {
        let name = mixer.to_string();
        match groups.iter_mut().find(|group| group.mixer == name) {
            Some(group) => group.layers.push(layer),
            None => groups.push(Group {
                letter: mixer.letter(),
                mixer: name,
                layers: vec![layer],
                footprint: mixer.footprint::<B::InnerBackend>(config, device),
            }),
        }
    }
    groups
}

impl Inspected {
    fn parameters(&self) -> usize {
        self.stored.iter().map(|weight| weight.shape.iter().product::<usize>()).sum()
    }

    /// Parameters by type.
    fn types(&self) -> BTreeMap<String, usize> {
        let mut types = BTreeMap::new();
        for weight in &self.stored {
            *types.entry(weight.dtype.to_string()).or_default() += weight.shape.iter().product::<usize>();
        }
        types
    }

    /// Bytes of a sequence whatever its length, and for each token while no window is full.
    fn memory(&self) -> (usize, usize) {
        let sum = |part: fn(&Footprint) -> usize| self.groups.iter().map(|group| group.layers.len() * part(&group.footprint)).sum();
        (sum(|footprint| footprint.state), sum(|footprint| footprint.per_token))
    }

    fn text(&self) -> String {
        let DecoderConfig { model_type, attention, vocabulary, .. } = &self.config;
        let kinds = self.types().keys().cloned().collect::<Vec<_>>().join(", ");
        let (state, per_token) = self.memory();
        let mut lines = vec![
            format!("family      {model_type}"),
            format!(
                "shape       {} layers, width {}, {} query heads and {} key/value heads of {}, {vocabulary} tokens",
                self.config.layers(),
                attention.hidden,
                attention.heads,
                attention.kv_heads,
                attention.head_dim
            ),
            format!("parameters  {} ({kinds})", count(self.parameters() as f64)),
            format!("layout      {}", self.config.layout()),
        ];
        for Group { letter, mixer, layers, footprint } in &self.groups {
            let limit = footprint.most_tokens.map_or_else(String::new, |tokens| format!(" for at most {tokens} tokens"));
            let held = match (footprint.state, footprint.per_token) {
                (0, 0) => "nothing".to_owned(),
                (state, 0) => format!("{} a sequence", bytes(state as f64)),
                (0, token) => format!("{} a token{limit}", bytes(token as f64)),
                (state, token) => format!("{} a sequence and {} a token{limit}", bytes(state as f64), bytes(token as f64)),
            };
            lines.push(format!("  {letter} {mixer}: layers {}; each remembers {held}", ranges(layers)));
        }
        lines.push(format!("memory      {} a sequence and {} a token, in f32", bytes(state as f64), bytes(per_token as f64)));
        for (format, possible) in &self.formats {
            let told = possible.as_ref().map_or_else(ToString::to_string, |()| "yes".into());
            lines.push(format!("export      {:10}  {told}", format.name()));
        }
        lines.join("\n")
    }

    fn json(&self) -> Value {
        let (state, per_token) = self.memory();
        let group = |group: &Group| {
            json!({
                "letter": group.letter,
                "mixer": group.mixer,
                "layers": group.layers,
                "state_bytes": group.footprint.state,
                "bytes_per_token": group.footprint.per_token,
                "most_tokens": group.footprint.most_tokens,
            })
        };
        let format = |(format, possible): &(Format, Result<(), Refusal>)| {
            (format.name().to_owned(), json!({ "possible": possible.is_ok(), "reason": possible.as_ref().err().map(ToString::to_string) }))
        };
        json!({
            "family": self.config.model_type,
            "layers": self.config.layers(),
            "parameters": self.parameters(),
            "parameters_by_type": self.types(),
            "layout": self.config.layout(),
            "mixers": self.groups.iter().map(group).collect::<Vec<_>>(),
            "state_bytes_per_sequence": state,
            "cache_bytes_per_token": per_token,
            "export": self.formats.iter().map(format).collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// `0, 2-4, 7`.
fn ranges(layers: &[usize]) -> String {
    let runs = layers.chunk_by(|a, b| a + 1 == *b);
    let told = runs.map(|run| if run.len() == 1 { run[0].to_string() } else { format!("{}-{}", run[0], run[run.len() - 1]) });
    told.collect::<Vec<_>>().join(", ")
}
