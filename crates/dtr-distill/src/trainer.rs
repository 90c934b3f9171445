//! The training loop: one pass of the parent a batch, every student learns from it on its own.

use std::error::Error;
use std::time::Instant;

use burn::module::AutodiffModule;
use burn::prelude::*;
use dtr_attention::TrainBackend;
use dtr_models::{Decoder, DecoderConfig, Mixer, MixerConfig};

use crate::batch::{Batch, Row};
use crate::cache::StateCache;
use crate::error::DistillError;
use crate::initialise::{self, Initialise, Ridge};
use crate::lessons::{Source, steps};
use crate::loss::{Loss, error_and_power};
use crate::observe::observe;
use crate::optimiser::{Optimiser, Optimisers};
use crate::pupil::{Pupil, REFUSALS};
use crate::schedule::Schedule;
use crate::snapshot::{Clock, Snapshots};

/// Steps between two reports of the losses.
const REPORT: usize = 10;

/// Which students are trained, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Each gets a student of every layer.
    pub operators: Vec<MixerConfig>,
    /// What they are trained on.
    pub loss: Loss,
    /// Steps of the optimiser.
    pub steps: usize,
    /// Batches a step.
    pub accumulate: usize,
    /// What moves the matrices.
    pub optimiser: Optimiser,
    /// Largest learning rate of the students of each operator, one an operator.
    pub learning_rates: Vec<f64>,
    /// Share of the steps spent rising to it.
    pub warmup: f64,
    /// How it falls from there.
    pub schedule: Schedule,
    /// Decoupled weight decay of the matrices.
    pub weight_decay: f32,
    /// Reports of ten steps each without progress after which a student learns no more.
    pub patience: Option<usize>,
}

/// What the loop tells of itself.
#[derive(Debug)]
pub enum Progress<'a> {
    /// A step is done; `tokens` so far.
    Step {
        /// Tokens trained on.
        tokens: usize,
    },
    /// Losses of one operator by layer, mean since the last report; the last known where a student learnt nothing since.
    Losses {
        /// The operator.
        operator: &'a MixerConfig,
        /// Tokens trained on.
        tokens: usize,
        /// In the loss trained on.
        losses: Vec<f32>,
    },
    /// A student did not learn from a step, and makes shorter ones from now on.
    Refused {
        /// The operator.
        operator: &'a MixerConfig,
        /// Layer.
        layer: usize,
        /// Tokens trained on.
        tokens: usize,
        /// The loss that was no number, far above the usual, or had gradients that were no numbers.
        loss: f32,
    },
    /// A student makes no progress any more and is done.
    Done {
        /// The operator.
        operator: &'a MixerConfig,
        /// Layer.
        layer: usize,
        /// Tokens trained on.
        tokens: usize,
    },
    /// Something that does not end the training.
    Warning(String),
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

/// What draws the rows of a batch.
pub type Draw<'a> = &'a mut dyn FnMut(usize) -> Result<Vec<Row>, Box<dyn Error + Send + Sync>>;

/// Rows that training draws from.
pub struct Rows<'a> {
    /// Batches for what is found in closed form.
    pub calibration: Vec<Vec<Row>>,
    /// Batches never trained on, on which the students are measured.
    pub held_out: Vec<Vec<Row>>,
    /// The n-th batch.
    pub training: Draw<'a>,
}

/// Trains one student for every layer and operator, spread over `devices`; the parent is on the first. A run that `snapshots` hold is
/// gone on with, and hidden states are kept in `cache`.
///
/// # Errors
/// If a loss is no number for too long, the parent's states are not, or rows, snapshots or students cannot be read or written.
///
/// # Panics
/// If there are no devices, or fewer learning rates than operators.
pub fn train<B: TrainBackend>(
    (parent, config): (&Decoder<B::InnerBackend>, &DecoderConfig),
    (settings, initialise): (&Settings, &Initialise),
    rows: Rows<'_>,
    (snapshots, cache): (&Snapshots, Option<&StateCache>),
    devices: &[B::Device],
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Outcome<B::InnerBackend>, DistillError> {
    let source = Source { model: parent, teacher: parent, cache };
    let calibration = batches::<B::InnerBackend>(&rows.calibration, &devices[0]);
    let mut pupils = Vec::new();
    // Where a snapshot is at hand, all that is learnt before the first step is in it.
    let fresh = snapshots.clock()?.step == 0;
    let found = fresh.then(|| initialise::calibrate(parent, &calibration, initialise, &devices[0])).transpose()?;
    for (index, operator) in settings.operators.iter().enumerate() {
        let mut students: Vec<Mixer<B::InnerBackend>> = match &found {
            Some(found) => initialise::students(operator, &config.attention, parent, found, initialise),
            None => (0..parent.layers.len()).map(|_| operator.init(&config.attention, &devices[0])).collect(),
        };
        if fresh {
            let maps = matches!(operator, MixerConfig::Hedgehog {}) && initialise.feature_map_steps > 0;
            if maps {
                students = mapped::<B>(students, operator, &source, &rows.calibration, initialise.feature_map_steps, devices)?;
            }
            initialise::fit(
                parent,
                parent,
                &mut students.iter_mut().enumerate().collect::<Vec<_>>(),
                &calibration,
                initialise,
                &devices[0],
            )?;
        }
        pupils.extend(students.into_iter().enumerate().map(|(layer, mixer)| pupil(layer, index, mixer, settings, devices)));
    }
    if initialise.ridge == Ridge::Throughout {
        pupils = pupils.into_iter().map(Pupil::with_fits).collect();
    }
    let after = initialise.ridge.after().then_some(calibration);
    learn::<B>(pupils, &source, settings, rows, Some(snapshots), after, devices, progress)
}

/// Trains students further on what they meet in `hybrid`: its own hidden states, and the parent's answers to them. Each is a layer,
/// the index of its operator in the settings, and the mixer to begin with.
///
/// # Errors
/// If a loss is no number for too long, or the hybrid's states are not.
pub fn refit<B: TrainBackend>(
    (hybrid, parent): (&Decoder<B::InnerBackend>, &Decoder<B::InnerBackend>),
    mut students: Vec<(usize, usize, Mixer<B::InnerBackend>)>,
    (settings, initialise): (&Settings, &Initialise),
    rows: Rows<'_>,
    device: &B::Device,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Outcome<B::InnerBackend>, DistillError> {
    let calibration = batches::<B::InnerBackend>(&rows.calibration, device);
    let mut places: Vec<_> = students.iter_mut().map(|(layer, _, mixer)| (*layer, mixer)).collect();
    initialise::fit_outputs(hybrid, parent, &mut places, &calibration)?;
    let devices = std::slice::from_ref(device);
    let pupils = students.into_iter().map(|(layer, operator, mixer)| pupil(layer, operator, mixer, settings, devices)).collect();
    let source = Source { model: hybrid, teacher: parent, cache: None };
    let after = initialise.ridge.after().then_some(calibration);
    learn::<B>(pupils, &source, settings, rows, None, after, devices, progress)
}

fn pupil<B: TrainBackend>(
    layer: usize,
    operator: usize,
    mixer: Mixer<B::InnerBackend>,
    settings: &Settings,
    devices: &[B::Device],
) -> Pupil<B> {
    let optimisers = Optimisers::new(settings.optimiser, settings.learning_rates[operator], settings.weight_decay);
    Pupil::new(layer, operator, mixer, optimisers, &devices[layer % devices.len()])
}

fn batches<B: Backend>(rows: &[Vec<Row>], device: &B::Device) -> Vec<Batch<B>> {
    rows.iter().map(|rows| Batch::new(rows, device)).collect()
}

/// Students whose feature maps have learnt the parent's attention weights from the calibration rows.
fn mapped<B: TrainBackend>(
    students: Vec<Mixer<B::InnerBackend>>,
    operator: &MixerConfig,
    source: &Source<'_, B::InnerBackend>,
    calibration: &[Vec<Row>],
    steps: usize,
    devices: &[B::Device],
) -> Result<Vec<Mixer<B::InnerBackend>>, DistillError> {
    /// As in `LoLCATs`, arXiv 2410.10254, appendix A.
    const LEARNING_RATE: f64 = 1e-2;
    let settings = Settings {
        operators: vec![operator.clone()],
        loss: Loss::AttentionWeights,
        steps,
        accumulate: 1,
        optimiser: Optimiser::AdamW,
        learning_rates: vec![LEARNING_RATE],
        warmup: 0.05,
        schedule: Schedule::Cosine,
        weight_decay: 0.0,
        patience: None,
    };
    let pupils = students.into_iter().enumerate().map(|(layer, mixer)| pupil(layer, 0, mixer, &settings, devices)).collect();
    let mut again = |n: usize| Ok(calibration[n % calibration.len()].clone());
    let rows = Rows { calibration: Vec::new(), held_out: Vec::new(), training: &mut again };
    let outcome = learn::<B>(pupils, source, &settings, rows, None, None, devices, &mut |_| ())?;
    Ok(outcome.students.into_iter().map(|student| student.mixer).collect())
}

/// The loop. `after` holds the batches on which output projections are refitted at the end.
#[expect(clippy::too_many_arguments, reason = "private, and each is a thing of its own")]
fn learn<B: TrainBackend>(
    mut pupils: Vec<Pupil<B>>,
    source: &Source<'_, B::InnerBackend>,
    settings: &Settings,
    rows: Rows<'_>,
    snapshots: Option<&Snapshots>,
    after: Option<Vec<Batch<B::InnerBackend>>>,
    devices: &[B::Device],
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Outcome<B::InnerBackend>, DistillError> {
    let operators = settings.operators.as_slice();
    let mut clock = snapshots.map_or(Ok(Clock::default()), Snapshots::clock)?;
    if let Some(snapshots) = snapshots.filter(|_| clock.step > 0) {
        for pupil in &mut pupils {
            snapshots.load(clock, operators, pupil, &devices[0])?;
        }
    }
    let (began, before) = (Instant::now(), clock.seconds);
    let mut stored = Instant::now();
    while clock.step < settings.steps && !pupils.iter().all(|pupil| pupil.standing.done) {
        let end = (clock.step + REPORT - clock.step % REPORT).min(settings.steps);
        steps(&mut pupils, source, settings, (&mut clock, end), rows.training, &devices[0], progress)?;
        clock.seconds = before + began.elapsed().as_secs_f64();
        if let Some(complaint) = source.cache.and_then(StateCache::complaint) {
            progress(Progress::Warning(complaint));
        }
        report(&mut pupils, settings, clock.tokens, progress)?;
        if let Some(snapshots) = snapshots.filter(|snapshots| stored.elapsed() >= snapshots.every()) {
            for pupil in &pupils {
                snapshots.save(clock, operators, pupil)?;
            }
            snapshots.complete(clock)?;
            stored = Instant::now();
        }
    }
    let tokens_per_second = clock.tokens as f64 / clock.seconds.max(f64::MIN_POSITIVE);
    let mut students: Vec<_> =
        pupils.into_iter().map(|pupil| (pupil.layer, pupil.operator, pupil.mixer.valid().to_device(&devices[0]))).collect();
    if let Some(calibration) = after {
        let mut places: Vec<_> = students.iter_mut().map(|(layer, _, mixer)| (*layer, mixer)).collect();
        initialise::fit_outputs(source.model, source.teacher, &mut places, &calibration)?;
    }
    let losses = held_out(source, &students, &batches(&rows.held_out, &devices[0]));
    let students = students.into_iter().zip(losses).map(|((layer, operator, mixer), normalised_mse)| Trained {
        layer,
        operator: operators[operator].clone(),
        mixer,
        normalised_mse,
    });
    Ok(Outcome { students: students.collect(), tokens: clock.tokens, tokens_per_second })
}

fn report<B: TrainBackend>(
    pupils: &mut [Pupil<B>],
    settings: &Settings,
    tokens: usize,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), DistillError> {
    for (index, operator) in settings.operators.iter().enumerate() {
        let mut losses = Vec::new();
        for pupil in pupils.iter_mut().filter(|pupil| pupil.operator == index) {
            let layer = pupil.layer;
            let refused = std::mem::take(&mut pupil.refused);
            for &loss in &refused {
                progress(Progress::Refused { operator, layer, tokens, loss });
            }
            if let Some(&loss) = refused.last().filter(|_| pupil.standing.lost >= REFUSALS) {
                return Err(DistillError::Diverged { layer, operator: operator.name(), tokens, loss });
            }
            let own = std::mem::take(&mut pupil.losses);
            if !own.is_empty() {
                pupil.standing.report(own.iter().sum::<f32>() / own.len() as f32, settings.patience);
                if pupil.standing.done {
                    progress(Progress::Done { operator, layer, tokens });
                }
            }
            losses.push(pupil.standing.latest);
        }
        progress(Progress::Losses { operator, tokens, losses });
    }
    Ok(())
}

fn held_out<B: dtr_attention::MixerBackend>(
    source: &Source<'_, B>,
    students: &[(usize, usize, Mixer<B>)],
    batches: &[Batch<B>],
) -> Vec<f64> {
    let mut sums = vec![[0.0; 2]; students.len()];
    for batch in batches {
        observe(source.model, source.teacher, batch, |layer, seen| {
            for ((_, _, mixer), sum) in students.iter().zip(&mut sums).filter(|((at, ..), _)| *at == layer) {
                let output = mixer.mix(seen.input.clone(), &seen.context);
                let own = error_and_power(output, seen.output.clone(), seen.weights.clone()).map(|mean| mean.into_scalar().elem::<f64>());
                *sum = [sum[0] + own[0], sum[1] + own[1]];
            }
        });
    }
    sums.into_iter().map(|[error, power]| error / power.max(f64::MIN_POSITIVE)).collect()
}
