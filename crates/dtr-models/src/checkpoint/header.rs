//! What weight files say of themselves: names, shapes and types, without a look at the numbers.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensorError};

use super::weight_files;
use crate::error::CheckpointError;

/// One weight of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// Its type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// The weights of the model in `directory`, by name.
///
/// # Errors
/// If a file is missing, or its header or length is wrong.
pub fn stored(directory: &Path) -> Result<Vec<Stored>, CheckpointError> {
    let mut weights = Vec::new();
    for path in weight_files(directory)?.0 {
        let (metadata, rest) = read(&path)?;
        if metadata.data_len() as u64 != rest {
            let reason = format!("its header tells of {} bytes of weights, {rest} follow", metadata.data_len());
            return Err(CheckpointError::Damaged { path, reason });
        }
        let found = metadata.tensors().into_iter();
        weights.extend(found.map(|(name, info)| Stored { name, dtype: info.dtype, shape: info.shape.clone() }));
    }
    weights.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(weights)
}

/// The header, and the number of bytes behind it.
fn read(path: &Path) -> Result<(Metadata, u64), CheckpointError> {
    const LONGEST: u64 = 100_000_000;
    let io = |source| CheckpointError::Io { action: "read", path: path.into(), source };
    let damaged = |reason: String| CheckpointError::Damaged { path: path.into(), reason };
    let mut file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let mut prefix = [0; 8];
    file.read_exact(&mut prefix).map_err(|_| damaged(SafeTensorError::HeaderTooSmall.to_string()))?;
    let header = u64::from_le_bytes(prefix);
    let rest = length.checked_sub(8).and_then(|rest| rest.checked_sub(header)).filter(|_| header <= LONGEST);
    let rest = rest.ok_or_else(|| damaged(SafeTensorError::InvalidHeaderLength.to_string()))?;
    let mut text = vec![0; header as usize];
    file.read_exact(&mut text).map_err(io)?;
    Ok((serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?, rest))
}
