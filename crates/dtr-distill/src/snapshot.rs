//! The state of a training run on disk, so that one that was broken off goes on where it stood, to the same students.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use burn::prelude::*;
use burn::record::{FullPrecisionSettings, NamedMpkBytesRecorder, Recorder};
use dtr_attention::TrainBackend;
use dtr_models::checkpoint::write_file;
use dtr_models::{CheckpointError, Mixer, MixerConfig};
use serde::{Deserialize, Serialize};

use crate::error::DistillError;
use crate::optimiser::OptimisersRecord;
use crate::pupil::Pupil;

/// Written last: a snapshot without it is not complete.
const CLOCK: &str = "clock.json";

type Record<B> = (<Mixer<B> as Module<B>>::Record, OptimisersRecord<B>);

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

    /// Brings a student and its optimisers to where they were at `clock`.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn load<B: TrainBackend>(
        &self,
        clock: Clock,
        operators: &[MixerConfig],
        pupil: &mut Pupil<B>,
        device: &B::Device,
    ) -> Result<(), DistillError> {
        let path = self.at(clock).join(file(&pupil.name(operators)));
        let bytes = fs::read(&path).map_err(|source| CheckpointError::Io { action: "read", path: path.clone(), source })?;
        let damaged = |reason: String| CheckpointError::Damaged { path: path.clone(), reason };
        let end = bytes.iter().position(|&byte| byte == b'\n').ok_or_else(|| damaged("it has no first line".into()))?;
        pupil.standing = serde_json::from_slice(&bytes[..end]).map_err(|error| damaged(error.to_string()))?;
        let record: Record<B> =
            Recorder::<B>::load(&recorder(), bytes[end + 1..].to_vec(), device).map_err(|error| damaged(error.to_string()))?;
        pupil.mixer = pupil.mixer.clone().load_record(record.0);
        pupil.optimisers = pupil.optimisers.clone().load_record(record.1);
        Ok(())
    }

    /// Stores a student and its optimisers as they are at `clock`; they count once [`Self::complete`] says so.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(crate) fn save<B: TrainBackend>(&self, clock: Clock, operators: &[MixerConfig], pupil: &Pupil<B>) -> Result<(), DistillError> {
        let directory = self.at(clock);
        let path = directory.join(file(&pupil.name(operators)));
        let damaged = |reason: String| CheckpointError::Damaged { path: path.clone(), reason };
        let record: Record<B> = (pupil.mixer.clone().into_record(), pupil.optimisers.to_record());
        let mut bytes = serde_json::to_vec(&pupil.standing).map_err(|error| damaged(error.to_string()))?;
        bytes.push(b'\n');
        bytes.extend(Recorder::<B>::record(&recorder(), record, ()).map_err(|error| damaged(error.to_string()))?);
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

fn recorder() -> NamedMpkBytesRecorder<FullPrecisionSettings> {
    NamedMpkBytesRecorder::default()
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
