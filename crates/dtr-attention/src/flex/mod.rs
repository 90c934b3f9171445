//! Fused kernels for the CPU backend flex.

use burn_flex::Flex;

use crate::backend::MixerBackend;

impl MixerBackend for Flex {}
