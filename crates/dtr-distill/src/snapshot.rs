//! The state of a training run on disk, so that one that was broken off goes on where it stood, to the same students.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use burn::optim::adaptor::OptimizerAdaptor;
use burn::optim::{AdamW, Optimizer};
use burn::prelude::*;
use burn::record::{FullPrecisionSettings, NamedMpkBytesRecorder, Recorder};
use burn::tensor::backend::AutodiffBackend;
use dtr_models::checkpoint::write_file;
use dtr_models::{CheckpointError, Mixer};
use serde::{Deserialize, Serialize};

use crate::error::DistillError;

/// Written last: a snapshot without it is not complete.
const CLOCK: &str = "clock.json";

type Optimiser<B> = OptimizerAdaptor<AdamW, Mixer<B>, B>;
type Record<B> = (<Mixer<B> as Module<B>>::Record, <Optimiser<B> as Optimizer<Mixer<B>, B>>::Record);

/// How far a training run is.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Clock {
    /// Steps done.
    pub step: usize,
    /// Tokens trained on.
    pub tokens: usize,
    /// Time it took, over all starts.
    pub seconds: f64,
}

#[derive(Serialize, Deserialize)]
struct Stamp {
    key: String,
    clock: Clock,
}

/// Snapshots of one training run: `<directory>/<step>/<operator>-NN.mpk`, the latest complete one and nothing else.
#[derive(Debug, Clone)]
pub struct Snapshots {
    directory: PathBuf,
    key: String,
    every: Duration,
}

impl Snapshots {
    /// Snapshots in `directory`, which is theirs alone, at least `every` apart. `key` says what the run depends on: what was
    /// stored under another key is not used.
    pub fn new(directory: PathBuf, key: String, every: Duration) -> Self {
        Self { directory, key, every }
    }

    /// Time between two snapshots.
    pub fn every(&self) -> Duration {
        self.every
    }

    /// How far the stored run is; from the start, if none is stored.
    ///
    /// # Errors
    /// If the directory is there but cannot be read.
    pub fn clock(&self) -> Result<Clock, DistillError> {
        let steps = self.steps()?.into_iter().filter_map(|path| self.stamp(&path)).map(|stamp| stamp.clock);
        Ok(steps.max_by_key(|clock| clock.step).unwrap_or_default())
    }

    /// A student and its optimiser as they were at `clock`.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn load<B: AutodiffBackend>(
        &self,
        clock: Clock,
        name: &str,
        mixer: Mixer<B>,
        optimiser: Optimiser<B>,
        device: &B::Device,
    ) -> Result<(Mixer<B>, Optimiser<B>), DistillError> {
        let path = self.at(clock).join(file(name));
        let bytes = fs::read(&path).map_err(|source| CheckpointError::Io { action: "read", path: path.clone(), source })?;
        let record: Record<B> = Recorder::<B>::load(&NamedMpkBytesRecorder::<FullPrecisionSettings>::default(), bytes, device)
            .map_err(|error| CheckpointError::Damaged { path, reason: error.to_string() })?;
        Ok((mixer.load_record(record.0), optimiser.load_record(record.1)))
    }

    /// Stores a student and its optimiser as they are at `clock`; they count once [`Self::complete`] says so.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn save<B: AutodiffBackend>(
        &self,
        clock: Clock,
        name: &str,
        mixer: &Mixer<B>,
        optimiser: &Optimiser<B>,
    ) -> Result<(), DistillError> {
        let directory = self.at(clock);
        let path = directory.join(file(name));
        let record: Record<B> = (mixer.clone().into_record(), optimiser.to_record());
        let bytes = Recorder::<B>::record(&NamedMpkBytesRecorder::<FullPrecisionSettings>::default(), record, ())
            .map_err(|error| CheckpointError::Damaged { path: path.clone(), reason: error.to_string() })?;
        fs::create_dir_all(&directory).map_err(|source| CheckpointError::Io { action: "create", path: directory, source })?;
        Ok(write_file(&path, &bytes)?)
    }

    /// All students are stored: the snapshot of `clock` is the one to go on from, earlier ones are removed.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn complete(&self, clock: Clock) -> Result<(), DistillError> {
        let current = self.at(clock);
        let path = current.join(CLOCK);
        let stamp = serde_json::to_vec(&Stamp { key: self.key.clone(), clock }).map_err(|error| CheckpointError::Io {
            action: "write",
            path: path.clone(),
            source: error.into(),
        })?;
        write_file(&path, &stamp)?;
        for path in self.steps()?.into_iter().filter(|path| *path != current) {
            remove(&path)?;
        }
        Ok(())
    }

    /// Removes what is stored.
    ///
    /// # Errors
    /// If that is not possible.
    pub fn clear(&self) -> Result<(), DistillError> {
        remove(&self.directory)
    }

    fn at(&self, clock: Clock) -> PathBuf {
        self.directory.join(clock.step.to_string())
    }

    fn steps(&self) -> Result<Vec<PathBuf>, DistillError> {
        let unreadable = |source| CheckpointError::Io { action: "read", path: self.directory.clone(), source };
        match fs::read_dir(&self.directory) {
            Ok(entries) => Ok(entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(unreadable)?),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(unreadable(error).into()),
        }
    }

    fn stamp(&self, path: &Path) -> Option<Stamp> {
        let stamp: Stamp = serde_json::from_slice(&fs::read(path.join(CLOCK)).ok()?).ok()?;
        (stamp.key == self.key).then_some(stamp)
    }
}

fn file(name: &str) -> String {
    format!("{name}.mpk")
}

fn remove(path: &Path) -> Result<(), DistillError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(CheckpointError::Io { action: "remove", path: path.into(), source }.into())
        }
        _ => Ok(()),
    }
}
