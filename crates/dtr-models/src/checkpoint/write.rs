//! A module into safetensors, under Hugging Face names.

use std::path::Path;

use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;

use super::tensors::{HostTensor, Tensors};
use super::{atomic, names};
use crate::error::CheckpointError;

/// Writes the parameters of `module` into one file.
///
/// # Errors
/// If the file cannot be written.
pub fn save_module<B: Backend, M: Module<B>>(module: &M, path: &Path) -> Result<(), CheckpointError> {
    write(path, &tensors(module))
}

/// The parameters of `module` in host memory, under their names in files.
pub fn tensors<B: Backend, M: Module<B>>(module: &M) -> Tensors {
    let mut collector = Collector::default();
    module.visit(&mut collector);
    collector.tensors
}

/// Writes tensors into one file, one after the other.
pub(super) fn write(path: &Path, tensors: &Tensors) -> Result<(), CheckpointError> {
    let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    atomic::write_by(path, |temporary| safetensors::serialize_to_file(tensors, Some(metadata), temporary).map_err(std::io::Error::other))
}

#[derive(Default)]
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
        let values = tensor.into_data().convert::<f32>().into_vec().expect("converted to f32");
        self.tensors.insert(self.path.name(), HostTensor { shape, values });
    }
}
