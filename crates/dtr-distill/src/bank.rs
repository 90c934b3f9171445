//! Trained students on disk, one file a layer and operator, and hybrids put together from them.

use std::path::PathBuf;

use burn::prelude::*;
use dtr_models::checkpoint::{load_module, save_module};
use dtr_models::{AttentionShape, CheckpointError, Mixer, MixerConfig};

/// A directory of students.
#[derive(Debug, Clone)]
pub struct StudentBank {
    directory: PathBuf,
}

impl StudentBank {
    /// The bank in `directory`.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// File of one student: `<operator>/layer-NN.safetensors`.
    pub fn path(&self, layer: usize, operator: &MixerConfig) -> PathBuf {
        self.directory.join(operator.name()).join(format!("layer-{layer:02}.safetensors"))
    }

    /// Whether the student is there.
    pub fn contains(&self, layer: usize, operator: &MixerConfig) -> bool {
        self.path(layer, operator).exists()
    }

    /// Writes a student; the file is complete or absent.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save<B: Backend>(&self, layer: usize, operator: &MixerConfig, student: &Mixer<B>) -> Result<(), CheckpointError> {
        let path = self.path(layer, operator);
        let directory = self.directory.join(operator.name());
        std::fs::create_dir_all(&directory).map_err(|source| CheckpointError::Io { action: "create", path: directory, source })?;
        save_module(student, &path)
    }

    /// Reads a student.
    ///
    /// # Errors
    /// If the file is missing, damaged or of another shape.
    pub fn load<B: Backend>(
        &self,
        layer: usize,
        operator: &MixerConfig,
        shape: &AttentionShape,
        device: &B::Device,
    ) -> Result<Mixer<B>, CheckpointError> {
        load_module(operator.init(shape, device), &self.path(layer, operator), device)
    }
}
