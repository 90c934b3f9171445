//! Where the tensors of a checkpoint lie. Headers and index are checked here, before memory is taken for a single weight.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::{INDEX, PICKLES, WEIGHTS};
use crate::error::CheckpointError;

/// Bytes of a header at most, as the format has it.
const LONGEST_HEADER: u64 = 100_000_000;
/// Bytes in front of the header, which hold its length.
const LENGTH: u64 = 8;

/// A tensor in a file.
#[derive(Debug, Clone)]
pub struct Stored {
    pub(super) file: Arc<Path>,
    /// Its type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// First byte in the file.
    pub(super) begin: u64,
}

/// Tensors by name.
pub(super) type Stock = BTreeMap<String, Stored>;

/// The tensors of the model in `directory`, and the file that names them in errors.
pub(super) fn of_model(directory: &Path) -> Result<(Stock, PathBuf), CheckpointError> {
    let index = directory.join(INDEX);
    if index.exists() {
        return Ok((of_shards(directory, &index)?, index));
    }
    let single = directory.join(WEIGHTS);
    if !single.exists()
        && let Some(path) = PICKLES.map(|name| directory.join(name)).into_iter().find(|path| path.exists())
    {
        return Err(CheckpointError::Pickle { path });
    }
    Ok((of_file(&single)?, single))
}

/// The tensors of the model in `directory` by name, as the headers of its files describe them.
///
/// # Errors
/// If a file is missing or damaged.
pub fn stored(directory: &Path) -> Result<BTreeMap<String, Stored>, CheckpointError> {
    of_model(directory).map(|(stock, _)| stock)
}

/// Names of the shards that the index in `directory` lists, each once.
///
/// # Errors
/// If there is no index, or none that can be read.
pub fn shards(directory: &Path) -> Result<Vec<String>, CheckpointError> {
    let listed = listed(&directory.join(INDEX))?;
    Ok(listed.into_values().collect::<BTreeSet<_>>().into_iter().collect())
}

/// Whether all weight files of the model in `directory` are there; what is in them is seen when they are read.
pub fn has_weights(directory: &Path) -> bool {
    directory.join(WEIGHTS).exists() || shards(directory).is_ok_and(|shards| shards.iter().all(|shard| directory.join(shard).exists()))
}

/// The tensors of one safetensors file: its header fits into it, and what the header describes fills the rest exactly.
pub(super) fn of_file(path: &Path) -> Result<Stock, CheckpointError> {
    let failed = |source| CheckpointError::Io { action: "read", path: path.into(), source };
    let damaged = |reason: String| CheckpointError::Damaged { path: path.into(), reason };
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut length = [0; LENGTH as usize];
    file.read_exact(&mut length).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged(format!("it has {size} bytes, fewer than the length of a header takes")),
        _ => failed(error),
    })?;
    let length = u64::from_le_bytes(length);
    let room = size.saturating_sub(LENGTH).min(LONGEST_HEADER);
    if length > room {
        return Err(damaged(format!("its header has {length} bytes, where at most {room} can be")));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(failed)?;
    let Unique(mut tensors) = serde_json::from_slice::<Unique<TensorInfo>>(&header).map_err(|error| damaged(format!("header: {error}")))?;
    tensors.sort_by_key(|(_, tensor)| tensor.data_offsets);
    // Sizes that overflow, gaps, overlaps, and shapes that do not have as many bytes as their offsets say are refused here.
    let metadata = Metadata::new(None, tensors.clone()).map_err(|error| damaged(error.to_string()))?;
    let (begin, described) = (LENGTH + length, metadata.data_len() as u64);
    if size - begin != described {
        return Err(damaged(format!("it has {} bytes of weights, its header describes {described}", size - begin)));
    }
    let file: Arc<Path> = path.into();
    let stored = |tensor: TensorInfo| Stored {
        file: file.clone(),
        dtype: tensor.dtype,
        shape: tensor.shape,
        begin: begin + tensor.data_offsets.0 as u64,
    };
    Ok(tensors.into_iter().map(|(name, tensor)| (name, stored(tensor))).collect())
}

/// The shard of each tensor, as `index` lists it.
fn listed(index: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: Unique<String>,
    }
    let wrong = |reason: String| CheckpointError::Index { path: index.into(), reason };
    let Index { weight_map: Unique(listed) } =
        serde_json::from_str(&super::read_text(index)?).map_err(|error| wrong(format!("is no index: {error}")))?;
    let plain = |shard: &str| !shard.is_empty() && Path::new(shard).components().all(|part| matches!(part, Component::Normal(_)));
    if let Some((_, shard)) = listed.iter().find(|(_, shard)| !plain(shard)) {
        return Err(wrong(format!("names the shard \"{shard}\", which is no path below its own directory")));
    }
    Ok(listed.into_iter().collect())
}

/// The tensors of all shards that `index` lists, each in the shard it is listed in.
fn of_shards(directory: &Path, index: &Path) -> Result<Stock, CheckpointError> {
    let wrong = |reason: String| CheckpointError::Index { path: index.into(), reason };
    let listed = listed(index)?;
    let shards: BTreeSet<&str> = listed.values().map(String::as_str).collect();
    let mut all = Stock::new();
    for shard in shards {
        for (name, tensor) in of_file(&inside(directory, shard).map_err(wrong)?)? {
            match listed.get(&name) {
                Some(other) if other != shard => {
                    return Err(wrong(format!("lists tensor \"{name}\" in {other}, but it lies in {shard}")));
                }
                _ if all.contains_key(&name) => return Err(wrong(format!("lists shards that both hold tensor \"{name}\""))),
                _ => drop(all.insert(name, tensor)),
            }
        }
    }
    match listed.iter().find(|(name, _)| !all.contains_key(*name)) {
        Some((name, shard)) => Err(wrong(format!("lists tensor \"{name}\" in {shard}, which does not hold it"))),
        None => Ok(all),
    }
}

/// The path of a shard, which may be no link out of the index's own directory.
fn inside(directory: &Path, shard: &str) -> Result<PathBuf, String> {
    let path = directory.join(shard);
    let real = path.canonicalize().map_err(|error| format!("names the shard \"{shard}\", which cannot be opened: {error}"))?;
    let root = directory.canonicalize().map_err(|error| format!("lies in a directory that cannot be opened: {error}"))?;
    // The cache of the hub holds `snapshots/<commit>/` of links into `blobs/` beside it.
    let cache =
        root.parent().filter(|parent| parent.ends_with("snapshots")).and_then(Path::parent).map(|repository| repository.join("blobs"));
    if real.starts_with(&root) || cache.is_some_and(|blobs| real.starts_with(blobs)) {
        return Ok(path);
    }
    Err(format!("names the shard \"{shard}\", a link that leads out of its directory to {}", real.display()))
}

/// A JSON object whose names are all different: of twins, a plain map would silently keep the last. `__metadata__` is left out.
struct Unique<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Unique<V>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
                formatter.write_str("an object with an entry a tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut entries, mut names) = (Vec::new(), BTreeSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if !names.insert(name.clone()) {
                        return Err(de::Error::custom(format!("tensor \"{name}\" is there twice")));
                    }
                    entries.push((name, map.next_value()?));
                }
                Ok(Unique(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}
