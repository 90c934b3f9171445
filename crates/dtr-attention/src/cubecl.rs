//! The backends of CubeCL (CUDA, ROCm, Metal, Vulkan, WebGPU): composed forms only.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_cubecl::element::BoolElement;
use burn_cubecl::{CubeBackend, CubeRuntime, FloatElement, IntElement};
use burn_fusion::{Fusion, FusionBackend};

use crate::backend::MixerBackend;

impl<R: CubeRuntime, F: FloatElement, I: IntElement, T: BoolElement> MixerBackend for CubeBackend<R, F, I, T> {}

impl<R: CubeRuntime, F: FloatElement, I: IntElement, T: BoolElement, C: CheckpointStrategy> MixerBackend
    for Autodiff<CubeBackend<R, F, I, T>, C>
{
}

impl<B: FusionBackend + MixerBackend> MixerBackend for Fusion<B> {}

impl<B: FusionBackend + MixerBackend, C: CheckpointStrategy> MixerBackend for Autodiff<Fusion<B>, C> {}
