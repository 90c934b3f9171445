//! From a device's name to a Burn backend: the only place where backends are named.

#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal", feature = "cuda", feature = "rocm"))]
mod cards;
pub mod memory;

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::backend::Autodiff;
use burn::prelude::*;
use burn::tensor::FloatDType;
use dtr_attention::TrainBackend;
use serde::Serialize;

use crate::error::Error;
use crate::schema::{Compute, Device, Precision};

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

impl Compute {
    /// The device asked for or, where none is named, the first one built in.
    ///
    /// # Errors
    /// If none is.
    pub fn or_default(device: Option<Device>, dtype: Precision) -> Result<Self, Error> {
        let built = || BUILT.first().and_then(|name| name.parse().ok());
        Ok(Self { device: device.or_else(built).ok_or_else(|| not_built(Device::Flex))?, dtype })
    }
}

/// Runs `work` on a device, after a first small computation there has shown that it works. Tensors are made in single precision where their
/// maker says nothing else; models are brought into `dtype` by whoever reads them.
///
/// # Errors
/// If the device is not built in, not there, or does not know the element type.
pub fn dispatch<W: Work>(compute: Compute, work: W) -> Result<W::Output, Error> {
    match compute.device {
        #[cfg(feature = "flex")]
        Device::Flex => start::<Autodiff<burn::backend::Flex>, W>(compute, work, || Ok(Default::default())),
        #[cfg(feature = "ndarray")]
        Device::NdArray => start::<Autodiff<burn::backend::NdArray>, W>(compute, work, || Ok(Default::default())),
        #[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
        Device::Wgpu(index) | Device::Vulkan(index) | Device::Metal(index) if BUILT.contains(&compute.device.feature()) => {
            start::<Autodiff<burn::backend::Wgpu>, W>(compute, work, move || match index {
                None => Ok(Default::default()),
                Some(index) => nth(cards::all(), index),
            })
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(index) => start::<Autodiff<burn::backend::Cuda>, W>(compute, work, move || {
            let count = burn::backend::Cuda::<f32>::device_count(0);
            nth((0..count).map(burn::backend::cuda::CudaDevice::new).collect(), index.unwrap_or(0))
        }),
        #[cfg(feature = "rocm")]
        Device::Rocm(index) => start::<Autodiff<burn::backend::Rocm>, W>(compute, work, move || {
            let count = burn::backend::Rocm::<f32>::device_count(0);
            nth((0..count).map(burn::backend::rocm::RocmDevice::new).collect(), index.unwrap_or(0))
        }),
        #[allow(unreachable_patterns, reason = "with every feature on, nothing is left")]
        _ => Err(not_built(compute.device)),
    }
}

fn not_built(device: Device) -> Error {
    Error::NotBuilt { device: device.to_string(), feature: device.feature(), built: BUILT.join(", ") }
}

#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal", feature = "cuda", feature = "rocm"))]
fn nth<D>(mut devices: Vec<D>, index: usize) -> Result<D, String> {
    if index < devices.len() {
        return Ok(devices.swap_remove(index));
    }
    Err(match devices.len() {
        0 => "no such device is there".into(),
        1 => "there is one, number 0".into(),
        count => format!("there are {count}, numbers 0 to {}", count - 1),
    })
}

/// What panics inside, as text: drivers report a device that is not there by panicking, some only at the first computation.
fn quietly<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let earlier = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let done = catch_unwind(AssertUnwindSafe(work));
    std::panic::set_hook(earlier);
    done.unwrap_or_else(|panic| Err(message(&*panic)))
}

/// What a panic says.
pub fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it failed without a word").to_owned()
}

fn start<B: TrainBackend, W: Work>(
    Compute { device: name, dtype: precision }: Compute,
    work: W,
    device: impl FnOnce() -> Result<B::Device, String>,
) -> Result<W::Output, Error> {
    let missing = |reason| Error::NoDevice { device: name.to_string(), reason };
    let device = quietly(device).map_err(missing)?;
    let known = quietly(|| Ok(precisions::<B>(&device))).map_err(missing)?;
    if !known.contains(&precision) {
        let known: Vec<&str> = known.into_iter().map(Precision::name).collect();
        return Err(Error::NoPrecision { device: name.to_string(), precision: precision.name(), known: known.join(", ") });
    }
    quietly(|| {
        let two = Tensor::<B, 1>::ones([2], &device).cast(FloatDType::from(precision)).sum().into_scalar().elem::<f32>();
        if (two - 2.0).abs() < f32::EPSILON { Ok(()) } else { Err("it adds wrongly".into()) }
    })
    .map_err(missing)?;
    Ok(work.run::<B>(device))
}

/// What a device can compute in.
fn precisions<B: Backend>(device: &B::Device) -> Vec<Precision> {
    Precision::ALL
        .into_iter()
        .filter(|&precision| precision == Precision::F32 || B::supports_dtype(device, FloatDType::from(precision).into()))
        .collect()
}

/// A device that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Present {
    /// What an experiment calls it.
    pub device: String,
    /// What its driver calls it.
    pub name: String,
    /// What it can compute in.
    pub dtypes: Vec<Precision>,
    /// Bytes of memory, if the driver tells.
    pub memory: Option<u64>,
    /// Bytes of the largest single tensor, if there is a limit.
    pub largest_tensor: Option<u64>,
}

/// What a backend that is built in finds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The backend's feature.
    pub backend: &'static str,
    /// Its devices; where it failed, what its driver says.
    pub devices: Result<Vec<Present>, String>,
}

/// The devices of all backends built in.
pub fn devices() -> Vec<Found> {
    BUILT.iter().map(|&backend| Found { backend, devices: quietly(|| Ok(present(backend))) }).collect()
}

fn present(feature: &str) -> Vec<Present> {
    match feature {
        #[cfg(feature = "flex")]
        "flex" => vec![processor::<burn::backend::Flex>(feature)],
        #[cfg(feature = "ndarray")]
        "ndarray" => vec![processor::<burn::backend::NdArray>(feature)],
        #[cfg(feature = "cuda")]
        "cuda" => {
            let count = burn::backend::Cuda::<f32>::device_count(0);
            let device = burn::backend::cuda::CudaDevice::new;
            (0..count)
                .map(|index| cards::present::<burn::backend::Cuda, burn_cubecl::cubecl::cuda::CudaRuntime>(feature, index, &device(index)))
                .collect()
        }
        #[cfg(feature = "rocm")]
        "rocm" => {
            let count = burn::backend::Rocm::<f32>::device_count(0);
            let device = burn::backend::rocm::RocmDevice::new;
            (0..count)
                .map(|index| cards::present::<burn::backend::Rocm, burn_cubecl::cubecl::hip::HipRuntime>(feature, index, &device(index)))
                .collect()
        }
        #[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
        "wgpu" | "vulkan" | "metal" => cards::adapters(feature),
        _ => Vec::new(),
    }
}

/// The processor through a backend that computes in the process's own memory.
#[cfg(any(feature = "flex", feature = "ndarray"))]
fn processor<B: Backend>(feature: &str) -> Present {
    let system = sysinfo::System::new_with_specifics(
        sysinfo::RefreshKind::nothing()
            .with_memory(sysinfo::MemoryRefreshKind::nothing().with_ram())
            .with_cpu(sysinfo::CpuRefreshKind::nothing()),
    );
    let brand = system.cpus().first().map_or("", |cpu| cpu.brand()).trim();
    let name = if brand.is_empty() { std::env::consts::ARCH } else { brand };
    Present {
        device: feature.into(),
        name: format!("{name}, {} cores", system.cpus().len()),
        dtypes: precisions::<B>(&Default::default()),
        memory: Some(system.total_memory()),
        largest_tensor: None,
    }
}
