//! The training loop: one pass of the parent a step, every student learns from it on its own.

use std::sync::Mutex;
use std::time::Instant;

use burn::module::AutodiffModule;
use burn::optim::adaptor::OptimizerAdaptor;
use burn::optim::{AdamW, AdamWConfig, GradientsParams, Optimizer};
use burn::prelude::*;
use dtr_attention::TrainBackend;
use dtr_models::{Context, Decoder, DecoderConfig, Mixer, MixerConfig};
use rayon::prelude::*;

use crate::error::DistillError;
use crate::initialise::{calibrate, fit_outputs, student};
use crate::loss::normalised_mse;
use crate::observe::observe;
use crate::schedule::warmup_cosine;
use crate::snapshot::{Clock, Snapshots};

/// Steps between two reports of the losses.
const REPORT: usize = 10;

/// Which students are trained, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Each gets a student of every layer.
    pub operators: Vec<MixerConfig>,
    /// Steps of the optimiser.
    pub steps: usize,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Share of the steps spent rising to it.
    pub warmup: f64,
    /// Decoupled weight decay.
    pub weight_decay: f32,
}

/// What the loop tells of itself.
#[derive(Debug)]
pub enum Progress<'a> {
    /// A step is done; `tokens` so far.
    Step {
        /// Tokens trained on.
        tokens: usize,
    },
    /// Losses of one operator by layer, mean since the last report.
    Losses {
        /// The operator.
        operator: &'a MixerConfig,
        /// Tokens trained on.
        tokens: usize,
        /// Normalised mean squared error by layer.
        normalised_mse: Vec<f32>,
    },
}

/// A trained student with its held-out loss.
#[derive(Debug)]
pub struct Trained<B: Backend> {
    /// Layer it stands in for.
    pub layer: usize,
    /// Its operator.
    pub operator: MixerConfig,
    /// The mixer.
    pub mixer: Mixer<B>,
    /// Held-out normalised mean squared error.
    pub normalised_mse: f64,
}

/// What training gives.
#[derive(Debug)]
pub struct Outcome<B: Backend> {
    /// One student a layer and operator, in the order operator, layer.
    pub students: Vec<Trained<B>>,
    /// Tokens trained on.
    pub tokens: usize,
    /// Through parent and all students together, initialisation left out.
    pub tokens_per_second: f64,
}

/// Rows of token ids that training draws from.
pub struct Rows<'a> {
    /// Batches for the closed-form initialisation.
    pub calibration: Vec<Vec<Vec<u32>>>,
    /// Batches never trained on, on which the students are measured.
    pub held_out: Vec<Vec<Vec<u32>>>,
    /// The batch of a step.
    pub training: &'a mut dyn FnMut(usize) -> Vec<Vec<u32>>,
}

struct Pupil<B: TrainBackend> {
    layer: usize,
    operator: usize,
    mixer: Mixer<B>,
    optimiser: OptimizerAdaptor<AdamW, Mixer<B>, B>,
    /// Losses since the last report, kept on the device until then.
    losses: Vec<Tensor<B::InnerBackend, 1>>,
}

/// Trains one student for every layer and operator. A run that `snapshots` hold is gone on with.
///
/// # Errors
/// If a loss stops being finite, the parent's states are not, or snapshots cannot be read or written.
pub fn train<B: TrainBackend>(
    parent: &Decoder<B::InnerBackend>,
    config: &DecoderConfig,
    settings: &Settings,
    rows: Rows<'_>,
    snapshots: &Snapshots,
    device: &B::Device,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Outcome<B::InnerBackend>, DistillError> {
    let pupils = start::<B>(parent, config, settings, &rows, device)?;
    learn(pupils, (parent, parent), settings, rows, Some(snapshots), device, progress)
}

/// Trains students further on what they meet in `hybrid`: its own hidden states, and the parent's answers to them. Each is a layer,
/// the index of its operator in the settings, and the mixer to begin with.
///
/// # Errors
/// If a loss stops being finite, or the hybrid's states are not.
pub fn refit<B: TrainBackend>(
    (hybrid, parent): (&Decoder<B::InnerBackend>, &Decoder<B::InnerBackend>),
    students: Vec<(usize, usize, Mixer<B::InnerBackend>)>,
    settings: &Settings,
    rows: Rows<'_>,
    device: &B::Device,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Outcome<B::InnerBackend>, DistillError> {
    let layers: Vec<usize> = students.iter().map(|student| student.0).collect();
    let operators: Vec<usize> = students.iter().map(|student| student.1).collect();
    let mut mixers: Vec<_> = students.into_iter().map(|student| student.2).collect();
    fit_outputs(hybrid, parent, &layers, &mut mixers, &rows.calibration, device)?;
    let pupils =
        layers.into_iter().zip(operators).zip(mixers).map(|((layer, operator), mixer)| Pupil::<B>::new(layer, operator, mixer, settings));
    learn(pupils.collect(), (hybrid, parent), settings, rows, None, device, progress)
}

/// The loop: one pass of `model` a step, every pupil learns on its own what `teacher` makes of it.
fn learn<B: TrainBackend>(
    mut pupils: Vec<Pupil<B>>,
    (model, teacher): (&Decoder<B::InnerBackend>, &Decoder<B::InnerBackend>),
    settings: &Settings,
    rows: Rows<'_>,
    snapshots: Option<&Snapshots>,
    device: &B::Device,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Outcome<B::InnerBackend>, DistillError> {
    let operators = settings.operators.as_slice();
    let mut clock = snapshots.map_or(Ok(Clock::default()), Snapshots::clock)?;
    if let Some(snapshots) = snapshots.filter(|_| clock.step > 0) {
        for pupil in &mut pupils {
            let name = pupil.name(operators);
            (pupil.mixer, pupil.optimiser) = snapshots.load(clock, &name, pupil.mixer.clone(), pupil.optimiser.clone(), device)?;
        }
    }
    let (began, before) = (Instant::now(), clock.seconds);
    let mut stored = Instant::now();
    for step in clock.step..settings.steps {
        let batch = (rows.training)(step);
        clock.tokens += batch.iter().map(Vec::len).sum::<usize>();
        let seen = observe(model, teacher, &batch, device);
        let rate = warmup_cosine(step, settings.steps, settings.learning_rate, settings.warmup);
        let context = tracked::<B>(&seen.context);
        on_threads(&mut pupils, |pupil| pupil.learn(&seen.inputs[pupil.layer], &seen.outputs[pupil.layer], &context, rate));
        clock = Clock { step: step + 1, seconds: before + began.elapsed().as_secs_f64(), ..clock };
        progress(Progress::Step { tokens: clock.tokens });
        if clock.step.is_multiple_of(REPORT) || clock.step == settings.steps {
            report(&mut pupils, operators, clock.tokens, progress)?;
            if let Some(snapshots) = snapshots.filter(|snapshots| stored.elapsed() >= snapshots.every()) {
                for pupil in &pupils {
                    snapshots.save(clock, &pupil.name(operators), &pupil.mixer, &pupil.optimiser)?;
                }
                snapshots.complete(clock)?;
                stored = Instant::now();
            }
        }
    }
    let losses = held_out((model, teacher), &pupils, &rows.held_out, device);
    let students = pupils.into_iter().zip(losses).map(|(pupil, normalised_mse)| Trained {
        layer: pupil.layer,
        operator: operators[pupil.operator].clone(),
        mixer: pupil.mixer.valid(),
        normalised_mse,
    });
    let tokens_per_second = clock.tokens as f64 / clock.seconds.max(f64::MIN_POSITIVE);
    Ok(Outcome { students: students.collect(), tokens: clock.tokens, tokens_per_second })
}

/// Students initialised, not yet trained.
fn start<B: TrainBackend>(
    parent: &Decoder<B::InnerBackend>,
    config: &DecoderConfig,
    settings: &Settings,
    rows: &Rows<'_>,
    device: &B::Device,
) -> Result<Vec<Pupil<B>>, DistillError> {
    let calibration = calibrate(parent, &rows.calibration, device)?;
    let mut pupils = Vec::new();
    for (index, operator) in settings.operators.iter().enumerate() {
        let found = parent.layers.iter().zip(&calibration);
        let mut students: Vec<_> = found.map(|(layer, found)| student(operator, &config.attention, &layer.mixer, found)).collect();
        let layers: Vec<usize> = (0..students.len()).collect();
        fit_outputs(parent, parent, &layers, &mut students, &rows.calibration, device)?;
        pupils.extend(students.into_iter().enumerate().map(|(layer, mixer)| Pupil::new(layer, index, mixer, settings)));
    }
    Ok(pupils)
}

impl<B: TrainBackend> Pupil<B> {
    fn new(layer: usize, operator: usize, mixer: Mixer<B::InnerBackend>, settings: &Settings) -> Self {
        let optimiser = AdamWConfig::new().with_beta_2(0.99).with_epsilon(1e-8).with_weight_decay(settings.weight_decay);
        Self { layer, operator, mixer: Mixer::from_inner(mixer), optimiser: optimiser.init(), losses: Vec::new() }
    }

    fn name(&self, operators: &[MixerConfig]) -> String {
        format!("{}-{:02}", operators[self.operator].name(), self.layer)
    }

    fn learn(&mut self, input: &Tensor<B::InnerBackend, 3>, target: &Tensor<B::InnerBackend, 3>, context: &Context<B>, rate: f64) {
        let output = self.mixer.mix(Tensor::from_inner(input.clone()), context);
        let loss = normalised_mse(output, Tensor::from_inner(target.clone()));
        self.losses.push(loss.clone().inner());
        let gradients = GradientsParams::from_grads(loss.backward(), &self.mixer);
        self.mixer = self.optimiser.step(rate, self.mixer.clone(), gradients);
    }
}

/// Does `work` for each item, on as many threads as there are cores.
///
/// The threads are not those of the kernels' pool: a backward pass holds a lock while its kernels run, and a pool thread that
/// waits for a kernel may take up another item's backward pass and wait for that lock in turn.
fn on_threads<T: Send>(items: &mut [T], work: impl Fn(&mut T) + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let queue = Mutex::new(items.iter_mut());
    let next = || queue.lock().expect("no thread panics while it takes an item").next();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = next() {
                    work(item);
                }
            });
        }
    });
}

/// The context as the autodiff backend wants it; nothing in it is differentiated.
fn tracked<B: TrainBackend>(context: &Context<B::InnerBackend>) -> Context<B> {
    Context {
        positions: context.positions.clone(),
        rotary: dtr_models::rope::Rotary {
            cos: Tensor::from_inner(context.rotary.cos.clone()),
            sin: Tensor::from_inner(context.rotary.sin.clone()),
        },
        tokens: context.tokens.clone().map(Tensor::from_inner),
    }
}

fn report<B: TrainBackend>(
    pupils: &mut [Pupil<B>],
    operators: &[MixerConfig],
    tokens: usize,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), DistillError> {
    for (index, operator) in operators.iter().enumerate() {
        let mut normalised_mse = Vec::new();
        for pupil in pupils.iter_mut().filter(|pupil| pupil.operator == index && !pupil.losses.is_empty()) {
            let loss = Tensor::cat(std::mem::take(&mut pupil.losses), 0).mean().into_scalar().elem::<f32>();
            if !loss.is_finite() {
                return Err(DistillError::Diverged { layer: pupil.layer, operator: operator.name(), tokens, loss });
            }
            normalised_mse.push(loss);
        }
        progress(Progress::Losses { operator, tokens, normalised_mse });
    }
    Ok(())
}

fn held_out<B: TrainBackend>(
    (model, teacher): (&Decoder<B::InnerBackend>, &Decoder<B::InnerBackend>),
    pupils: &[Pupil<B>],
    batches: &[Vec<Vec<u32>>],
    device: &B::Device,
) -> Vec<f64> {
    let mut sums = vec![0.0; pupils.len()];
    for rows in batches {
        let seen = observe(model, teacher, rows, device);
        let losses = pupils.par_iter().map(|pupil| {
            let output = pupil.mixer.valid().mix(seen.inputs[pupil.layer].clone(), &seen.context);
            normalised_mse(output, seen.outputs[pupil.layer].clone()).into_scalar().elem::<f64>()
        });
        for (sum, loss) in sums.iter_mut().zip(losses.collect::<Vec<_>>()) {
            *sum += loss;
        }
    }
    sums.into_iter().map(|sum| sum / batches.len() as f64).collect()
}
