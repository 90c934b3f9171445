//! safetensors into a module: every parameter filled, every tensor used, shapes checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::module::{ModuleMapper, Param};
use burn::prelude::*;
use burn::tensor::DType;
use safetensors::{Dtype, SafeTensors};

use super::names::{self, Naming};
use crate::error::CheckpointError;

/// Fills `module` from one file that holds exactly its parameters.
///
/// # Errors
/// If the file is damaged or holds other tensors.
pub fn load_module<B: Backend, M: Module<B>>(module: M, path: &Path, device: &B::Device) -> Result<M, CheckpointError> {
    load(module, &Naming::LLAMA, &[path.to_path_buf()], path, |_| false, device)
}

/// Fills `module` from `files` together; tensors that `ignored` knows may be left over.
pub(super) fn load<B: Backend, M: Module<B>>(
    module: M,
    naming: &'static Naming,
    files: &[PathBuf],
    shown: &Path,
    ignored: impl Fn(&str) -> bool,
    device: &B::Device,
) -> Result<M, CheckpointError> {
    let mut buffers = Vec::with_capacity(files.len());
    for path in files {
        buffers.push(std::fs::read(path).map_err(|source| CheckpointError::Io { action: "read", path: path.clone(), source })?);
    }
    let mut tensors = BTreeMap::new();
    for (path, buffer) in files.iter().zip(&buffers) {
        let file =
            SafeTensors::deserialize(buffer).map_err(|error| CheckpointError::Damaged { path: path.clone(), reason: error.to_string() })?;
        tensors.extend(file.tensors());
    }
    let mut loader = Loader { tensors, used: BTreeSet::new(), path: names::Path::new(naming), missing: vec![], wrong: None, shown, device };
    let module = module.map(&mut loader);
    let Loader { tensors, used, missing, wrong, .. } = loader;
    if let Some(error) = wrong {
        return Err(error);
    }
    let extra: Vec<_> = tensors.into_keys().filter(|name| !used.contains(name) && !ignored(name)).collect();
    if missing.is_empty() && extra.is_empty() { Ok(module) } else { Err(CheckpointError::Tensors { path: shown.into(), missing, extra }) }
}

struct Loader<'a, B: Backend> {
    tensors: BTreeMap<String, safetensors::tensor::TensorView<'a>>,
    used: BTreeSet<String>,
    path: names::Path,
    missing: Vec<String>,
    wrong: Option<CheckpointError>,
    shown: &'a Path,
    device: &'a B::Device,
}

impl<B: Backend> Loader<'_, B> {
    fn read<const D: usize>(&mut self, shape: [usize; D]) -> Option<Tensor<B, D>> {
        let mut names = self.path.names();
        let name = names.swap_remove(names.iter().position(|name| self.tensors.contains_key(name)).unwrap_or(0));
        let transposed = self.path.is_transposed();
        let Some(view) = self.tensors.get(&name) else {
            self.missing.push(name);
            return None;
        };
        let mut expected = shape.to_vec();
        let (part, parts) = self.path.part();
        let width = shape[D - 1];
        expected[D - 1] *= parts;
        if transposed {
            expected.reverse();
        }
        if view.shape() != expected {
            let found = view.shape().to_vec();
            self.wrong.get_or_insert(CheckpointError::Shape { path: self.shown.into(), name, expected, found });
            return None;
        }
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                let found = format!("{other:?}");
                self.wrong.get_or_insert(CheckpointError::DType { path: self.shown.into(), name, found });
                return None;
            }
        };
        let data = TensorData::from_bytes_vec(view.data().to_vec(), expected, dtype).convert::<B::FloatElem>();
        self.used.insert(name);
        let tensor = Tensor::<B, D>::from_data(data, self.device);
        if parts > 1 {
            return Some(contiguous(tensor.narrow(D - 1, part * width, width)));
        }
        // Written out once, so that no product has to go through a transposed view.
        Some(if transposed { contiguous(tensor.transpose()) } else { tensor })
    }
}

fn contiguous<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Tensor<B, D> {
    let (device, data) = (tensor.device(), tensor.into_data());
    Tensor::from_data(data, &device)
}

impl<B: Backend> ModuleMapper<B> for Loader<'_, B> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        match self.read(param.lazy_shape().dims()) {
            Some(tensor) => Param::from_tensor(tensor),
            None => param,
        }
    }
}
