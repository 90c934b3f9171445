//! A module into safetensors, under Hugging Face names.

use std::collections::btree_map::Entry;
use std::path::Path;

use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;

use super::atomic;
use super::names::{self, Naming};
use super::tensors::{HostTensor, Tensors};
use crate::error::CheckpointError;

/// Writes the parameters of `module` into one file.
///
/// # Errors
/// If the file cannot be written.
pub fn save_module<B: Backend, M: Module<B>>(module: &M, path: &Path) -> Result<(), CheckpointError> {
    write(path, &tensors(module, &Naming::LLAMA))
}

/// The parameters of `module` in host memory, under their names in files.
pub(super) fn tensors<B: Backend, M: Module<B>>(module: &M, naming: &'static Naming) -> Tensors {
    let mut collector = Collector { tensors: Tensors::new(), path: names::Path::new(naming) };
    module.visit(&mut collector);
    collector.tensors
}

/// Writes tensors into one file, one after the other.
pub(super) fn write(path: &Path, tensors: &Tensors) -> Result<(), CheckpointError> {
    let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    atomic::write_by(path, |temporary| safetensors::serialize_to_file(tensors, Some(metadata), temporary).map_err(std::io::Error::other))
}

struct Collector {
    tensors: Tensors,
    path: names::Path,
}

impl<B: Backend> ModuleVisitor<B> for Collector {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let tensor = param.val();
        let tensor = if self.path.is_transposed() { tensor.transpose() } else { tensor };
        let shape = tensor.dims().to_vec();
        let values: Vec<f32> = tensor.into_data().convert::<f32>().into_vec().expect("converted to f32");
        match self.tensors.entry(self.path.name()) {
            Entry::Vacant(place) => drop(place.insert(HostTensor { shape, values })),
            Entry::Occupied(place) => beside(place.into_mut(), &values, shape[D - 1]),
        }
    }
}

/// Puts `more`, rows of `width` numbers, to the right of a tensor that the file holds as one.
fn beside(tensor: &mut HostTensor, more: &[f32], width: usize) {
    let last = tensor.shape.len() - 1;
    let rows = tensor.values.chunks(tensor.shape[last]).zip(more.chunks(width));
    tensor.values = rows.flat_map(|(left, right)| [left, right].concat()).collect();
    tensor.shape[last] += width;
}
