//! What each format refuses and why, and that an export is all of a model or nothing. That runtimes compute the same: `tests/export/`.

use std::path::{Path, PathBuf};

use burn_flex::Flex;
use dtr_models::export::{export, possible};
use dtr_models::{DecoderConfig, ExportError, Format, MixerConfig, checkpoint};
use serde_json::{Value, json};

const DELTA: MixerConfig = MixerConfig::GatedDelta { convolution: 4, rotary: false };
const MAMBA: MixerConfig = MixerConfig::Mamba2 { state: 16, convolution: 4 };
const SOFTMAX: MixerConfig = MixerConfig::Softmax { window: None };

fn config(family: &str, mixers: &[MixerConfig], change: impl FnOnce(&mut Value)) -> DecoderConfig {
    let mut json = json!({
        "model_type": family, "vocab_size": 11, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": mixers.len(),
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    });
    change(&mut json);
    let mut config = DecoderConfig::from_json(&json).expect("a configuration");
    config.mixers = mixers.to_vec();
    config
}

/// Formats that accept the model, by name.
fn accepted(config: &DecoderConfig) -> Vec<&'static str> {
    possible(config).into_iter().filter(|(_, possible)| possible.is_ok()).map(|(format, _)| format.name()).collect()
}

#[track_caller]
fn refused(config: &DecoderConfig, format: Format, parts: &[&str]) {
    let message = format.check(config).expect_err("a refusal").to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

#[test]
fn what_has_an_exact_form_is_accepted() {
    let none = |_: &mut Value| {};
    let both = [Format::Qwen35, Format::Qwen3Next].map(Format::name);
    for layout in [[DELTA, SOFTMAX], [SOFTMAX, DELTA]] {
        assert_eq!(accepted(&config("qwen3", &layout, none)), both);
        assert_eq!(accepted(&config("llama", &layout, none)), [Format::Fla.name()]);
    }
    assert_eq!(accepted(&config("qwen3", &[SOFTMAX, SOFTMAX], none)), ["parent", "qwen3-5", "qwen3-next"]);
    assert_eq!(accepted(&config("llama", &[SOFTMAX, SOFTMAX], none)), ["parent", "granite-hybrid", "fla"]);
    for family in ["llama", "mistral", "qwen2"] {
        assert_eq!(accepted(&config(family, &[SOFTMAX, MAMBA], none)), ["granite-hybrid"], "{family}");
    }
    for family in ["llama", "mistral", "qwen2", "qwen3"] {
        assert_eq!(accepted(&config(family, &[DELTA, DELTA], none)), ["fla"], "{family}");
    }
}

#[test]
fn what_would_be_lost_is_refused_by_name() {
    let none = |_: &mut Value| {};
    let rotary = MixerConfig::GatedDelta { convolution: 4, rotary: true };
    let sinks = MixerConfig::SlidingWindow { window: 64, sinks: 4 };
    let window = MixerConfig::Softmax { window: Some(64) };
    for format in [Format::Qwen35, Format::Qwen3Next] {
        let parts = ["layers 0, 2 are softmax", "normalises each query and key head", "llama does not"];
        refused(&config("llama", &[SOFTMAX, DELTA, SOFTMAX], none), format, &parts);
        refused(&config("qwen3", &[DELTA, sinks.clone()], none), format, &["layer 1 is sliding-window", "window 64", "sinks 4", "lost"]);
        refused(&config("qwen3", &[DELTA, DELTA], none), format, &["layout GG", "cannot generate"]);
        refused(&config("qwen3", &[window.clone(), DELTA], none), format, &["layer 0 is softmax (window 64)", "lost"]);
    }
    for format in [Format::Qwen35, Format::Qwen3Next, Format::Fla] {
        refused(&config("qwen3", &[DELTA, rotary.clone()], none), format, &["layer 1", "rotary true", "no positions", "lost"]);
        for other in [MixerConfig::Hedgehog {}, MixerConfig::LinearMap {}, MAMBA] {
            refused(&config("qwen3", &[DELTA, other.clone()], none), format, &["layer 1", other.name(), "gated delta rules"]);
        }
        refused(&config("llama", &[DELTA], |json| json["mlp_bias"] = true.into()), format, &["mlp_bias", "lost"]);
        let biases = |json: &mut Value| json["attention_bias"] = true.into();
        refused(&config("qwen3", &[DELTA, DELTA], biases), format, &["layers 0, 1", "output projection", "no bias", "lost"]);
    }
    refused(&config("qwen3", &[SOFTMAX, DELTA], none), Format::Fla, &["layer 0", "no norm of query and key heads", "qwen3"]);
    refused(
        &config("llama", &[SOFTMAX], |json| json["attention_bias"] = true.into()),
        Format::Fla,
        &["layer 0", "output projection", "lost"],
    );
    refused(&config("llama", &[SOFTMAX], |json| json["head_dim"] = 10.into()), Format::Fla, &["4 heads of width 10 in 32"]);
    let scaling = |json: &mut Value| json["rope_scaling"] = json!({ "type": "linear", "factor": 2.0 });
    refused(&config("llama", &[SOFTMAX], scaling), Format::Fla, &["scaling for long contexts would be lost"]);
    refused(&config("llama", &[window, SOFTMAX], none), Format::Fla, &["layer 1", "same window"]);
    refused(&config("llama", &[SOFTMAX, sinks], none), Format::Fla, &["layer 1", "no sinks"]);
    refused(&config("qwen3", &[SOFTMAX, DELTA], none), Format::Parent, &["layer 1 is gated-delta (convolution 4)", "qwen3"]);
}

#[test]
fn granite_has_room_for_mamba2_alone() {
    let none = |_: &mut Value| {};
    let format = Format::GraniteHybrid;
    refused(&config("qwen3", &[SOFTMAX, MAMBA], none), format, &["layer 0", "no norm of query and key heads", "qwen3"]);
    for other in [DELTA, MixerConfig::Hedgehog {}, MixerConfig::LinearMap {}] {
        refused(&config("llama", &[SOFTMAX, other.clone()], none), format, &["layer 1", other.name(), "Mamba-2"]);
    }
    for windowed in [MixerConfig::Softmax { window: Some(64) }, MixerConfig::SlidingWindow { window: 64, sinks: 0 }] {
        refused(&config("llama", &[SOFTMAX, windowed], none), format, &["layer 1", "window 64", "lost"]);
    }
    let larger = MixerConfig::Mamba2 { state: 32, convolution: 4 };
    refused(&config("llama", &[SOFTMAX, MAMBA, larger], none), format, &["layer 2", "state 32", "one size", "16"]);
    refused(&config("llama", &[SOFTMAX, MAMBA], |json| json["head_dim"] = 10.into()), format, &["layer 1", "4 heads of width 10 in 32"]);
    refused(&config("llama", &[SOFTMAX, MAMBA], |json| json["mlp_bias"] = true.into()), format, &["mlp_bias", "lost"]);
    refused(&config("llama", &[MAMBA, MAMBA], none), format, &["layout MM", "cannot generate"]);
}

fn llama() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/models/llama_biases")
}

#[test]
fn the_parents_own_format_is_the_parent() {
    let device = Default::default();
    let (root, parent) = (tempfile::tempdir().expect("a directory"), llama());
    let output = root.path().join("out");
    export::<Flex>(&parent, Format::Parent, &output, &device).expect("exported");
    let (config, model) = checkpoint::load::<Flex>(&parent, &device).expect("a model");
    let (again, loaded) = checkpoint::load::<Flex>(&output, &device).expect("a model");
    assert_eq!(config, again);
    assert!(checkpoint::tensors(&config, &model) == checkpoint::tensors(&again, &loaded), "other weights");
}

#[test]
fn an_export_is_whole_or_absent() {
    let device = Default::default();
    let root = tempfile::tempdir().expect("a directory");
    let full = root.path().join("full");
    std::fs::create_dir(&full).expect("a directory");
    std::fs::write(full.join("notes.txt"), "mine").expect("written");
    for occupied in [&full, &full.join("notes.txt")] {
        let error = export::<Flex>(&llama(), Format::Parent, occupied, &device).expect_err("occupied");
        assert!(matches!(error, ExportError::Occupied { .. }), "{error}");
    }
    assert_eq!(std::fs::read_dir(&full).expect("a directory").count(), 1);

    let output = root.path().join("refused");
    let error = export::<Flex>(&llama(), Format::Qwen35, &output, &device).expect_err("refused");
    assert!(error.to_string().contains("no exact form as qwen3-5: layers 0, 1 are softmax"), "{error}");
    assert!(!output.exists());

    // A tokenizer that cannot be read stops the export in the middle.
    let broken = root.path().join("broken");
    std::fs::create_dir_all(broken.join("tokenizer.json")).expect("a directory");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(llama().join(name), broken.join(name)).expect("copied");
    }
    export::<Flex>(&broken, Format::Parent, &output, &device).expect_err("unreadable");
    assert!(!output.exists());
}

#[test]
fn formats_are_known_by_name() {
    for format in Format::ALL {
        assert_eq!(format.name().parse::<Format>().expect("a format"), format);
    }
    let error = "gguf".parse::<Format>().expect_err("unknown").to_string();
    assert!(error.contains("\"gguf\"") && error.contains("parent, qwen3-5, qwen3-next, granite-hybrid, fla"), "{error}");
}
