//! safetensors into a module: beside the weights themselves, only a strip of a tensor for each thread is in memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;

use burn::module::{ModuleMapper, Param};
use burn::prelude::*;
use burn::tensor::FloatDType;
use dtr_attention::precision::like;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::fit::{self, Origin};
use super::names::Naming;
use super::numbers::read_numbers;
use super::source::{self, Stock};
use crate::error::CheckpointError;

/// Numbers that are read by all threads together before the module takes them, tensor by tensor. A backend whose tensors lie elsewhere has
/// as many twice.
const AHEAD: usize = 1 << 24;

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
    let origins = fit::require(&module, naming, &stock, shown, ignored)?;
    // Twice as many as compute: while one waits for the disk, another converts.
    let readers = ThreadPoolBuilder::new().num_threads(2 * rayon::current_num_threads()).build().ok();
    let mut loader = Loader::<B> { origins: origins.into(), read: VecDeque::new(), readers, failed: None, dtype, device };
    let module = module.map(&mut loader);
    loader.failed.map_or(Ok(module), Err)
}

struct Loader<'a, B: Backend> {
    /// Of the parameters that are not read yet.
    origins: VecDeque<Origin>,
    /// Numbers of the parameters that come next.
    read: VecDeque<Vec<f32>>,
    /// Threads that read; the common ones where there can be no more.
    readers: Option<ThreadPool>,
    /// What could not be read; nothing is read behind it.
    failed: Option<CheckpointError>,
    dtype: Option<FloatDType>,
    device: &'a B::Device,
}

impl<B: Backend> Loader<'_, B> {
    fn tensor<const D: usize>(&mut self, shape: [usize; D]) -> Result<Tensor<B, D>, CheckpointError> {
        if self.read.is_empty() {
            let mut total = 0;
            let mut fits = |origin: &Origin| {
                let first = total == 0;
                total += origin.stored.shape.iter().product::<usize>().max(1);
                first || total <= AHEAD
            };
            let count = self.origins.iter().map_while(|origin| fits(origin).then_some(())).count();
            let next: Vec<Origin> = self.origins.drain(..count).collect();
            let read = || next.par_iter().map(numbers).collect::<Result<_, _>>();
            self.read = self.readers.as_ref().map_or_else(read, |readers| readers.install(read))?;
        }
        let numbers = self.read.pop_front().expect("every parameter has an origin");
        let tensor = Tensor::from_data(TensorData::new(numbers, shape), self.device);
        Ok(match self.dtype {
            Some(dtype) => like(tensor, dtype.into()),
            None => tensor,
        })
    }
}

/// The numbers of a parameter.
fn numbers(origin: &Origin) -> Result<Vec<f32>, CheckpointError> {
    let Origin { stored, number, layout, part: (part, parts) } = origin;
    let (rows, columns) = (stored.shape[0], stored.shape[1..].iter().product());
    let read = || {
        let mut file = File::open(&stored.file)?;
        file.seek(SeekFrom::Start(stored.begin))?;
        read_numbers(&mut file, *number, [rows, columns], *layout)
    };
    let numbers = read().map_err(|source| CheckpointError::Io { action: "read", path: stored.file.to_path_buf(), source })?;
    if *parts == 1 {
        return Ok(numbers);
    }
    // Of a tensor that holds several side by side, the columns of this one.
    let whole = stored.shape[stored.shape.len() - 1];
    let width = whole / parts;
    Ok(numbers.chunks(whole).flat_map(|row| &row[part * width..(part + 1) * width]).copied().collect())
}

impl<B: Backend> ModuleMapper<B> for Loader<'_, B> {
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
