//! Tensors of any type by name, as bytes, with a checksum over all of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::{atomic, source};
use crate::error::CheckpointError;

/// Name of the tensor that holds the checksum of the others.
const CHECKSUM: &str = "checksum";

/// A tensor as bytes, little end first.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Raw {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// Writes `tensors` and their checksum.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn write_raw(path: &Path, mut tensors: BTreeMap<String, Raw>) -> Result<(), CheckpointError> {
    let checksum = checksum(&tensors).to_le_bytes().to_vec();
    tensors.insert(CHECKSUM.into(), Raw { dtype: Dtype::U32, shape: vec![1], bytes: checksum });
    let views = tensors.iter().map(|(name, Raw { dtype, shape, bytes })| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).expect("the bytes are those of the shape");
        (name, view)
    });
    let bytes = safetensors::serialize(views, None).expect("names and shapes are serialisable");
    atomic::write(path, &bytes)
}

/// Reads what [`write_raw`] wrote.
///
/// # Errors
/// If the file cannot be read, or is not as it was written.
pub(crate) fn read_raw(path: &Path) -> Result<BTreeMap<String, Raw>, CheckpointError> {
    let failed = |source| CheckpointError::Io { action: "read", path: path.into(), source };
    let stock = source::of_file(path)?;
    let mut file = File::open(path).map_err(failed)?;
    let mut tensors = BTreeMap::new();
    for (name, stored) in stock {
        // The header's sizes are those of the file, so that no more is taken than it has.
        let size = stored.shape.iter().product::<usize>() * stored.dtype.bitsize() / 8;
        let mut bytes = vec![0; size];
        file.seek(SeekFrom::Start(stored.begin)).and_then(|_| file.read_exact(&mut bytes)).map_err(failed)?;
        tensors.insert(name, Raw { dtype: stored.dtype, shape: stored.shape, bytes });
    }
    let written = tensors.remove(CHECKSUM).map(|raw| raw.bytes);
    if written.as_deref() == Some(&checksum(&tensors).to_le_bytes()) {
        return Ok(tensors);
    }
    Err(CheckpointError::Damaged { path: path.into(), reason: "its checksum is not that of its content".into() })
}

fn checksum(tensors: &BTreeMap<String, Raw>) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    for (name, Raw { dtype, shape, bytes }) in tensors {
        hash.update(format!("{name} {dtype:?} {shape:?}").as_bytes());
        hash.update(bytes);
    }
    hash.finalize()
}
