//! A module into safetensors, under Hugging Face names.

use std::path::Path;

use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::atomic;
use super::names::{self, Naming};
use crate::error::CheckpointError;

/// Writes the parameters of `module` into one file.
///
/// # Errors
/// If the file cannot be written.
pub fn save_module<B: Backend, M: Module<B>>(module: &M, path: &Path) -> Result<(), CheckpointError> {
    save(path, module, &Naming::LLAMA)
}

pub(super) fn save<B: Backend, M: Module<B>>(path: &Path, module: &M, naming: &'static Naming) -> Result<(), CheckpointError> {
    let mut collector = Collector { tensors: Vec::new(), path: names::Path::new(naming) };
    module.visit(&mut collector);
    let views = collector.tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).expect("the bytes are those of the shape");
        (name.clone(), view)
    });
    let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).expect("names and shapes are serialisable");
    atomic::write(path, &bytes)
}

struct Collector {
    tensors: Vec<(String, Vec<usize>, Vec<u8>)>,
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
        let data = tensor.into_data().convert::<f32>();
        let name = self.path.name();
        match self.tensors.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, known, bytes)) => beside(known, bytes, data.as_bytes(), shape[D - 1]),
            None => self.tensors.push((name, shape, data.as_bytes().to_vec())),
        }
    }
}

/// Puts `more`, rows of `width` numbers, to the right of a tensor that the file holds as one.
fn beside(shape: &mut [usize], bytes: &mut Vec<u8>, more: &[u8], width: usize) {
    let last = shape.len() - 1;
    let (own, added) = (shape[last] * size_of::<f32>(), width * size_of::<f32>());
    *bytes = bytes.chunks(own).zip(more.chunks(added)).flat_map(|(left, right)| [left, right].concat()).collect();
    shape[last] += width;
}
