//! `AdamW` as Burn's optimisers are, its step one operation.

use burn::optim::{LearningRate, SimpleOptimizer};
use burn::prelude::*;
use burn::record::Record;
use dtr_attention::MixerBackend;
use dtr_attention::adamw::{self, Step};

/// Decay of the first and the second moment: runs are short, the second forgets sooner than usual.
const BETAS: [f64; 2] = [0.9, 0.9];

/// Added to the root of the second moment.
const EPS: f64 = 1e-8;

/// Loshchilov and Hutter, arXiv 1711.05101.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamW {
    /// Decoupled weight decay.
    pub decay: f64,
}

/// What it remembers of a parameter.
#[derive(Record, Clone)]
pub(crate) struct Moments<B: Backend, const D: usize> {
    time: usize,
    first: Tensor<B, D>,
    second: Tensor<B, D>,
}

impl<B: MixerBackend> SimpleOptimizer<B> for AdamW {
    type State<const D: usize> = Moments<B, D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        weight: Tensor<B, D>,
        grad: Tensor<B, D>,
        state: Option<Moments<B, D>>,
    ) -> (Tensor<B, D>, Option<Moments<B, D>>) {
        let Moments { time, first, second } =
            state.unwrap_or_else(|| Moments { time: 0, first: weight.zeros_like(), second: weight.zeros_like() });
        let time = time + 1;
        let step = Step { rate, decay: self.decay, betas: BETAS, eps: EPS, time };
        let (weight, [first, second]) = adamw::step(weight, grad, [first, second], step);
        (weight, Some(Moments { time, first, second }))
    }

    fn to_device<const D: usize>(state: Moments<B, D>, device: &B::Device) -> Moments<B, D> {
        Moments { time: state.time, first: state.first.to_device(device), second: state.second.to_device(device) }
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Autodiff;
    use burn::optim::AdamWConfig;
    use burn_flex::Flex;

    use super::*;

    fn numbers<B: Backend>(seed: usize) -> Tensor<B, 2> {
        let values: Vec<f32> = (0..33 * 7).map(|i| ((i * 37 + seed * 71) % 101) as f32 / 50.0 - 1.0).collect();
        // Not as they stand in memory.
        Tensor::<B, 2>::from_data(TensorData::new(values, [7, 33]), &Default::default()).transpose()
    }

    fn as_burn<B: MixerBackend>() {
        let reference = AdamWConfig::new().with_beta_2(0.9).with_epsilon(1e-8).with_weight_decay(0.1).build();
        let (mut own, mut other) = ((numbers::<B>(0), None), (numbers::<B>(0), None));
        for step in 1..6 {
            let rate = 0.01 * step as f64;
            own = AdamW { decay: 0.1 }.step(rate, own.0, numbers(step), own.1);
            other = SimpleOptimizer::step(&reference, rate, other.0, numbers(step), other.1);
            let difference: f32 = (own.0.clone() - other.0.clone()).abs().max().into_scalar().elem();
            assert!(difference < 1e-6, "{difference} after {step} steps");
        }
        let moved: f32 = (own.0 - numbers(0)).abs().max().into_scalar().elem();
        assert!(moved > 0.05, "{moved}");
    }

    #[test]
    fn fused_and_composed_it_is_what_burn_has() {
        as_burn::<Flex>();
        as_burn::<Autodiff<Flex>>();
    }
}
