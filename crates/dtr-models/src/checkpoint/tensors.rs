//! Tensors in host memory under their names in files: what checkpoints are written from and what exports rearrange.

use std::borrow::Cow;
use std::collections::BTreeMap;

use safetensors::{Dtype, View};

/// The weights of a model by name, projections as `[out, in]`.
pub type Tensors = BTreeMap<String, HostTensor>;

/// Numbers in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Extent of each dimension, the slowest first.
    pub shape: Vec<usize>,
    /// The numbers.
    pub values: Vec<f32>,
}

impl HostTensor {
    /// Every number through `f`.
    #[must_use]
    pub fn map(mut self, f: impl Fn(f32) -> f32) -> Self {
        for value in &mut self.values {
            *value = f(*value);
        }
        self
    }

    /// A tensor of this shape that is 0 everywhere.
    #[must_use]
    pub fn zeros_like(&self) -> Self {
        Self { shape: self.shape.clone(), values: vec![0.0; self.values.len()] }
    }

    /// `parts` equal pieces along the first dimension.
    ///
    /// # Panics
    /// If it cannot be divided so.
    #[must_use]
    pub fn split(&self, parts: usize) -> Vec<Self> {
        assert!(self.shape[0].is_multiple_of(parts), "{} rows in {parts} parts", self.shape[0]);
        let shape: Vec<usize> = std::iter::once(self.shape[0] / parts).chain(self.shape[1..].iter().copied()).collect();
        self.values.chunks(self.values.len() / parts).map(|values| Self { shape: shape.clone(), values: values.to_vec() }).collect()
    }

    /// The rows of `parts` group by group: those of the first group of each part, then those of the second group of each, and so on.
    /// One group puts the parts one behind the other.
    ///
    /// # Panics
    /// If a part cannot be divided into `groups`.
    #[must_use]
    pub fn by_group(groups: usize, parts: &[&Self]) -> Self {
        let pieces: Vec<Vec<Self>> = parts.iter().map(|part| part.split(groups)).collect();
        let values = (0..groups).flat_map(|group| pieces.iter().flat_map(move |piece| piece[group].values.iter().copied())).collect();
        let rows = parts.iter().map(|part| part.shape[0]).sum();
        Self { shape: std::iter::once(rows).chain(parts[0].shape[1..].iter().copied()).collect(), values }
    }
}

impl View for &HostTensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        4 * self.values.len()
    }
}
