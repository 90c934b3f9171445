//! The backend ndarray: composed forms only.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::{Autodiff, NdArray};

use crate::backend::MixerBackend;

impl MixerBackend for NdArray {}

impl<C: CheckpointStrategy> MixerBackend for Autodiff<NdArray, C> {}
