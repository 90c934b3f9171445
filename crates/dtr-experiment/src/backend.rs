//! From a device's name to a Burn backend: the only place where backends are named.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::backend::Autodiff;
use burn::prelude::*;
use dtr_attention::TrainBackend;
use dtr_experiment::Error;
use dtr_experiment::schema::Device;

/// Work that runs on any backend.
pub trait Work {
    /// What comes of it.
    type Output;

    /// Does it.
    fn run<B: TrainBackend>(self, device: B::Device) -> Self::Output;
}

/// Features this binary was built with.
const BUILT: &[&str] = &[
    #[cfg(feature = "flex")]
    "flex",
    #[cfg(feature = "ndarray")]
    "ndarray",
    #[cfg(feature = "wgpu")]
    "wgpu",
    #[cfg(feature = "vulkan")]
    "vulkan",
    #[cfg(feature = "metal")]
    "metal",
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "rocm")]
    "rocm",
];

/// The device that is taken where none is named: the first one built in.
pub fn default_device() -> Result<Device, Error> {
    BUILT.first().and_then(|name| name.parse().ok()).ok_or_else(|| not_built(Device::Flex))
}

/// Runs `work` on `device`, after a first small computation there has shown that it works.
pub fn dispatch<W: Work>(device: Device, work: W) -> Result<W::Output, Error> {
    match device {
        #[cfg(feature = "flex")]
        Device::Flex => start::<Autodiff<burn::backend::Flex>, W>(device, work, Default::default),
        #[cfg(feature = "ndarray")]
        Device::NdArray => start::<Autodiff<burn::backend::NdArray>, W>(device, work, Default::default),
        #[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
        Device::Wgpu(index) | Device::Vulkan(index) | Device::Metal(index) if BUILT.contains(&device.feature()) => {
            use burn::backend::wgpu::WgpuDevice;
            let chosen = move || index.map_or(WgpuDevice::DefaultDevice, WgpuDevice::DiscreteGpu);
            start::<Autodiff<burn::backend::Wgpu>, W>(device, work, chosen)
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(index) => {
            start::<Autodiff<burn::backend::Cuda>, W>(device, work, move || burn::backend::cuda::CudaDevice::new(index.unwrap_or(0)))
        }
        #[cfg(feature = "rocm")]
        Device::Rocm(index) => {
            start::<Autodiff<burn::backend::Rocm>, W>(device, work, move || burn::backend::rocm::RocmDevice::new(index.unwrap_or(0)))
        }
        #[allow(unreachable_patterns, reason = "with every feature on, nothing is left")]
        _ => Err(not_built(device)),
    }
}

fn not_built(device: Device) -> Error {
    Error::NotBuilt { device: device.to_string(), feature: device.feature(), built: BUILT.join(", ") }
}

/// Drivers report a device that is not there by panicking, some only at the first computation.
fn start<B: TrainBackend, W: Work>(name: Device, work: W, device: impl FnOnce() -> B::Device) -> Result<W::Output, Error> {
    let earlier = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let probed = catch_unwind(AssertUnwindSafe(|| {
        let device = device();
        let two = Tensor::<B, 1>::ones([2], &device).sum().into_scalar().elem::<f32>();
        ((two - 2.0).abs() < f32::EPSILON).then_some(device)
    }));
    std::panic::set_hook(earlier);
    let reason = match probed {
        Ok(Some(device)) => return Ok(work.run::<B>(device)),
        Ok(None) => "it adds wrongly".to_owned(),
        Err(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "its driver failed".into()),
    };
    Err(Error::NoDevice { device: name.to_string(), reason })
}
