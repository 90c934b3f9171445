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
    /// Nesterov's momentum.
    pub nesterov: bool,
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
        let step = Step { rate, decay: self.decay, betas: BETAS, eps: EPS, time, nesterov: self.nesterov };
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
    use burn_flex::Flex;
    use serde::Deserialize;

    use super::*;

    /// `tests/golden/make_optimiser.py` tells how it was made.
    #[derive(Deserialize)]
    struct Golden {
        decay: f64,
        rates: Vec<f64>,
        start: Vec<f64>,
        gradients: Vec<Vec<f64>>,
        adamw: Vec<f64>,
        nadamw: Vec<f64>,
    }

    fn as_pytorch<B: MixerBackend>() {
        let golden: Golden = serde_json::from_str(include_str!("../../../tests/golden/optimiser.json")).expect("numbers");
        // Not as they stand in memory.
        let of = |values: &[f64]| Tensor::<B, 2>::from_data(TensorData::new(values.to_vec(), [7, 5]), &B::Device::default()).transpose();
        for (nesterov, expected) in [(false, &golden.adamw), (true, &golden.nadamw)] {
            let optimiser = AdamW { decay: golden.decay, nesterov };
            let (mut weight, mut state) = (of(&golden.start), None);
            for (&rate, gradient) in golden.rates.iter().zip(&golden.gradients) {
                (weight, state) = optimiser.step(rate, weight, of(gradient), state);
            }
            let difference: f32 = (weight - of(expected)).abs().max().into_scalar().elem();
            assert!(difference < 1e-6, "{difference}, nesterov {nesterov}");
        }
    }

    #[test]
    fn fused_and_composed_it_is_what_pytorch_has() {
        as_pytorch::<Flex>();
        as_pytorch::<Autodiff<Flex>>();
    }
}
