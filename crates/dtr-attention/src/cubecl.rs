//! The backends of CubeCL (CUDA, ROCm, Metal, Vulkan, WebGPU): composed forms only.

use burn_cubecl::element::BoolElement;
use burn_cubecl::{CubeBackend, CubeRuntime, FloatElement, IntElement};
use burn_fusion::{Fusion, FusionBackend};

use crate::backend::MixerBackend;

impl<R: CubeRuntime, F: FloatElement, I: IntElement, T: BoolElement> MixerBackend for CubeBackend<R, F, I, T> {}

impl<B: FusionBackend + MixerBackend> MixerBackend for Fusion<B> {}
