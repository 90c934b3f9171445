//! The grammar of devices: `flex | ndarray | wgpu[:n] | vulkan[:n] | metal[:n] | cuda[:n] | rocm[:n]`; and what they compute in.

use std::{fmt, str::FromStr};

use burn::tensor::FloatDType;
use serde::{Deserialize, Serialize};

/// Element type of weights and hidden states. Sums that have to be exact (norms, softmax, recurrent states, losses) and weights that are
/// being trained are in single precision whatever it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// Half precision.
    F16,
    /// The upper half of single precision: its range with 8 bits of mantissa.
    Bf16,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// What an experiment calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|precision| precision.name() == text).ok_or_else(|| format!("expected one of {names}"))
    }
}

impl From<Precision> for FloatDType {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::F16 => Self::F16,
            Precision::Bf16 => Self::BF16,
        }
    }
}

/// What an experiment computes on; the number picks one of several such devices, none means the default one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor, by Burn's portable backend.
    Flex,
    /// The processor, by `ndarray`.
    NdArray,
    /// A graphics card by the graphics interface that WebGPU finds.
    Wgpu(Option<usize>),
    /// A graphics card by Vulkan.
    Vulkan(Option<usize>),
    /// A graphics card by Metal.
    Metal(Option<usize>),
    /// A graphics card by CUDA.
    Cuda(Option<usize>),
    /// A graphics card by `ROCm`.
    Rocm(Option<usize>),
}

/// Where an experiment computes, and in what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Compute {
    /// The device.
    pub device: Device,
    /// Element type of weights and hidden states.
    pub dtype: Precision,
}

impl fmt::Display for Compute {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dtype {
            Precision::F32 => write!(formatter, "{}", self.device),
            dtype => write!(formatter, "{} in {}", self.device, dtype.name()),
        }
    }
}

/// The text is not of the grammar; `Display` gives the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("one of flex, ndarray, wgpu, vulkan, metal, cuda, rocm; all but the first two may name one of several as in cuda:1")]
pub struct UnknownDevice;

impl Device {
    /// All backends, under the names of their cargo features.
    pub const BACKENDS: [&str; 7] = ["flex", "ndarray", "wgpu", "vulkan", "metal", "cuda", "rocm"];

    /// Name of the cargo feature that this device needs.
    pub fn feature(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::NdArray => "ndarray",
            Self::Wgpu(_) => "wgpu",
            Self::Vulkan(_) => "vulkan",
            Self::Metal(_) => "metal",
            Self::Cuda(_) => "cuda",
            Self::Rocm(_) => "rocm",
        }
    }

    /// Whether it computes in the memory of the process itself.
    pub fn is_host(self) -> bool {
        matches!(self, Self::Flex | Self::NdArray)
    }

    /// Which one of several such devices.
    pub fn index(self) -> Option<usize> {
        match self {
            Self::Flex | Self::NdArray => None,
            Self::Wgpu(index) | Self::Vulkan(index) | Self::Metal(index) | Self::Cuda(index) | Self::Rocm(index) => index,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.feature())?;
        self.index().map_or(Ok(()), |index| write!(formatter, ":{index}"))
    }
}

impl FromStr for Device {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, UnknownDevice> {
        let (kind, index) = match text.split_once(':') {
            Some((kind, index)) => (kind, Some(index.parse().map_err(|_| UnknownDevice)?)),
            None => (text, None),
        };
        match (kind, index) {
            ("flex", None) => Ok(Self::Flex),
            ("ndarray", None) => Ok(Self::NdArray),
            ("wgpu", index) => Ok(Self::Wgpu(index)),
            ("vulkan", index) => Ok(Self::Vulkan(index)),
            ("metal", index) => Ok(Self::Metal(index)),
            ("cuda", index) => Ok(Self::Cuda(index)),
            ("rocm", index) => Ok(Self::Rocm(index)),
            _ => Err(UnknownDevice),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_is_written_as_it_is_read() {
        for kind in ["flex", "ndarray", "wgpu", "vulkan", "metal", "cuda", "rocm"] {
            let device: Device = kind.parse().unwrap();
            assert_eq!((device.to_string().as_str(), device.feature(), device.index()), (kind, kind, None));
        }
        let device: Device = "cuda:3".parse().unwrap();
        assert_eq!((device, device.to_string().as_str()), (Device::Cuda(Some(3)), "cuda:3"));
    }

    #[test]
    fn everything_else_is_refused() {
        for text in ["", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:0:1", "flex:0", "ndarray:1", " flex"] {
            assert_eq!(text.parse::<Device>(), Err(UnknownDevice), "{text:?}");
        }
    }
}
