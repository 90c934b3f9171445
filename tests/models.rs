//! Logits against transformers for every family, and what is refused. The files are made by `golden/make_models.py`.

use std::path::Path;

use burn::prelude::*;
use dtr_attention::Positions;
use dtr_models::config::Head;
use dtr_models::generate::{Sampling, Session, generate};
use dtr_models::{Decoder, DecoderConfig, MixerConfig, checkpoint};
use dtr_tests::{Golden, Inner, close, difference, golden, ids, numbers};

fn positions(mask: &[Vec<i64>]) -> Positions {
    let mask: Vec<Vec<bool>> = mask.iter().map(|row| row.iter().map(|&token| token == 1).collect()).collect();
    Positions::padded(&mask, &vec![0; mask.len()])
}

/// Hidden states of padded rows.
fn hidden(model: &Decoder<Inner>, rows: &[Vec<i64>], mask: &[Vec<i64>]) -> Tensor<Inner, 3> {
    model.forward(ids(rows), positions(mask), &mut model.empty_state(rows.len()))
}

/// Logits of padded rows; of an encoder without a head, its hidden states.
fn padded_logits(config: &DecoderConfig, model: &Decoder<Inner>, rows: &[Vec<i64>], mask: &[Vec<i64>]) -> Tensor<Inner, 3> {
    let hidden = hidden(model, rows, mask);
    if config.head == Head::Pooled { hidden } else { model.head(hidden) }
}

fn check(case: &str) {
    let device = Default::default();
    let (config, model) =
        checkpoint::load::<Inner>(&golden(&format!("models/{case}")), &device).unwrap_or_else(|error| panic!("{case}: {error}"));
    let file = Golden::open(&format!("models/{case}/expected.safetensors"));
    let agrees = |what: &str, found: &Tensor<Inner, 3>, wanted: &Tensor<Inner, 3>| {
        let found = difference(found, wanted);
        assert!(found <= 1e-4, "{case}, {what}: logits differ by {found:e}");
    };
    let rows = file.rows("ids");
    let mask = vec![vec![1; rows[0].len()]; rows.len()];
    agrees("logits", &padded_logits(&config, &model, &rows, &mask), &file.float("logits"));
    for side in ["left", "right"] {
        let rows = file.rows(&format!("padded_{side}_ids"));
        let mask = file.rows(&format!("padded_{side}_mask"));
        let tokens = ids::<Inner>(&mask).float().unsqueeze_dim::<3>(2);
        let found = padded_logits(&config, &model, &rows, &mask) * tokens;
        agrees(&format!("padded {side}"), &found, &file.float(&format!("padded_{side}_logits")));
    }
    let (rows, mask) = (file.rows("padded_right_ids"), file.rows("padded_right_mask"));
    let pooled = config.pooler.is_some().then(|| model.pooled(hidden(&model, &rows, &mask), positions(&mask).tokens(&device)));
    assert_eq!(pooled.is_some(), file.rank("pooled").is_some(), "{case}: a pooler");
    if let Some(pooled) = pooled {
        let found = difference(&pooled.expect("a pooler"), &file.float::<Inner, 2>("pooled"));
        assert!(found <= 1e-4, "{case}: what the pooler makes of texts differs by {found:e}");
    }
}

#[test]
fn llama_agrees_with_transformers() {
    for case in ["gqa", "rope_llama3", "rope_linear", "rope_yarn", "head_dim_10", "biases", "tied", "shards", "bf16"] {
        check(&format!("llama_{case}"));
    }
}

#[test]
fn mistral_agrees_with_transformers() {
    for case in ["window", "full"] {
        check(&format!("mistral_{case}"));
    }
}

#[test]
fn qwen2_agrees_with_transformers() {
    for case in ["tied", "head_dim_14", "window_above"] {
        check(&format!("qwen2_{case}"));
    }
}

#[test]
fn qwen3_agrees_with_transformers() {
    for case in ["gqa_3", "mha", "biases"] {
        check(&format!("qwen3_{case}"));
    }
}

/// Every family with every rotary embedding and drawn settings: read at once, and prefill then decode.
#[test]
fn the_grid_agrees_with_transformers() {
    let mut cases: Vec<_> = std::fs::read_dir(golden("models/grid")).expect("a grid").map(|case| case.expect("a case").path()).collect();
    cases.sort();
    assert_eq!(cases.len(), 4 * 9);
    let device = Default::default();
    for directory in cases {
        let case = directory.file_name().expect("a name").to_string_lossy().into_owned();
        let (_, model) = checkpoint::load::<Inner>(&directory, &device).unwrap_or_else(|error| panic!("{case}: {error}"));
        let file = Golden::open(&format!("models/grid/{case}/expected.safetensors"));
        let near = |what: &str, found: f32| assert!(found <= 1e-4, "{case}, {what}: logits differ by {found:e}");
        let rows = file.rows("ids");
        near("logits", difference(&model.logits(ids(&rows)), &file.float("logits")));
        let tokens: Vec<Vec<u32>> = rows.iter().map(|row| row.iter().map(|&token| token as u32).collect()).collect();
        let prompt = file.rows("prompt")[0][0] as usize;
        let prompts: Vec<Vec<u32>> = tokens.iter().map(|row| row[..prompt].to_vec()).collect();
        let (mut session, _) = Session::start(&model, &prompts, &device);
        let decoded = (prompt..tokens[0].len()).map(|column| session.step(&tokens.iter().map(|row| row[column]).collect::<Vec<_>>()));
        near("decoded", difference(&Tensor::<Inner, 2>::stack::<3>(decoded.collect(), 1), &file.float("decoded")));
        // A row beside a shorter one is what it is alone, also where the frequencies depend on its length.
        let (_, beside) = Session::start(&model, &[tokens[0].clone(), tokens[1][..5].to_vec()], &device);
        let last = file.float::<Inner, 3>("logits").slice([0..1, tokens[0].len() - 1..tokens[0].len()]).squeeze_dim::<2>(1);
        near("beside a shorter row", difference(&beside.narrow(0, 0, 1), &last));
    }
}

#[test]
fn gpt2_agrees_with_transformers() {
    for case in ["tied", "inner"] {
        check(&format!("gpt2_{case}"));
    }
}

#[test]
fn gpt2_generates_as_transformers_does() {
    let device = Default::default();
    for case in ["gpt2_tied", "gpt2_inner"] {
        let (_, model) = checkpoint::load::<Inner>(&golden(&format!("models/{case}")), &device).expect("a model");
        let file = Golden::open(&format!("models/{case}/expected.safetensors"));
        let prompt = |row: &Vec<i64>| row[..10].iter().map(|&token| token as u32).collect::<Vec<u32>>();
        let prompts: Vec<Vec<u32>> = file.rows("ids").iter().map(prompt).collect();
        let found = generate(&model, &prompts, 20, Sampling::GREEDY, &[], &device, |_| ());
        let found: Vec<Vec<i64>> = found.iter().map(|row| row.iter().map(|&token| i64::from(token)).collect()).collect();
        assert_eq!(found, file.rows("greedy"), "{case}");
    }
}

#[test]
fn hybrids_of_gpt2_and_bert_are_saved_and_read() {
    struct Fill(u64);
    impl burn::module::ModuleMapper<Inner> for Fill {
        fn map_float<const D: usize>(&mut self, param: burn::module::Param<Tensor<Inner, D>>) -> burn::module::Param<Tensor<Inner, D>> {
            self.0 += 1;
            burn::module::Param::from_tensor(numbers::<Inner, D>(param.lazy_shape().dims(), self.0).mul_scalar(0.3))
        }
    }
    let device = Default::default();
    let operators = [MixerConfig::Hedgehog {}, MixerConfig::GatedDelta { convolution: 4, rotary: false }];
    let cases = [
        ("gpt2_tied", 0),
        ("gpt2_inner", 1),
        ("bert", 0),
        ("roberta", 1),
        ("distilbert", 1),
        ("bert_classes", 1),
        ("distilbert_classes", 0),
    ];
    for (case, first) in cases {
        let parent = golden(&format!("models/{case}"));
        let (mut config, mut model) = checkpoint::load::<Inner>(&parent, &device).expect("a model");
        let operator = &operators[first];
        config.mixers[first] = operator.clone();
        model.layers[first].mixer = operator.init::<Inner>(&config.attention, &device).map(&mut Fill(7));
        let directory = tempfile::tempdir().expect("a directory");
        checkpoint::save(directory.path(), &config, &model, &parent).expect("saved");
        let (again, loaded) = checkpoint::load::<Inner>(directory.path(), &device).expect("a model");
        assert_eq!(config, again, "{case}");
        let rows = Golden::open(&format!("models/{case}/expected.safetensors")).rows("ids");
        let mask = vec![vec![1; rows[0].len()]; rows.len()];
        let [before, after] = [&model, &loaded].map(|model| padded_logits(&config, model, &rows, &mask));
        assert!(difference(&before, &after).abs() < f32::EPSILON, "{case}");
        if model.is_encoder() {
            continue;
        }
        // Token by token as at once.
        let prompts: Vec<Vec<u32>> = rows.iter().map(|row| row.iter().map(|&token| token as u32).collect()).collect();
        let (mut session, mut logits) = Session::start(&model, &prompts.iter().map(|row| row[..1].to_vec()).collect::<Vec<_>>(), &device);
        for at in 1..rows[0].len() {
            let wanted = before.clone().narrow(1, at - 1, 1).squeeze_dim::<2>(1);
            close(&format!("{case}, token {at}"), &logits, &wanted, 1e-5);
            logits = session.step(&prompts.iter().map(|row| row[at]).collect::<Vec<_>>());
        }
    }
}

#[test]
fn encoders_agree_with_transformers() {
    for case in ["bert", "bert_tanh", "roberta", "xlm_roberta", "distilbert"] {
        check(case);
    }
}

#[test]
fn heads_for_classes_agree_with_transformers() {
    let names = |count: usize| (0..count).map(|class| format!("LABEL_{class}")).collect::<Vec<_>>();
    let own = ["sad", "glad", "neither"].map(str::to_owned).to_vec();
    for (family, classes) in [("bert", own), ("roberta", names(2)), ("xlm_roberta", names(4)), ("distilbert", names(5))] {
        let directory = format!("models/{family}_classes");
        let (config, model) = checkpoint::load::<Inner>(&golden(&directory), &Default::default()).expect("a model");
        assert_eq!(config.classes, classes, "{family}");
        let file = Golden::open(&format!("{directory}/expected.safetensors"));
        let (rows, mask) = (file.rows("ids"), file.rows("mask"));
        let found = difference(&model.classify(ids(&rows), positions(&mask)), &file.float("logits"));
        assert!(found <= 1e-4, "{family}: logits differ by {found:e}");
        // With the padding on the left a text begins where its first token is.
        let turned = |rows: &[Vec<i64>]| -> Vec<Vec<i64>> {
            let lengths = mask.iter().map(|row| row.iter().sum::<i64>() as usize);
            rows.iter().zip(lengths).map(|(row, length)| [&row[length..], &row[..length]].concat()).collect()
        };
        let found = difference(&model.classify(ids(&turned(&rows)), positions(&turned(&mask))), &file.float("logits"));
        assert!(found <= 1e-4, "{family}, padded left: logits differ by {found:e}");
    }
}

#[test]
fn a_parent_is_written_in_its_own_format_bit_for_bit() {
    let device = Default::default();
    let encoders = ["bert", "roberta", "distilbert", "bert_classes", "roberta_classes", "xlm_roberta_classes", "distilbert_classes"];
    for case in ["llama_tied", "qwen3_biases", "gpt2_tied", "gpt2_inner"].into_iter().chain(encoders) {
        let parent = golden(&format!("models/{case}"));
        let (config, model) = checkpoint::load::<Inner>(&parent, &device).expect("a model");
        let directory = tempfile::tempdir().expect("a directory");
        checkpoint::save(directory.path(), &config, &model, &parent).expect("saved");
        let tensors = |directory: &Path| {
            let bytes = std::fs::read(directory.join("model.safetensors")).expect("weights");
            let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
            let tensor =
                |(name, view): (String, safetensors::tensor::TensorView<'_>)| (name, (view.shape().to_vec(), view.data().to_vec()));
            file.tensors().into_iter().map(tensor).collect::<std::collections::BTreeMap<_, _>>()
        };
        let (before, after) = (tensors(&parent), tensors(directory.path()));
        assert!(before.keys().eq(after.keys()), "{case}: {:?}, written {:?}", before.keys(), after.keys());
        assert!(before == after, "{case}: other weights");
    }
}

#[test]
fn a_saved_model_is_the_model() {
    let device = Default::default();
    for case in ["llama_biases", "llama_tied", "qwen3_gqa_3", "mistral_window", "gpt2_inner"] {
        let parent = golden(&format!("models/{case}"));
        let (config, model) = checkpoint::load::<Inner>(&parent, &device).expect("a model");
        let directory = tempfile::tempdir().expect("a directory");
        checkpoint::save(directory.path(), &config, &model, &parent).expect("saved");
        let (again, loaded) = checkpoint::load::<Inner>(directory.path(), &device).expect("a model");
        assert_eq!(config, again);
        let rows = Golden::open(&format!("models/{case}/expected.safetensors")).rows("ids");
        assert!(difference(&model.logits(ids(&rows)), &loaded.logits(ids(&rows))).abs() < f32::EPSILON);
    }
}

/// Loads a copy of a good checkpoint after `spoil`, and looks for `parts` in the error.
fn refused(spoil: impl FnOnce(&Path), parts: &[&str]) {
    refused_of("llama_gqa", spoil, parts);
}

fn refused_of(case: &str, spoil: impl FnOnce(&Path), parts: &[&str]) {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden(&format!("models/{case}")).join(name), directory.path().join(name)).expect("copied");
    }
    spoil(directory.path());
    let Err(error) = checkpoint::load::<Inner>(directory.path(), &Default::default()) else { panic!("accepted, expected {parts:?}") };
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
}

/// Replaces text in `config.json`.
fn config(directory: &Path, key: &str, value: &serde_json::Value) {
    let path = directory.join("config.json");
    let mut json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).expect("text")).expect("JSON");
    json[key] = value.clone();
    std::fs::write(path, json.to_string()).expect("written");
}

/// Rewrites the weights.
fn weights(directory: &Path, change: impl FnOnce(&mut Vec<(String, Vec<usize>, Vec<u8>)>)) {
    use safetensors::{Dtype, SafeTensors, tensor::TensorView};
    let path = directory.join("model.safetensors");
    let bytes = std::fs::read(&path).expect("bytes");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut tensors: Vec<_> = file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec(), view.data().to_vec())).collect();
    change(&mut tensors);
    let views =
        tensors.iter().map(|(name, shape, bytes)| (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a tensor")));
    std::fs::write(path, safetensors::serialize(views, None).expect("serialised")).expect("written");
}

#[test]
fn checkpoints_that_do_not_fit_are_refused() {
    use serde_json::json;
    refused(|at| config(at, "model_type", &json!("mamba")), &["config.json", "\"mamba\"", "llama, mistral, qwen2, qwen3"]);
    refused(|at| config(at, "hidden_act", &json!("gelu")), &["hidden_act", "gelu", "silu"]);
    refused(
        |at| config(at, "rope_parameters", &json!({"rope_type": "longrope", "rope_theta": 1e4})),
        &["rope_type", "longrope", "default, linear, dynamic, yarn, llama3"],
    );
    refused(|at| config(at, "num_hidden_layers", &json!(3)), &["does not match", "missing", "model.layers.2."]);
    refused(|at| config(at, "num_hidden_layers", &json!(1)), &["0 missing", "unexpected", "model.layers.1."]);
    refused(|at| config(at, "num_hidden_layers", &json!("two")), &["num_hidden_layers", "positive whole number"]);
    refused(|at| config(at, "intermediate_size", &json!(41)), &["gate_proj.weight", "[40, 32]", "expected [41, 32]"]);
    refused(
        |at| weights(at, |tensors| tensors.retain(|tensor| !tensor.0.contains("layers.1.mlp.up"))),
        &["1 missing", "model.layers.1.mlp.up_proj.weight"],
    );
    refused(|at| weights(at, |tensors| tensors.push(("spare".into(), vec![1], vec![0; 4]))), &["1 unexpected", "spare"]);
    let cut = |at: &Path| {
        let path = at.join("model.safetensors");
        let bytes = std::fs::read(&path).expect("bytes");
        std::fs::write(path, &bytes[..bytes.len() - 100]).expect("written");
    };
    refused(cut, &["damaged or cut off", "model.safetensors"]);
    refused(|at| std::fs::write(at.join("config.json"), "{").expect("written"), &["config is not valid"]);
    refused(|at| std::fs::remove_file(at.join("model.safetensors")).expect("removed"), &["could not read", "model.safetensors"]);
    refused(
        |at| config(at, "rope_parameters", &json!({"full_attention": {"rope_type": "default"}})),
        &["rope_parameters.full_attention", "one set of parameters for all layers"],
    );
    refused(|at| config(at, "rope_parameters", &json!({"rope_type": "yarn", "rope_theta": 1e4})), &["\"factor\" is missing"]);
    refused(|at| config(at, "rope_parameters", &json!({"rope_theta": "large"})), &["rope_theta", "large", "a number above 0"]);
    let yarn = json!({"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 8});
    refused(
        |at| {
            config(at, "rope_parameters", &yarn);
            config(at, "original_max_position_embeddings", &json!(16));
        },
        &["original_max_position_embeddings is 16, and 8 in rope_parameters"],
    );
}

#[test]
fn encoders_with_other_heads_or_classes_are_refused() {
    use serde_json::json;
    let check = |case, key: &'static str, value: serde_json::Value, parts: &[&str]| refused_of(case, |at| config(at, key, &value), parts);
    let architectures = ["architectures", "BertForMaskedLM", "BertModel, BertForSequenceClassification"];
    check("bert_classes", "architectures", json!(["BertForMaskedLM"]), &architectures);
    check("bert_classes", "architectures", json!(["BertModel"]), &["2 unexpected", "classifier.bias, classifier.weight"]);
    check("bert", "architectures", json!(["BertForSequenceClassification"]), &["missing", "bert.embeddings", "unexpected"]);
    check("bert_classes", "problem_type", json!("regression"), &["problem_type", "regression", "single_label_classification"]);
    check("bert_classes", "id2label", json!({"0": "sad", "2": "glad"}), &["id2label", "counted from \"0\" on"]);
    check("bert_classes", "id2label", json!({"0": "sad"}), &["classifier.", "[3", "expected [1"]);
    check("roberta_classes", "num_labels", json!(3), &["classifier.out_proj.", "[2", "expected [3"]);
    check("roberta_classes", "num_labels", json!(4_000_000_000_u32), &["num_labels", "4000000000", "at most 1048576"]);
    check("distilbert", "activation", json!("relu"), &["activation", "relu", "gelu, gelu_new"]);
}

#[test]
fn a_tokenizer_with_more_tokens_than_the_embedding_is_refused() {
    let Err(error) = dtr_models::Tokenizer::load(&dtr_tests::tiny_qwen3(), 2000) else { panic!("accepted") };
    for part in ["2048 tokens", "at most 2000"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}
