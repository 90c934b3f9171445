//! The backend ndarray: composed forms only.

use burn::backend::NdArray;

use crate::backend::MixerBackend;

impl MixerBackend for NdArray {}
