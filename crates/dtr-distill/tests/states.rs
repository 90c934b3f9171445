//! Hidden states: padding changes no loss, states from disk are those of the parent, heads are measured as by hand.

use std::path::{Path, PathBuf};

use burn::prelude::*;
use burn_flex::Flex;
use dtr_distill::loss::{cosine, normalised_mse};
use dtr_distill::observe::{Seen, attention, observe, received, weights};
use dtr_distill::{Batch, DistillError, Row, StateCache};
use dtr_models::checkpoint::load;
use dtr_models::{Decoder, DecoderConfig, Mixer, MixerConfig};

fn parent() -> (DecoderConfig, Decoder<Flex>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/tiny-qwen3");
    load::<Flex>(&path, &Default::default()).expect("the parent")
}

fn row(length: usize, seed: usize) -> Row {
    Row::plain((0..length).map(|t| ((seed * 7919 + t * 31) % 500) as u32).collect())
}

fn batch(rows: &[Row]) -> Batch<Flex> {
    Batch::new(rows, &Default::default())
}

fn number(x: Tensor<Flex, 1>) -> f32 {
    x.into_scalar()
}

/// All layers of a batch, from disk or not.
fn all(parent: &Decoder<Flex>, rows: &[Row], cache: Option<&StateCache>) -> Vec<(Vec<f32>, Vec<f32>)> {
    let mut found = Vec::new();
    let show = |layer: usize, seen: Seen<Flex>| {
        assert_eq!(layer, found.len(), "every layer once, in order");
        let numbers = |x: Tensor<Flex, 3>| x.into_data().to_vec::<f32>().expect("numbers");
        found.push((numbers(seen.input), numbers(seen.output)));
    };
    match cache {
        Some(cache) => cache.observe(parent, &batch(rows), show),
        None => observe(parent, parent, &batch(rows), show),
    }
    found
}

#[test]
fn padding_changes_no_loss() {
    let (config, parent) = parent();
    let (long, short) = (row(24, 1), row(9, 2));
    for operator in [
        MixerConfig::GatedDelta { convolution: 4, rotary: true },
        MixerConfig::Mamba2 { state: 16, convolution: 4 },
        MixerConfig::Hedgehog {},
    ] {
        let Mixer::Softmax(attention) = &parent.layers[0].mixer else { panic!("full attention") };
        let mut student = operator.init::<Flex>(&config.attention, &Default::default());
        student.output_mut().weight = attention.projections.o_proj.weight.clone();
        let losses = |rows: &[Row]| {
            let mut found = Vec::new();
            observe(&parent, &parent, &batch(rows), |_, seen| {
                let output = student.mix(seen.input, &seen.context);
                let power = match &seen.weights {
                    Some(weights) => (seen.output.clone().square() * weights.clone().unsqueeze_dim(2)).sum(),
                    None => seen.output.clone().square().sum(),
                };
                let pair = [
                    number(normalised_mse(output.clone(), seen.output.clone(), seen.weights.clone())),
                    number(cosine(output, seen.output, seen.weights)),
                ];
                found.push((pair, number(power)));
            });
            found
        };
        let (together, first, second) =
            (losses(&[long.clone(), short.clone()]), losses(std::slice::from_ref(&long)), losses(std::slice::from_ref(&short)));
        for ((padded, first), second) in together.iter().zip(&first).zip(&second) {
            let mse = (first.0[0] * first.1 + second.0[0] * second.1) / (first.1 + second.1);
            let cosine = (first.0[1] * 24.0 + second.0[1] * 9.0) / 33.0;
            assert!((padded.0[0] - mse).abs() < 1e-4 && (padded.0[1] - cosine).abs() < 1e-4, "{operator:?}: {padded:?} {mse} {cosine}");
        }
    }
}

fn stored(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "states")).collect()
}

#[test]
fn states_from_disk_are_those_of_the_parent_damaged_or_not() {
    let (_, parent) = parent();
    let directory = tempfile::tempdir().expect("a directory");
    let open = |limit| StateCache::open(directory.path().join("states"), "p", limit).expect("a cache");
    let rows = [row(20, 1), row(12, 2)];
    let expected = all(&parent, &rows, None);
    let cache = open(1 << 30);
    assert_eq!(all(&parent, &rows, Some(&cache)), expected, "while it is written");
    assert_eq!(all(&parent, &rows, Some(&cache)), expected, "from disk");
    let file = stored(&directory.path().join("states")).pop().expect("one batch");
    // Bytes of two layers changed, then the end cut off.
    let mut bytes = std::fs::read(&file).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).expect("written");
    assert_eq!(all(&parent, &rows, Some(&open(1 << 30))), expected, "what is damaged is computed again");
    assert_eq!(all(&parent, &rows, Some(&open(1 << 30))), expected);
    std::fs::write(&file, &bytes[..middle]).expect("written");
    assert_eq!(all(&parent, &rows, Some(&open(1 << 30))), expected, "what is cut off, too");

    let other = StateCache::open(directory.path().join("states"), "q", 1 << 30).expect_err("another parent's");
    assert!(matches!(other, DistillError::OtherCache { .. }) && other.to_string().contains("parent p"), "{other}");
}

#[test]
fn states_take_no_more_room_than_there_is() {
    let (_, parent) = parent();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("states");
    // Two batches of 8 layers, 20 tokens, 128 numbers of input and output.
    let cache = StateCache::open(path.clone(), "p", 2 * (8 * (4 + 20 * 128 * 8)) + 100).expect("a cache");
    for seed in 0..4 {
        let rows = [row(20, seed)];
        assert_eq!(all(&parent, &rows, Some(&cache)), all(&parent, &rows, None));
    }
    assert_eq!(stored(&path).len(), 2);
    assert_eq!(cache.complaint(), None, "a limit is no failure");
    std::fs::remove_dir_all(&path).expect("removed");
    let rows = [row(20, 9)];
    let cache = StateCache::open(path.clone(), "p", 1 << 30).expect("a cache");
    std::fs::remove_dir_all(&path).expect("removed");
    assert_eq!(all(&parent, &rows, Some(&cache)), all(&parent, &rows, None), "where nothing can be written, work goes on");
    let complaint = cache.complaint().expect("one complaint");
    assert!(complaint.contains("no longer kept") && cache.complaint().is_none(), "{complaint}");
}

#[test]
fn a_disk_that_is_full_gets_back_what_states_took() {
    let (_, parent) = parent();
    let directory = tempfile::tempdir().expect("a directory");
    let open = |name: &str| StateCache::open(directory.path().join(name), "p", 1 << 30).expect("a cache");
    let (fits, does_not) = ([row(20, 1)], [row(20, 2)]);
    all(&parent, &does_not, Some(&open("elsewhere")));
    let name = stored(&directory.path().join("elsewhere")).pop().expect("one batch");
    let cache = open("states");
    all(&parent, &fits, Some(&cache));
    let place = directory.path().join("states");
    assert_eq!(stored(&place).len(), 1);
    // Where its file would be written there is something else: no different from a disk without room.
    std::fs::create_dir(place.join(name.file_name().expect("a name")).with_extension("half")).expect("made");
    for rows in [&does_not, &fits] {
        assert_eq!(all(&parent, rows, Some(&cache)), all(&parent, rows, None), "work goes on");
        assert!(stored(&place).is_empty());
    }
    assert!(cache.complaint().is_some_and(|complaint| complaint.contains("are removed")));
}

#[test]
fn heads_that_look_at_all_alike_are_measured_so() {
    let (_, parent) = parent();
    let Mixer::Softmax(mut even) = parent.layers[0].mixer.clone() else { panic!("full attention") };
    even.projections.q_proj.weight = burn::module::Param::from_tensor(even.projections.q_proj.weight.val().zeros_like());
    let rows = [row(9, 1)];
    let mut checked = false;
    observe(&parent, &parent, &batch(&rows), |layer, seen| {
        if layer == 0 {
            let even = Mixer::Softmax(even.clone());
            let found = attention(&even, weights(&even, seen.input, &seen.context), &seen.context);
            // Query i looks back i / 2 on average; over nine queries that is 2.
            assert!(found.distance.iter().all(|distance| (distance - 2.0).abs() < 1e-4), "{found:?}");
            assert!(found.entropy.iter().all(|entropy| (entropy - 1.0).abs() < 1e-4), "{found:?}");
            checked = true;
        }
    });
    assert!(checked);
    let mut checked = false;
    observe(&parent, &parent, &batch(&[row(9, 1), row(5, 2)]), |layer, seen| {
        if layer == 0 {
            let tokens: Vec<f32> = seen.context.tokens.clone().expect("padding").into_data().to_vec().expect("numbers");
            let found = received(weights(&Mixer::Softmax(even.clone()), seen.input, &seen.context), &seen.context);
            let [rows, time, heads] = found.dims();
            let found: Vec<f32> = found.into_data().to_vec().expect("numbers");
            let mut seen_so_far = 0.0;
            for (place, of_token) in found.chunks(heads).enumerate() {
                seen_so_far = if place % time == 0 { 0.0 } else { seen_so_far } + tokens[place];
                // Query i gives each token so far 1 / (i + 1): most to itself, the first that sees it.
                let expected = if tokens[place] > 0.0 { 1.0 / seen_so_far } else { 0.0 };
                assert!(of_token.iter().all(|weight| (weight - expected).abs() < 1e-5), "token {place}: {of_token:?}, {expected}");
            }
            assert_eq!((rows, time, tokens.iter().sum::<f32>()), (2, 9, 14.0));
            checked = true;
        }
    });
    assert!(checked);
}
