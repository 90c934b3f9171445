//! A training run that was broken off goes on where it stood, to the same students bit for bit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use burn::backend::Autodiff;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use burn_flex::Flex;
use dtr_distill::initialise::{Decay, Gate, Initialise, Ridge, Start, Write};
use dtr_distill::schedule::Schedule;
use dtr_distill::trainer::{Outcome, Progress, Rows};
use dtr_distill::{Loss, Optimiser, Row, Settings, Snapshots, train};
use dtr_models::checkpoint::{load, save_module};
use dtr_models::{Decoder, DecoderConfig, Mixer, MixerConfig};

const STEPS: usize = 23;

const SETTINGS: Settings = Settings {
    operators: Vec::new(),
    loss: Loss::NormalisedMse,
    steps: STEPS,
    accumulate: 2,
    optimiser: Optimiser::Muon,
    learning_rates: Vec::new(),
    warmup: 0.1,
    schedule: Schedule::Linear,
    weight_decay: 0.01,
    patience: Some(50),
};

const START: Initialise = Initialise {
    projections: Start::Copy,
    decay: Decay::Distance,
    write: Write::Received,
    gate: Gate::Magnitude,
    shrink: 0.5,
    scale: true,
    ridge: Ridge::Throughout,
    feature_map_steps: 2,
};

fn parent() -> (DecoderConfig, Decoder<Flex>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/tiny-qwen3");
    load::<Flex>(&path, &Default::default()).expect("the parent")
}

fn batch(n: usize) -> Vec<Row> {
    (0..2).map(|row| Row::plain((0..24).map(|t| ((n * 7919 + row * 104_729 + t * 31) % 500) as u32).collect())).collect()
}

/// Trains students of three operators on made-up rows; panics at step `broken`, as if killed there. Gives the batches drawn.
fn run(snapshots: &Snapshots, broken: usize) -> (Option<Outcome<Flex>>, Vec<usize>) {
    let device = Default::default();
    let (config, parent) = parent();
    let operators = vec![
        MixerConfig::GatedDelta { convolution: 4, rotary: false },
        MixerConfig::Hedgehog {},
        MixerConfig::Mamba2 { state: 40, convolution: 4 },
    ];
    let (settings, initialise) = (Settings { learning_rates: vec![1e-3; operators.len()], operators, ..SETTINGS }, START);
    let mut drawn = Vec::new();
    let mut training = |n: usize| {
        assert!(n != 2 * broken, "broken off");
        drawn.push(n);
        Ok(batch(n))
    };
    let rows = Rows { calibration: vec![batch(1000)], held_out: vec![batch(2000)], training: &mut training };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        train::<Autodiff<Flex>>((&parent, &config), (&settings, &initialise), rows, (snapshots, None), &[device], &mut |_| ())
            .expect("trains")
    }));
    (outcome.ok(), drawn)
}

fn weights(outcome: &Outcome<Flex>, directory: &Path) -> Vec<Vec<u8>> {
    let path = directory.join("student.safetensors");
    let bytes = outcome.students.iter().map(|student| {
        save_module(&student.mixer, &path).expect("written");
        std::fs::read(&path).expect("read")
    });
    bytes.collect()
}

#[test]
fn broken_off_and_started_again_gives_the_same_students() {
    let directory = tempfile::tempdir().expect("a directory");
    let snapshots = |name: &str, key: &str, seconds| Snapshots::new(directory.path().join(name), key.into(), Duration::from_secs(seconds));
    let (plain, _) = run(&snapshots("plain", "k", 3600), STEPS);
    let plain = plain.expect("not broken off");

    let broken = snapshots("broken", "k", 0);
    assert!(run(&broken, 17).0.is_none());
    let (_, drawn) = run(&snapshots("broken", "another experiment", 3600), STEPS);
    assert_eq!(drawn.len(), 2 * STEPS, "what another experiment stored is not used");
    let (resumed, drawn) = run(&broken, STEPS);
    assert_eq!(drawn, (20..2 * STEPS).collect::<Vec<_>>(), "what was done is not done again");
    let resumed = resumed.expect("not broken off");
    assert_eq!(resumed.tokens, plain.tokens);
    let (resumed, plain) = (weights(&resumed, directory.path()), weights(&plain, directory.path()));
    let other: Vec<usize> = (0..plain.len()).filter(|&student| resumed[student] != plain[student]).collect();
    assert!(other.is_empty(), "other students: {other:?}");

    broken.clear().expect("removed");
    assert!(!directory.path().join("broken").exists());
    assert_eq!(broken.clock().expect("nothing there").step, 0);
}

/// All numbers of each parameter.
fn parameters(mixer: &Mixer<Flex>) -> Vec<Vec<f32>> {
    struct Collect(Vec<Vec<f32>>);
    impl ModuleVisitor<Flex> for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Flex, D>>) {
            self.0.push(param.val().into_data().to_vec().expect("numbers"));
        }
    }
    let mut collect = Collect(Vec::new());
    mixer.visit(&mut collect);
    collect.0
}

#[test]
fn a_student_learns_wherever_it_starts() {
    let device = Default::default();
    let (config, parent) = parent();
    let directory = tempfile::tempdir().expect("a directory");
    let mse = |projections, optimiser, steps: usize| {
        let settings = Settings {
            operators: vec![MixerConfig::GatedDelta { convolution: 4, rotary: false }, MixerConfig::Mamba2 { state: 40, convolution: 4 }],
            steps,
            optimiser,
            learning_rates: vec![1e-2; 2],
            ..SETTINGS
        };
        let initialise = Initialise { projections, ridge: Ridge::Off, ..START };
        let rows = Rows { calibration: vec![batch(1000)], held_out: vec![batch(0)], training: &mut |_| Ok(batch(0)) };
        let snapshots = Snapshots::new(directory.path().join("none"), "k".into(), Duration::from_hours(1));
        let outcome =
            train::<Autodiff<Flex>>((&parent, &config), (&settings, &initialise), rows, (&snapshots, None), &[device, device], &mut |_| ())
                .expect("trains");
        outcome.students
    };
    for (start, optimiser) in [(Start::Copy, Optimiser::AdamW), (Start::Copy, Optimiser::Muon), (Start::Random, Optimiser::AdamW)] {
        let (before, after) = (mse(start, optimiser, 1), mse(start, optimiser, 30));
        for (before, after) in before.iter().zip(&after) {
            let student = format!("layer {}, {:?}", after.layer, after.operator);
            let (old, new) = (parameters(&before.mixer), parameters(&after.mixer));
            assert!(old.len() >= 9 && old.iter().zip(&new).all(|(old, new)| old != new), "a parameter of {student} never changed");
            let (before, after) = (before.normalised_mse, after.normalised_mse);
            assert!(after < 0.97 * before, "{student} from {start:?} by {optimiser:?}: {before} {after}");
        }
    }
}

#[test]
fn what_calibration_solves_is_not_trained_and_each_operator_has_its_rate() {
    let device = Default::default();
    let (config, parent) = parent();
    let directory = tempfile::tempdir().expect("a directory");
    let trained = |operators: Vec<MixerConfig>, learning_rates: Vec<f64>, steps: usize| {
        let settings = Settings { operators, learning_rates, steps, accumulate: 1, ..SETTINGS };
        let (mut done, mut curve) = (0, Vec::new());
        let rows = Rows { calibration: vec![batch(1000)], held_out: vec![batch(2000)], training: &mut |n| Ok(batch(n)) };
        let snapshots = Snapshots::new(directory.path().join("none"), "k".into(), Duration::from_hours(1));
        let outcome =
            train::<Autodiff<Flex>>((&parent, &config), (&settings, &START), rows, (&snapshots, None), &[device], &mut |progress| {
                match progress {
                    Progress::Done { .. } => done += 1,
                    Progress::Losses { losses, .. } => curve.extend(losses),
                    _ => {}
                }
            })
            .expect("trains");
        (outcome, done, curve)
    };
    let errors = |outcome: &Outcome<Flex>| outcome.students.iter().map(|student| student.normalised_mse).collect::<Vec<_>>();
    let (long, done, curve) = trained(vec![MixerConfig::LinearMap {}], vec![1e-2], 200);
    assert_eq!((long.tokens, done), (10 * 48, 8), "all are done at the first report");
    assert!(curve.len() == 8 && curve.iter().all(|&loss| loss > 0.0 && loss < 1.0), "{curve:?}");
    let beside = MixerConfig::Hedgehog {};
    let [slow, fast] = [1e-9, 1e-2].map(|rate| trained(vec![MixerConfig::LinearMap {}, beside.clone()], vec![1e-2, rate], 40).0);
    assert_eq!(errors(&slow)[..8], errors(&long)[..8], "students of another operator change nothing");
    assert_eq!(errors(&fast)[..8], errors(&long)[..8]);
    assert!(errors(&fast)[8..].iter().zip(&errors(&slow)[8..]).all(|(fast, slow)| fast < slow), "{:?} {:?}", errors(&fast), errors(&slow));
}

#[test]
fn a_student_that_diverges_says_so_and_is_not_kept() {
    let device = Default::default();
    let (config, parent) = parent();
    let directory = tempfile::tempdir().expect("a directory");
    let operators = vec![MixerConfig::GatedDelta { convolution: 4, rotary: false }];
    let settings = Settings { operators, learning_rates: vec![1e30], optimiser: Optimiser::AdamW, ..SETTINGS };
    let rows = Rows { calibration: vec![batch(1000)], held_out: vec![batch(0)], training: &mut |n| Ok(batch(n)) };
    let snapshots = Snapshots::new(directory.path().join("none"), "k".into(), Duration::ZERO);
    let mut refused = 0;
    let result = train::<Autodiff<Flex>>((&parent, &config), (&settings, &START), rows, (&snapshots, None), &[device], &mut |progress| {
        refused += usize::from(matches!(progress, Progress::Refused { .. }));
    });
    let error = result.expect_err("no student").to_string();
    assert!(error.contains("gated-delta") && error.contains("learning-rate"), "{error}");
    assert!(refused >= 8, "{refused} steps were reported as left out");
    assert_eq!(snapshots.clock().expect("nothing there").step, 0, "nothing of it is stored");
}
