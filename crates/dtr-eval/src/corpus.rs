//! Rust text from the sources of the workspace's own locked dependencies, split by whole file.
//!
//! A file's split is FNV-1a 64 of `crate/relative/path` modulo 10: 0 is validation, 1 test, the rest training. It does not
//! depend on other files, their order, or the machine. Files of 400 to 100 000 bytes count, in the order of that hash, up to
//! a number of bytes for each crate and split: the same selection that the bundled parent was trained on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use dtr_models::Tokenizer;

use crate::error::EvalError;
use crate::random::fnv1a;
use crate::task::Split;

/// Size of a file that counts, exclusive, in bytes.
const FILE_BYTES: (u64, u64) = (400, 100_000);

/// Bytes a crate gives to a split at most.
fn room(split: Split) -> u64 {
    match split {
        Split::Training => 500_000,
        Split::Validation | Split::Test => 120_000,
    }
}

/// Where the sources of each locked dependency lie on this machine.
#[derive(Debug, Clone)]
pub struct Sources {
    manifest: PathBuf,
    roots: BTreeMap<String, PathBuf>,
}

impl Sources {
    /// Asks cargo about the workspace of `manifest`.
    ///
    /// # Errors
    /// If cargo cannot be run or has not got the sources.
    pub fn locate(manifest: &Path) -> Result<Self, EvalError> {
        let failed = |reason: String| EvalError::Metadata { manifest: manifest.into(), reason };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        // What only other platforms need has not been fetched by a build; and the workspace says which cargo it is.
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "host-tuple", "--manifest-path"])
            .arg(manifest)
            .current_dir(manifest.parent().unwrap_or(Path::new("")))
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))?;
        let packages = metadata["packages"].as_array().ok_or_else(|| failed("it lists no packages".into()))?;
        let mut roots: BTreeMap<String, (Vec<u64>, PathBuf)> = BTreeMap::new();
        for package in packages {
            let (Some(name), Some(version), Some(path)) =
                (package["name"].as_str(), package["version"].as_str(), package["manifest_path"].as_str())
            else {
                continue;
            };
            let root = Path::new(path).parent().unwrap_or(Path::new("")).to_path_buf();
            // Of several versions, the newest: the one that the bundled parent's training script took.
            let version: Vec<u64> = version.split(['.', '+', '-']).map_while(|part| part.parse().ok()).collect();
            let entry = roots.entry(name.to_owned()).or_insert((version.clone(), root.clone()));
            if version > entry.0 {
                *entry = (version, root);
            }
        }
        Ok(Self { manifest: manifest.into(), roots: roots.into_iter().map(|(name, (_, root))| (name, root)).collect() })
    }

    fn root(&self, name: &str) -> Result<&Path, EvalError> {
        let unknown = || EvalError::UnknownCrate { name: name.into(), manifest: self.manifest.clone() };
        self.roots.get(name).map(PathBuf::as_path).ok_or_else(unknown)
    }
}

/// One source file, tokenised when it is first needed.
#[derive(Debug)]
pub struct SourceFile {
    /// Bytes of text.
    pub bytes: usize,
    text: String,
    tokens: OnceLock<Vec<u32>>,
}

impl SourceFile {
    /// The file's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The file's tokens.
    ///
    /// # Panics
    /// If the tokenizer refuses text, which byte-level and byte-fallback tokenizers never do.
    pub fn tokens(&self, tokenizer: &Tokenizer) -> &[u32] {
        self.tokens.get_or_init(|| tokenizer.encode(&self.text).expect("a byte-level tokenizer takes any text"))
    }
}

/// The files of one crate in one split.
///
/// # Errors
/// If the crate is not a locked dependency or a file cannot be read.
pub fn files(sources: &Sources, name: &str, split: Split) -> Result<Vec<SourceFile>, EvalError> {
    let root = sources.root(name)?;
    let mut paths = Vec::new();
    walk(root, &mut paths)?;
    let mut keyed: Vec<(u64, PathBuf)> = paths
        .into_iter()
        .filter_map(|path| {
            let relative =
                path.strip_prefix(root).ok()?.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
            Some((fnv1a(format!("{name}/{relative}")), path))
        })
        .filter(|(hash, _)| split_of(*hash) == split)
        .collect();
    keyed.sort();
    let mut left = room(split);
    let mut files = Vec::new();
    for (_, path) in keyed {
        let bytes = std::fs::metadata(&path).map_err(|source| EvalError::Io { path: path.clone(), source })?.len();
        if FILE_BYTES.0 < bytes && bytes < FILE_BYTES.1 && left > 0 {
            let text = std::fs::read(&path).map_err(|source| EvalError::Io { path, source })?;
            let text = String::from_utf8_lossy(&text).into_owned();
            files.push(SourceFile { bytes: text.len(), text, tokens: OnceLock::new() });
            left = left.saturating_sub(bytes);
        }
    }
    Ok(files)
}

/// Split of the file with this hash.
pub(crate) fn split_of(hash: u64) -> Split {
    match hash % 10 {
        0 => Split::Validation,
        1 => Split::Test,
        _ => Split::Training,
    }
}

fn walk(directory: &Path, paths: &mut Vec<PathBuf>) -> Result<(), EvalError> {
    let failed = |source| EvalError::Io { path: directory.into(), source };
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            walk(&path, paths)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_and_split_are_those_of_the_parents_training_script() {
        // Values of the reference FNV-1a test vectors, and a path by hand.
        assert_eq!(fnv1a(""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(fnv1a("a"), 0xAF63_DC4C_8601_EC8C);
        assert_eq!(fnv1a("foobar"), 0x8594_4171_F739_67E8);
        assert_eq!(split_of(20), Split::Validation);
        assert_eq!(split_of(21), Split::Test);
        assert_eq!(split_of(29), Split::Training);
    }
}
