//! Graphics cards as their drivers describe them.

#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
use burn::backend::wgpu::WgpuDevice;
use burn::prelude::Backend;
use burn_cubecl::cubecl::prelude::Runtime;

use super::{Present, precisions};

/// One device of CUDA or `ROCm`. `CubeCL` lets a buffer have a quarter of the card's memory and tells no more.
#[cfg(any(feature = "cuda", feature = "rocm"))]
pub fn present<B: Backend<Device = R::Device>, R: Runtime>(feature: &str, index: usize, device: &B::Device) -> Present {
    let largest = R::client(device).properties().memory.max_page_size;
    Present {
        device: format!("{feature}:{index}"),
        name: B::name(device),
        dtypes: precisions::<B>(device),
        memory: Some(4 * largest),
        largest_tensor: Some(largest),
    }
}

/// The devices that WebGPU finds, in the order of their numbers: cards first, then what shares the processor's memory, then the processor.
#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
pub fn all() -> Vec<WgpuDevice> {
    let kinds: [fn(usize) -> WgpuDevice; 4] =
        [WgpuDevice::DiscreteGpu, WgpuDevice::IntegratedGpu, WgpuDevice::VirtualGpu, |_| WgpuDevice::Cpu];
    let count = |kind: u16| burn::backend::Wgpu::<f32>::device_count(kind);
    (0..4_u16).zip(kinds).flat_map(|(kind, device)| (0..count(kind)).map(device).collect::<Vec<_>>()).collect()
}

/// The same with what the driver says of them.
#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
pub fn adapters(feature: &str) -> Vec<Present> {
    use burn::backend::wgpu::{WgpuRuntime, graphics::AutoGraphicsApi, init_setup};
    let described = |(index, device): (usize, WgpuDevice)| {
        let adapter = init_setup::<AutoGraphicsApi>(&device, Default::default()).adapter.get_info();
        Present {
            device: format!("{feature}:{index}"),
            name: format!("{} ({:?})", adapter.name, adapter.backend),
            dtypes: precisions::<burn::backend::Wgpu>(&device),
            memory: None,
            largest_tensor: Some(WgpuRuntime::client(&device).properties().memory.max_page_size),
        }
    };
    all().into_iter().enumerate().map(described).collect()
}
