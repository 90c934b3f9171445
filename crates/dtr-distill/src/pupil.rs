//! One student in training: its mixer, its optimisers, and what keeps it from going astray.

use burn::module::AutodiffModule;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::prelude::*;
use dtr_attention::TrainBackend;
use dtr_models::layers::cast;
use dtr_models::rope::Rotary;
use dtr_models::{Context, Mixer, MixerConfig};
use serde::{Deserialize, Serialize};

use crate::initialise::unbiased;
use crate::loss::{Loss, attention_weights, cosine, normalised_mse};
use crate::observe::Seen;
use crate::optimiser::Optimisers;
use crate::ridge::{Moments, NEAR};
use crate::thaw::thaw;

/// A loss this many times the usual one is no step to learn from.
const SPIKE: f32 = 4.0;

/// One below this is never too large to learn from: a student this good meets rows that are harder by far.
const HARMLESS: f32 = 0.05;

/// Losses after which the usual one is known.
const KNOWN: usize = 20;

/// Weight of the newest loss in the usual one.
const NEWEST: f32 = 0.05;

/// Refusals in a row after which a loss is usual, however large; and after which one that is no number ends the training.
pub(crate) const REFUSALS: usize = 8;

/// Growth, at each step taken, of a learning rate that was halved, until it is whole again.
const COURAGE: f64 = 1.05;

/// Share by which a loss must fall to count as progress.
const PROGRESS: f32 = 0.005;

/// How a student stands; stored with its snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Standing {
    losses: usize,
    usual: f32,
    /// Refusals in a row.
    refused: usize,
    /// Those of them that were no numbers.
    pub lost: usize,
    /// Factor of the learning rate.
    caution: f64,
    best: f32,
    /// Mean loss at the last report.
    pub latest: f32,
    /// Reports without progress.
    stale: usize,
    /// Learns no more.
    pub done: bool,
}

impl Default for Standing {
    fn default() -> Self {
        Self { losses: 0, usual: 0.0, refused: 0, lost: 0, caution: 1.0, best: f32::MAX, latest: 0.0, stale: 0, done: false }
    }
}

impl Standing {
    /// Whether to learn from a step with this loss and these gradients; if not, the next steps are half as long.
    fn takes(&mut self, loss: f32, gradient: f32) -> bool {
        let finite = loss.is_finite() && gradient.is_finite();
        let spike = self.losses >= KNOWN && loss > HARMLESS.max(SPIKE * self.usual) && self.refused < REFUSALS;
        if !finite || spike {
            self.refused += 1;
            self.lost = if finite { 0 } else { self.lost + 1 };
            self.caution *= 0.5;
            return false;
        }
        self.usual = if self.losses == 0 || self.refused >= REFUSALS { loss } else { self.usual + NEWEST * (loss - self.usual) };
        self.losses += 1;
        (self.refused, self.lost) = (0, 0);
        self.caution = (self.caution * COURAGE).min(1.0);
        true
    }

    /// Takes note of the mean loss since the last report; done after `patience` of them without progress.
    pub fn report(&mut self, loss: f32, patience: Option<usize>) {
        self.latest = loss;
        if loss < self.best * (1.0 - PROGRESS) {
            (self.best, self.stale) = (loss, 0);
        } else {
            self.stale += 1;
        }
        self.done |= patience.is_some_and(|patience| self.stale >= patience);
    }
}

/// A student in training.
pub(crate) struct Pupil<B: TrainBackend> {
    pub layer: usize,
    /// Place of its operator in the settings.
    pub operator: usize,
    pub mixer: Mixer<B>,
    pub optimisers: Optimisers<B>,
    pub standing: Standing,
    device: B::Device,
    gradients: GradientsAccumulator<Mixer<B>>,
    /// What enters the output projection and what is to come out of it, since the last time it was fitted; `None` where it never is.
    moments: Option<Moments>,
    /// Losses since the last report.
    pub losses: Vec<f32>,
    /// Losses refused since the last report.
    pub refused: Vec<f32>,
}

impl<B: TrainBackend> Pupil<B> {
    pub fn new(layer: usize, operator: usize, mixer: Mixer<B::InnerBackend>, optimisers: Optimisers<B>, device: &B::Device) -> Self {
        Self {
            layer,
            operator,
            // `fork` and not `to_device`, which would put a step between weights and gradients.
            mixer: thaw(Mixer::from_inner(mixer), None).fork(device),
            optimisers,
            standing: Standing::default(),
            device: device.clone(),
            gradients: GradientsAccumulator::new(),
            moments: None,
            losses: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// From now on the output projection is fitted by [`Self::fit_output`] and not trained.
    #[must_use]
    pub fn with_fits(mut self) -> Self {
        let output = self.mixer.output_mut();
        let [input, width] = output.weight.dims();
        output.weight = output.weight.clone().set_require_grad(false);
        self.moments = (!self.is_solved()).then(|| Moments::new(input, width));
        self
    }

    /// Whether calibration has found all there is to learn: an output projection with nothing in front of it.
    fn is_solved(&self) -> bool {
        matches!(&self.mixer, Mixer::LinearMap(mixer) if !mixer.out_proj.weight.is_require_grad())
    }

    /// Fits the output projection, in closed form, to what was learnt from since the last time, and keeps it where that gives no numbers.
    pub fn fit_output(&mut self) {
        let Some(moments) = &mut self.moments else { return };
        let output = self.mixer.output_mut();
        let [input, width] = output.weight.dims();
        let moments = std::mem::replace(moments, Moments::new(input, width));
        if let Some(weight) = moments.refined(output.weight.val().inner(), NEAR) {
            output.weight = output.weight.clone().map(|_| Tensor::from_inner(weight));
        }
    }

    /// File name.
    pub fn name(&self, operators: &[MixerConfig]) -> String {
        format!("{}-{:02}", operators[self.operator].name(), self.layer)
    }

    /// Learns from one of `parts` batches of a step; the last one, which brings a share of the learning rate, makes the step.
    pub fn learn(
        &mut self,
        seen: Seen<B::InnerBackend>,
        teacher: &Mixer<B::InnerBackend>,
        objective: Loss,
        parts: usize,
        share: Option<f64>,
    ) {
        if self.standing.done {
            return;
        }
        let seen = moved(seen, &self.device);
        let loss = self.loss(&seen, teacher, objective);
        let value = loss.clone().inner();
        if self.is_solved() {
            self.losses.push(value.into_scalar().elem());
            self.standing.done = true;
            return;
        }
        let gradients = self.wanted(loss.div_scalar(parts as f64).backward(), objective);
        let norm = norm(&self.mixer, &gradients).unwrap_or_else(|| value.zeros_like());
        // One wait for the device a step and student.
        let numbers = Tensor::cat(vec![value, norm], 0).into_data().convert::<f32>().iter::<f32>().collect::<Vec<f32>>();
        if self.standing.takes(numbers[0], numbers[1]) {
            self.losses.push(numbers[0]);
            self.gradients.accumulate(&self.mixer, gradients);
        } else {
            self.refused.push(numbers[0]);
        }
        if let Some(share) = share {
            let gradients = self.gradients.grads();
            if !gradients.is_empty() {
                self.mixer = self.optimisers.step(share * self.standing.caution, self.mixer.clone(), gradients);
            }
        }
    }

    fn loss(&mut self, seen: &Seen<B::InnerBackend>, teacher: &Mixer<B::InnerBackend>, objective: Loss) -> Tensor<B, 1> {
        let context = tracked::<B>(&seen.context);
        // In the parent's precision; gradients go through to the weights, which are single.
        let mixer = cast(self.mixer.clone(), seen.input.dtype().into());
        let weights = seen.weights.clone().map(Tensor::from_inner);
        let input = Tensor::from_inner(seen.input.clone());
        if objective == Loss::AttentionWeights {
            let (Mixer::Hedgehog(own), Mixer::Softmax(parent)) = (&mixer, teacher) else {
                panic!("attention weights are imitated by mixers with a feature map");
            };
            let parent = parent.weights(seen.input.clone(), &seen.context);
            return attention_weights(own.weights(input, &context), Tensor::from_inner(parent), weights);
        }
        let (features, output) = mixer.mix_features(input, &context);
        if let Some(moments) = &mut self.moments {
            moments.add(features.inner(), unbiased(&self.mixer.output().valid(), seen), seen.weights.clone());
        }
        let target = Tensor::from_inner(seen.output.clone());
        if objective == Loss::Cosine { cosine(output, target, weights) } else { normalised_mse(output, target, weights) }
    }

    /// Gradients of what is to be trained: attention weights teach the feature map alone.
    fn wanted(&self, mut gradients: B::Gradients, objective: Loss) -> GradientsParams {
        if let (Loss::AttentionWeights, Mixer::Hedgehog(own)) = (objective, &self.mixer) {
            return GradientsParams::from_params(&mut gradients, &self.mixer, &[own.q_map.id, own.k_map.id]);
        }
        GradientsParams::from_module(&mut gradients, &self.mixer)
    }
}

/// The states where the student is.
fn moved<B: Backend>(seen: Seen<B>, device: &B::Device) -> Seen<B> {
    if seen.input.device() == *device {
        return seen;
    }
    let mut context = seen.context;
    context.rotary = context.rotary.map(|Rotary { cos, sin }| Rotary { cos: cos.to_device(device), sin: sin.to_device(device) });
    context.tokens = context.tokens.map(|tokens| tokens.to_device(device));
    Seen {
        context,
        input: seen.input.to_device(device),
        output: seen.output.to_device(device),
        weights: seen.weights.map(|weights| weights.to_device(device)),
    }
}

/// The context as the autodiff backend wants it; nothing in it is differentiated.
fn tracked<B: TrainBackend>(context: &Context<B::InnerBackend>) -> Context<B> {
    Context {
        positions: context.positions.clone(),
        rotary: context.rotary.clone().map(|Rotary { cos, sin }| Rotary { cos: Tensor::from_inner(cos), sin: Tensor::from_inner(sin) }),
        tokens: context.tokens.clone().map(Tensor::from_inner),
    }
}

/// Sum of the squares of all gradients; `None` without any.
fn norm<B: TrainBackend>(mixer: &Mixer<B>, gradients: &GradientsParams) -> Option<Tensor<B::InnerBackend, 1>> {
    struct Sum<'a, B: TrainBackend>(&'a GradientsParams, Option<Tensor<B::InnerBackend, 1>>);
    impl<B: TrainBackend> burn::module::ModuleVisitor<B> for Sum<'_, B> {
        fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<B, D>>) {
            if let Some(gradient) = self.0.get::<B::InnerBackend, D>(param.id) {
                let own = gradient.square().sum();
                self.1 = Some(self.1.take().map_or(own.clone(), |sum| sum + own));
            }
        }
    }
    let mut sum = Sum::<B>(gradients, None);
    Module::<B>::visit(mixer, &mut sum);
    sum.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spikes_and_what_is_no_number_are_refused_and_slow_down() {
        let mut standing = Standing::default();
        assert!((0..KNOWN).all(|_| standing.takes(1.0, 1.0)));
        assert!(!standing.takes(5.0, 1.0) && !standing.takes(f32::NAN, 1.0) && !standing.takes(1.0, f32::INFINITY));
        assert!((standing.caution - 0.125).abs() < 1e-12);
        assert!(standing.takes(1.1, 1.0), "the next one is usual again");
        assert!(standing.caution < 0.2);
        assert!((0..60).all(|_| standing.takes(1.0, 1.0)));
        assert!((standing.caution - 1.0).abs() < 1e-12, "after enough good steps they are as long as ever");
        // A very good student meets a row that is not as easy.
        let mut good = Standing::default();
        assert!((0..KNOWN).all(|_| good.takes(1e-4, 1.0)) && good.takes(0.04, 1.0));
        // A level that stays is a new level.
        assert_eq!((0..20).filter(|_| standing.takes(50.0, 1.0)).count(), 20 - REFUSALS);
    }

    #[test]
    fn a_student_without_progress_is_done() {
        let mut standing = Standing::default();
        for loss in [1.0, 0.9, 0.899, 0.8, 0.799, 0.798] {
            standing.report(loss, Some(3));
            assert!(!standing.done);
        }
        standing.report(0.797, Some(3));
        assert!(standing.done);
        let mut standing = Standing::default();
        (0..50).for_each(|_| standing.report(1.0, None));
        assert!(!standing.done, "without patience nobody stops early");
    }
}
