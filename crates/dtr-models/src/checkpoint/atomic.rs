//! Files that are complete or absent.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::error::CheckpointError;

/// Writes under a temporary name beside `path`, syncs, renames. An earlier file stays whole until then.
///
/// # Errors
/// If anything fails, the disk being full for example; the temporary file is removed.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    write_by(path, |temporary| fs::write(temporary, bytes))
}

/// The same for what writes itself into the file of a given name.
///
/// # Errors
/// If anything fails; the temporary file is removed.
pub(crate) fn write_by(path: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), CheckpointError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let written = fill(&temporary)
        .and_then(|()| File::options().write(true).open(&temporary)?.sync_all())
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| {
        // The first error is the one to tell of.
        let _ = fs::remove_file(&temporary);
        CheckpointError::Io { action: "write", path: path.into(), source }
    })
}
