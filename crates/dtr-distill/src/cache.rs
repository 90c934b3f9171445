//! Hidden states on disk: a batch that comes again, or that other students learn from, needs no pass of the parent.
//!
//! One file a batch, `<hash of its tokens>.states`: layer after layer a checksum, the input and the output of its mixer. Read layer by layer,
//! so that no more is in memory than without. What is damaged is computed again; what has no room is not stored, and a disk that is full
//! gets back what was: students need the room more.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use burn::prelude::*;
use burn::tensor::DType;
use dtr_attention::MixerBackend;
use dtr_models::{CheckpointError, Decoder};
use sha2::{Digest, Sha256};

use crate::batch::Batch;
use crate::error::DistillError;
use crate::observe::{Seen, observe};

/// Says whose states these are.
const OWNER: &str = "parent";

/// Hidden states of one parent, in a directory of their own.
#[derive(Debug)]
pub struct StateCache {
    directory: PathBuf,
    /// Bytes there is room for.
    limit: u64,
    used: Cell<u64>,
    /// Why nothing is stored any more.
    full: RefCell<Option<String>>,
}

impl StateCache {
    /// The states in `directory` of the parent that `identity` stands for, up to `limit` bytes of them.
    ///
    /// # Errors
    /// If the directory is another parent's, or cannot be read or made.
    pub fn open(directory: PathBuf, identity: &str, limit: u64) -> Result<Self, DistillError> {
        let io = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| CheckpointError::Io { action, path, source }
        };
        fs::create_dir_all(&directory).map_err(io("create", &directory))?;
        let owner = directory.join(OWNER);
        match fs::read_to_string(&owner) {
            Ok(found) if found == identity => {}
            Ok(found) => return Err(DistillError::OtherCache { directory, expected: identity.into(), found }),
            Err(error) if error.kind() == ErrorKind::NotFound => dtr_models::checkpoint::write_file(&owner, identity.as_bytes())?,
            Err(source) => return Err(io("read", &owner)(source).into()),
        }
        let mut used = 0;
        for entry in fs::read_dir(&directory).map_err(io("read", &directory))? {
            let entry = entry.map_err(io("read", &directory))?;
            if entry.path().extension().is_some_and(|extension| extension == "half") {
                let _ = fs::remove_file(entry.path());
            } else {
                used += entry.metadata().map_err(io("read", &entry.path()))?.len();
            }
        }
        Ok(Self { directory, limit, used: Cell::new(used), full: RefCell::new(None) })
    }

    /// Why nothing is stored any more, told once.
    pub fn complaint(&self) -> Option<String> {
        self.full.take()
    }

    /// As [`observe`] does with the parent as model and teacher; from disk as far as possible, and else stored there.
    pub fn observe<B: MixerBackend>(&self, parent: &Decoder<B>, batch: &Batch<B>, mut show: impl FnMut(usize, Seen<B>)) {
        let path = self.directory.join(format!("{}.states", name(batch)));
        let mut shown = 0;
        if let Ok(file) = File::open(&path) {
            let context = parent.context(batch.positions.clone());
            let device = batch.ids.device();
            let [rows, time] = batch.ids.dims();
            let hidden = [rows, time, parent.hidden()];
            let mut file = BufReader::with_capacity(1 << 20, file);
            for layer in 0..parent.layers.len() {
                let Ok([input, output]) = read(&mut file, hidden.iter().product()) else { break };
                let [input, output] = [input, output]
                    .map(|numbers| Tensor::from_data(TensorData::new(numbers, hidden), (&device, DType::from(parent.dtype()))));
                show(layer, Seen { context: context.clone(), input, output, weights: batch.weights.clone() });
                shown = layer + 1;
            }
            if shown == parent.layers.len() {
                return;
            }
        }
        let mut writer = Writer::new(self, path);
        observe(parent, parent, batch, |layer, seen| {
            writer.add(&seen);
            if layer >= shown {
                show(layer, seen);
            }
        });
        writer.finish();
    }
}

/// Hash of the tokens and where they stand.
fn name<B: Backend>(batch: &Batch<B>) -> String {
    let mut hash = Sha256::new();
    hash.update(batch.ids.dims().map(|size| size as u64).iter().flat_map(|size| size.to_le_bytes()).collect::<Vec<u8>>());
    for token in batch.ids.to_data().convert::<i64>().iter::<i64>() {
        hash.update(token.to_le_bytes());
    }
    for row in 0..batch.positions.rows() {
        hash.update(batch.positions.row(row).iter().flat_map(|position| position.to_le_bytes()).collect::<Vec<u8>>());
    }
    hash.finalize().iter().take(16).fold(String::new(), |name, byte| name + &format!("{byte:02x}"))
}

/// Checksum, input and output of a layer.
fn read(file: &mut impl Read, count: usize) -> std::io::Result<[Vec<f32>; 2]> {
    let mut checksum = [0; 4];
    file.read_exact(&mut checksum)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut part = || -> std::io::Result<Vec<f32>> {
        let mut bytes = vec![0; 4 * count];
        file.read_exact(&mut bytes)?;
        hasher.update(&bytes);
        Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    };
    let parts = [part()?, part()?];
    if hasher.finalize() == u32::from_le_bytes(checksum) { Ok(parts) } else { Err(ErrorKind::InvalidData.into()) }
}

/// Writes one batch, as long as there is room.
struct Writer<'a> {
    cache: &'a StateCache,
    path: PathBuf,
    file: Option<BufWriter<File>>,
    written: u64,
}

impl<'a> Writer<'a> {
    fn new(cache: &'a StateCache, path: PathBuf) -> Self {
        let mut writer = Self { cache, path, file: None, written: 0 };
        if cache.used.get() < cache.limit {
            match File::create(writer.half()) {
                Ok(file) => writer.file = Some(BufWriter::with_capacity(1 << 20, file)),
                Err(error) => writer.give_up(&error),
            }
        }
        writer
    }

    fn half(&self) -> PathBuf {
        self.path.with_extension("half")
    }

    fn add<B: Backend>(&mut self, seen: &Seen<B>) {
        let Some(file) = &mut self.file else { return };
        let bytes = |x: &Tensor<B, 3>| x.to_data().convert::<f32>().iter::<f32>().flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
        let (input, output) = (bytes(&seen.input), bytes(&seen.output));
        self.written += (4 + input.len() + output.len()) as u64;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&input);
        hasher.update(&output);
        let parts = [&hasher.finalize().to_le_bytes()[..], &input, &output];
        let full = self.cache.used.get() + self.written > self.cache.limit;
        if full {
            self.discard();
        } else if let Err(error) = parts.iter().try_for_each(|part| file.write_all(part)) {
            self.give_up(&error);
        }
    }

    fn finish(mut self) {
        let Some(file) = self.file.take() else { return };
        let done = file.into_inner().map_err(std::io::IntoInnerError::into_error).and_then(|file| file.sync_all());
        let before = fs::metadata(&self.path).map_or(0, |found| found.len());
        match done.and_then(|()| fs::rename(self.half(), &self.path)) {
            Ok(()) => self.cache.used.set(self.cache.used.get() + self.written - before),
            Err(error) => self.give_up(&error),
        }
    }

    fn discard(&mut self) {
        self.file = None;
        let _ = fs::remove_file(self.half());
    }

    /// Nothing more is stored, and what is there makes room: on a disk that is full students could not be saved.
    fn give_up(&mut self, error: &std::io::Error) {
        self.discard();
        self.cache.used.set(u64::MAX);
        for entry in fs::read_dir(&self.cache.directory).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "states") {
                let _ = fs::remove_file(entry.path());
            }
        }
        let path = self.path.display();
        *self.cache.full.borrow_mut() = Some(format!(
            "hidden states are no longer kept, and those that were are removed: could not write {path}: {error}. Training goes on without; \
             free space there, or lower distill.cache-bytes"
        ));
    }
}
