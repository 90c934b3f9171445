//! What the tests share: golden files, comparisons, the device.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::prelude::*;
use burn::tensor::DType;
use dtr_models::{Decoder, DecoderConfig, MixerConfig, checkpoint};
use safetensors::{Dtype, SafeTensors};

/// Backend of the tests.
pub type Inner = burn_flex::Flex;
/// The same with gradients.
pub type Train = burn::backend::Autodiff<Inner>;

/// Directory of the golden files.
pub fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(path)
}

/// The bundled parent.
pub fn tiny_qwen3() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/models/tiny-qwen3")
}

/// Tensors of one golden file.
pub struct Golden {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Golden {
    /// Reads `golden/<path>`.
    ///
    /// # Panics
    /// If it is not there.
    pub fn open(path: &str) -> Self {
        let bytes = std::fs::read(golden(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let tensors =
            file.tensors().into_iter().map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))).collect();
        Self { tensors }
    }

    /// Names in the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Number of dimensions of a tensor, if there is one of that name.
    pub fn rank(&self, name: &str) -> Option<usize> {
        self.tensors.get(name).map(|(_, shape, _)| shape.len())
    }

    /// A float tensor.
    ///
    /// # Panics
    /// If there is none of that name and rank.
    pub fn float<B: Backend, const R: usize>(&self, name: &str) -> Tensor<B, R> {
        let (dtype, shape, bytes) = self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}"));
        assert_eq!(*dtype, Dtype::F32, "{name}");
        let data = TensorData::from_bytes_vec(bytes.clone(), shape.clone(), DType::F32);
        Tensor::from_data(data.convert::<B::FloatElem>(), &B::Device::default())
    }

    /// Rows of whole numbers.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn rows(&self, name: &str) -> Vec<Vec<i64>> {
        let (dtype, shape, bytes) = self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}"));
        assert_eq!(*dtype, Dtype::I64, "{name}");
        let values: Vec<i64> = bytes.chunks_exact(8).map(|eight| i64::from_le_bytes(eight.try_into().expect("eight bytes"))).collect();
        values.chunks(*shape.last().expect("a dimension")).map(<[i64]>::to_vec).collect()
    }
}

/// Ids as a tensor.
pub fn ids<B: Backend>(rows: &[Vec<i64>]) -> Tensor<B, 2, Int> {
    let shape = [rows.len(), rows[0].len()];
    Tensor::from_data(TensorData::new(rows.concat(), shape), &B::Device::default())
}

/// Largest absolute difference.
///
/// # Panics
/// If shapes differ or a number is not finite.
pub fn difference<B: Backend, const R: usize>(a: &Tensor<B, R>, b: &Tensor<B, R>) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let difference = (a.clone() - b.clone()).abs().max().into_scalar().elem::<f32>();
    assert!(difference.is_finite(), "not finite");
    difference
}

/// Fails where `a` is further from `b` than `tolerance` times the larger of 1 and the largest number in `b`.
///
/// # Panics
/// If so.
#[track_caller]
pub fn close<B: Backend, const R: usize>(what: &str, a: &Tensor<B, R>, b: &Tensor<B, R>, tolerance: f32) {
    let scale = b.clone().abs().max().into_scalar().elem::<f32>().max(1.0);
    let found = difference(a, b) / scale;
    assert!(found <= tolerance, "{what}: differs by {found:e}, allowed {tolerance:e}");
}

/// Fails where a number of `a` is further from that of `b` than `tolerance` times it.
///
/// # Panics
/// If so.
#[track_caller]
pub fn close_each<B: Backend, const R: usize>(what: &str, a: &Tensor<B, R>, b: &Tensor<B, R>, tolerance: f32) {
    let found = difference(&(a.clone() / b.clone()), &Tensor::ones(b.dims(), &b.device()));
    assert!(found <= tolerance, "{what}: differs by {found:e} of itself, allowed {tolerance:e}");
}

/// Numbers that look random, the same everywhere: in [-1, 1].
pub fn numbers<B: Backend, const R: usize>(shape: [usize; R], seed: u64) -> Tensor<B, R> {
    let count: usize = shape.iter().product();
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let values: Vec<f32> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), &B::Device::default())
}

/// The parent with other mixers in some layers, as they begin: every kind of state.
///
/// # Panics
/// If the bundled parent is not there.
pub fn mixed() -> Decoder<Inner> {
    let (config, mut model) = checkpoint::load::<Inner>(&tiny_qwen3(), &Default::default()).expect("the bundled parent");
    let others = [
        MixerConfig::SlidingWindow { window: 9, sinks: 2 },
        MixerConfig::Hedgehog {},
        MixerConfig::GatedDelta { convolution: 4, rotary: false },
        MixerConfig::Mamba2 { state: 16, convolution: 4 },
        MixerConfig::LinearMap {},
    ];
    for (layer, other) in others.iter().enumerate() {
        model.layers[layer + 2].mixer = filled(other, &config, layer as u64);
    }
    model
}

fn filled(mixer: &MixerConfig, config: &DecoderConfig, seed: u64) -> dtr_models::Mixer<Inner> {
    struct Fill(u64);
    impl burn::module::ModuleMapper<Inner> for Fill {
        fn map_float<const D: usize>(&mut self, param: burn::module::Param<Tensor<Inner, D>>) -> burn::module::Param<Tensor<Inner, D>> {
            self.0 += 1;
            let shape = param.lazy_shape().dims::<D>();
            let count: usize = shape.iter().product();
            let values: Vec<f32> = (0..count).map(|i| 0.2 * ((i as u64 * 7919 + self.0 * 104_729) as f32 * 0.37).sin()).collect();
            burn::module::Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), &Default::default()))
        }
    }
    mixer.init::<Inner>(&config.attention, &Default::default()).map(&mut Fill(seed))
}
