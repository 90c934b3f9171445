//! The optimisers of one student: its matrices by `AdamW`, with Nesterov's momentum or without, or by Muon, with weight decay, and all else
//! by `AdamW` without decay.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::adaptor::OptimizerAdaptor;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::{AdjustLrFn, GradientsParams, Muon, MuonConfig, Optimizer};
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;
use dtr_attention::TrainBackend;
use dtr_models::Mixer;
use serde::{Deserialize, Serialize};

use crate::adamw::AdamW;

/// What moves the matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimiser {
    /// Loshchilov and Hutter, arXiv 1711.05101.
    #[default]
    AdamW,
    /// The same with Nesterov's momentum. Dozat, "Incorporating Nesterov momentum into Adam", 2016.
    NAdamW,
    /// Orthogonalised momentum, its steps as large as `AdamW`'s: the same learning rate does for both. Liu et al., arXiv 2502.16982.
    Muon,
}

type Adaptor<O, B> = OptimizerAdaptor<O, Mixer<B>, B>;

/// Both groups.
#[derive(Clone)]
pub(crate) struct Optimisers<B: TrainBackend> {
    kind: Optimiser,
    /// Largest learning rate.
    rate: f64,
    adam: Adaptor<AdamW, B>,
    muon: Adaptor<Muon<B::InnerBackend>, B>,
    others: Adaptor<AdamW, B>,
}

type RecordOf<O, B> = <Adaptor<O, B> as Optimizer<Mixer<B>, B>>::Record;

/// What they remember: of the matrices by either, and of the others.
pub(crate) type OptimisersRecord<B> = (RecordOf<AdamW, B>, (RecordOf<Muon<<B as AutodiffBackend>::InnerBackend>, B>, RecordOf<AdamW, B>));

impl<B: TrainBackend> Optimisers<B> {
    pub fn new(kind: Optimiser, rate: f64, weight_decay: f32) -> Self {
        let nesterov = kind == Optimiser::NAdamW;
        let muon = MuonConfig::new().with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW);
        Self {
            kind,
            rate,
            adam: AdamW { decay: f64::from(weight_decay), nesterov }.into(),
            muon: muon.with_weight_decay(Some(WeightDecayConfig::new(weight_decay))).init(),
            others: AdamW { decay: 0.0, nesterov }.into(),
        }
    }

    /// A step at a share of the largest learning rate.
    pub fn step(&mut self, share: f64, mixer: Mixer<B>, gradients: GradientsParams) -> Mixer<B> {
        let rate = share * self.rate;
        let mut split = Split { from: gradients, matrices: GradientsParams::new() };
        Module::<B>::visit(&mixer, &mut split);
        let mixer = match self.kind {
            Optimiser::AdamW | Optimiser::NAdamW => self.adam.step(rate, mixer, split.matrices),
            Optimiser::Muon => self.muon.step(rate, mixer, split.matrices),
        };
        self.others.step(rate, mixer, split.from)
    }

    pub fn to_record(&self) -> OptimisersRecord<B> {
        (self.adam.to_record(), (self.muon.to_record(), self.others.to_record()))
    }

    pub fn load_record(self, (adam, (muon, others)): OptimisersRecord<B>) -> Self {
        Self {
            kind: self.kind,
            rate: self.rate,
            adam: self.adam.load_record(adam),
            muon: self.muon.load_record(muon),
            others: self.others.load_record(others),
        }
    }
}

/// Takes the gradients of matrices out.
struct Split {
    from: GradientsParams,
    matrices: GradientsParams,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Split {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if D == 2
            && let Some(gradient) = self.from.remove::<B::InnerBackend, D>(param.id)
        {
            self.matrices.register::<B::InnerBackend, D>(param.id, gradient);
        }
    }
}
