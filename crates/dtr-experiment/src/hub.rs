//! From where a parent is said to be to the directory it is in: on a hub of models, through the cache that other programs share.

use std::path::PathBuf;

use crate::error::Error;
use crate::schema::Parent;

#[cfg(feature = "hub")]
mod download;

/// What of a model is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// `config.json` alone.
    Configuration,
    /// Weights, tokenizer, and what else travels with a model.
    Everything,
}

/// The directory in which `wanted` of the parent is; what is not there yet is downloaded.
pub(crate) fn directory(parent: &Parent, wanted: Wanted) -> Result<PathBuf, Error> {
    match parent {
        Parent::Directory(path) => Ok(path.clone()),
        Parent::Hub { repository, revision } => from_hub(repository, revision, wanted),
    }
}

#[cfg(feature = "hub")]
fn from_hub(repository: &str, revision: &str, wanted: Wanted) -> Result<PathBuf, Error> {
    download::directory(repository, revision, wanted)
}

#[cfg(not(feature = "hub"))]
fn from_hub(repository: &str, _revision: &str, _wanted: Wanted) -> Result<PathBuf, Error> {
    Err(Error::NoHub { repository: repository.to_owned() })
}
