//! Files that are complete or absent, whenever the process is killed: temporary name, fsync, rename, fsync of the directory.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::error::Error;

/// How names of temporaries begin and end.
const TEMPORARY: (&str, &str) = (".dtr-", ".tmp");

/// Writes `bytes` to `path`, replacing what is there at once. Missing directories are made.
///
/// # Errors
/// [`Error::Io`] naming `path`. What was at `path` before is then untouched, and no temporary stays behind.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(directory).map_err(|source| Error::Io { action: "create the directory", path: directory.to_owned(), source })?;
    let temporary = temporary_in(directory);
    write_through(&temporary, path, directory, bytes).map_err(|(action, source)| {
        // The first error is the one to report; a temporary that cannot be removed now is removed on the next start.
        let _ = fs::remove_file(&temporary);
        Error::Io { action, path: path.to_owned(), source }
    })
}

/// Removes the temporaries that killed processes left in `directory`, and `below` it as well. No other process may be writing there.
///
/// # Errors
/// [`Error::Io`] when a directory cannot be read or a temporary not be removed.
pub fn remove_temporaries(directory: &Path, below: bool) -> Result<(), Error> {
    let reading = |source| Error::Io { action: "read", path: directory.to_owned(), source };
    for entry in fs::read_dir(directory).map_err(reading)? {
        let entry = entry.map_err(reading)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type().map_err(reading)?.is_dir() {
            if below {
                remove_temporaries(&entry.path(), below)?;
            }
        } else if name.starts_with(TEMPORARY.0) && name.ends_with(TEMPORARY.1) {
            fs::remove_file(entry.path()).map_err(|source| Error::Io {
                action: "remove the temporary file",
                path: entry.path(),
                source,
            })?;
        }
    }
    Ok(())
}

/// A name that no other thread or process uses.
fn temporary_in(directory: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let (begin, end) = TEMPORARY;
    directory.join(format!("{begin}{}-{count}{end}", std::process::id()))
}

fn write_through(temporary: &Path, path: &Path, directory: &Path, bytes: &[u8]) -> Result<(), (&'static str, std::io::Error)> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(temporary)
        .map_err(|error| ("create a temporary file beside", error))?;
    file.write_all(bytes).map_err(|error| ("write", error))?;
    file.sync_all().map_err(|error| ("write to the disk", error))?;
    drop(file);
    fs::rename(temporary, path).map_err(|error| ("move the finished file to", error))?;
    sync_directory(directory).map_err(|error| ("write to the disk the entry of", error))
}

/// Without this, a power cut can forget the rename.
#[cfg(unix)]
fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Directories cannot be opened as files here; the file system journals the rename.
#[cfg(not(unix))]
fn sync_directory(_directory: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn writes_and_replaces_without_leaving_temporaries() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("below/a.json");
        write(&path, b"a longer first text").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(path.parent().unwrap()), ["a.json"]);
    }

    #[test]
    fn failure_removes_the_temporary_and_names_the_path() {
        let directory = tempfile::tempdir().unwrap();
        // A directory in the way: everything succeeds up to the rename.
        fs::create_dir_all(directory.path().join("a.json/in-the-way")).unwrap();
        let error = write(&directory.path().join("a.json"), b"x").unwrap_err();
        assert!(error.to_string().ends_with("a.json"), "{error}");
        assert_eq!(names(directory.path()), ["a.json"]);
    }

    #[test]
    fn leftovers_of_a_kill_are_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("students/gated-delta");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("layer-00.safetensors"), "kept").unwrap();
        fs::write(below.join(".lock"), "kept").unwrap();
        fs::write(temporary_in(&below), "half").unwrap();
        remove_temporaries(directory.path(), false).unwrap();
        assert_eq!(names(&below).len(), 3);
        remove_temporaries(directory.path(), true).unwrap();
        assert_eq!(names(&below), [".lock", "layer-00.safetensors"]);
    }
}
