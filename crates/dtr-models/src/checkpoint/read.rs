//! safetensors into a module, tensor by tensor: beside the weights themselves, only a strip of one is in memory.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use burn::module::{ModuleMapper, Param};
use burn::prelude::*;
use burn::tensor::FloatDType;
use dtr_attention::precision::like;

use super::fit;
use super::names::{self, Naming};
use super::numbers::{Layout, Number, read_numbers};
use super::source::{self, Stock, Stored};
use crate::error::CheckpointError;

/// Fills `module` from one file that holds exactly its parameters.
///
/// # Errors
/// If the file is damaged or holds other tensors.
pub fn load_module<B: Backend, M: Module<B>>(module: M, path: &Path, device: &B::Device) -> Result<M, CheckpointError> {
    load(module, &Naming::LLAMA, source::of_file(path)?, path, |_| false, None, device)
}

/// Fills `module` from `stock`, in the element type `dtype` if that is asked for; tensors that `ignored` knows may be left over.
pub(super) fn load<B: Backend, M: Module<B>>(
    module: M,
    naming: &'static Naming,
    stock: Stock,
    shown: &Path,
    ignored: impl Fn(&str) -> bool,
    dtype: Option<FloatDType>,
    device: &B::Device,
) -> Result<M, CheckpointError> {
    fit::require(&module, naming, &stock, shown, ignored)?;
    let mut loader = Loader::<B> { stock, path: names::Path::new(naming), open: None, failed: None, dtype, device };
    let module = module.map(&mut loader);
    loader.failed.map_or(Ok(module), Err)
}

struct Loader<'a, B: Backend> {
    stock: Stock,
    path: names::Path,
    /// The shard that was read last.
    open: Option<(Arc<Path>, File)>,
    /// What could not be read; nothing is read behind it.
    failed: Option<CheckpointError>,
    dtype: Option<FloatDType>,
    device: &'a B::Device,
}

impl<B: Backend> Loader<'_, B> {
    fn tensor<const D: usize>(&mut self, shape: [usize; D]) -> Result<Tensor<B, D>, CheckpointError> {
        let stored = self.path.names().iter().find_map(|name| self.stock.get(name)).cloned().expect("all that is needed is there");
        let number = Number::of(stored.dtype).expect("a type that weights are read from");
        let (rows, columns) = (stored.shape[0], stored.shape[1..].iter().product());
        let layout = if self.path.is_transposed() { Layout::Transposed } else { Layout::AsStored };
        let numbers = self
            .file(&stored)
            .and_then(|file| read_numbers(file, number, [rows, columns], layout))
            .map_err(|source| CheckpointError::Io { action: "read", path: stored.file.to_path_buf(), source })?;
        // Of a tensor that holds several side by side, the columns of this one.
        let (part, parts) = self.path.part();
        let width = shape[D - 1];
        let numbers = if parts == 1 {
            numbers
        } else {
            numbers.chunks(parts * width).flat_map(|row| &row[part * width..(part + 1) * width]).copied().collect()
        };
        let tensor = Tensor::from_data(TensorData::new(numbers, shape), self.device);
        Ok(match self.dtype {
            Some(dtype) => like(tensor, dtype.into()),
            None => tensor,
        })
    }

    /// The file of a tensor, at its first byte.
    fn file(&mut self, stored: &Stored) -> std::io::Result<&mut File> {
        let open = self.open.take().filter(|(path, _)| *path == stored.file);
        let open = open.map_or_else(|| File::open(&stored.file).map(|file| (stored.file.clone(), file)), Ok)?;
        let (_, file) = self.open.insert(open);
        file.seek(SeekFrom::Start(stored.begin))?;
        Ok(file)
    }
}

impl<B: Backend> ModuleMapper<B> for Loader<'_, B> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if self.failed.is_some() {
            return param;
        }
        match self.tensor(param.lazy_shape().dims()) {
            Ok(tensor) => Param::from_tensor(tensor),
            Err(error) => {
                self.failed = Some(error);
                param
            }
        }
    }
}
