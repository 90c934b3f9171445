//! Sessions on disk: what was read once, such as a long prefix, is continued by another process as if there had been no break.

use std::collections::BTreeMap;
use std::path::Path;

use burn::prelude::*;
use dtr_attention::{MixerBackend, PADDING, Positions};
use safetensors::Dtype;

use super::session::Session;
use crate::checkpoint::{Raw, read_raw, write_raw};
use crate::decoder::Decoder;
use crate::error::CheckpointError;
use crate::mixer::MixerState;

impl<'a, B: MixerBackend> Session<'a, B> {
    /// Writes what the session remembers into one file, with the key of its model and the tokens that each row has read.
    ///
    /// # Errors
    /// If the file cannot be written.
    ///
    /// # Panics
    /// If `tokens` are not as many as the session has read.
    pub fn save(&self, path: &Path, key: &str, tokens: &[Vec<u32>]) -> Result<(), CheckpointError> {
        assert!(tokens.iter().map(Vec::len).eq(self.lengths.iter().copied()), "the tokens that were read, row by row");
        let whole = |numbers: &[u32]| {
            let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            Raw { dtype: Dtype::U32, shape: vec![numbers.len()], bytes }
        };
        let mut tensors = BTreeMap::from([
            ("key".to_owned(), Raw { dtype: Dtype::U8, shape: vec![key.len()], bytes: key.as_bytes().to_vec() }),
            ("lengths".to_owned(), whole(&self.lengths.iter().map(|&length| length as u32).collect::<Vec<_>>())),
            ("tokens".to_owned(), whole(&tokens.concat())),
        ]);
        for (layer, state) in self.states.iter().enumerate() {
            let (parts, positions) = state.parts();
            for (name, data) in parts {
                let data = data.convert::<f32>();
                let (shape, numbers) = (data.shape.to_vec(), data.iter::<f32>());
                let bytes = numbers.flat_map(f32::to_le_bytes).collect();
                tensors.insert(format!("layers.{layer}.{name}"), Raw { dtype: Dtype::F32, shape, bytes });
            }
            if let Some(positions) = positions {
                let shape = vec![positions.rows(), positions.length()];
                let bytes = positions.all().iter().flat_map(|position| position.to_le_bytes()).collect();
                tensors.insert(format!("layers.{layer}.positions"), Raw { dtype: Dtype::I32, shape, bytes });
            }
        }
        write_raw(path, tensors)
    }

    /// The session that [`Self::save`] wrote, with the tokens that each row has read.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or was saved under another key.
    pub fn restore(model: &'a Decoder<B>, path: &Path, key: &str, device: &B::Device) -> Result<(Self, Vec<Vec<u32>>), CheckpointError> {
        let wrong = |reason: String| CheckpointError::State { path: path.into(), reason };
        let mut tensors = read_raw(path)?;
        let mut take = |name: &str, dtype: Dtype| {
            let raw = tensors.remove(name).ok_or_else(|| wrong(format!("it has no tensor \"{name}\"")))?;
            if raw.dtype == dtype {
                Ok(raw)
            } else {
                Err(wrong(format!("tensor \"{name}\" is of type {:?}, expected {dtype:?}", raw.dtype)))
            }
        };
        if take("key", Dtype::U8)?.bytes != key.as_bytes() {
            return Err(wrong("it is of another model".into()));
        }
        let lengths: Vec<usize> = numbers(&take("lengths", Dtype::U32)?, u32::from_le_bytes).map(|length| length as usize).collect();
        let tokens = take("tokens", Dtype::U32)?;
        let mut tokens = numbers(&tokens, u32::from_le_bytes);
        let rows: Vec<Vec<u32>> = lengths.iter().map(|&length| tokens.by_ref().take(length).collect()).collect();
        if lengths.is_empty() || rows.iter().zip(&lengths).any(|(row, &length)| row.len() != length) {
            return Err(wrong("it has fewer tokens than it says".into()));
        }
        let mut states = Vec::with_capacity(model.layers.len());
        for (layer, block) in model.layers.iter().enumerate() {
            let name = |part: &str| format!("layers.{layer}.{part}");
            let positions = match take(&name("positions"), Dtype::I32) {
                Ok(raw) => Some(positions(&raw, &lengths).ok_or_else(|| wrong(format!("the positions of layer {layer} are impossible")))?),
                // Layers without a cache have none.
                Err(_) => None,
            };
            let part = |part: &'static str, expected: &[usize]| {
                let raw = take(&name(part), Dtype::F32)?;
                if raw.shape != expected {
                    return Err(wrong(format!("\"{}\" has shape {:?}, expected {expected:?}", name(part), raw.shape)));
                }
                Ok(TensorData::new(numbers(&raw, f32::from_le_bytes).collect::<Vec<f32>>(), raw.shape))
            };
            let state = block.mixer.state_of(rows.len(), positions, part)?;
            if matches!(state, MixerState::KeyValues(_)) && state.bytes() == 0 && lengths.iter().any(|&length| length > 0) {
                return Err(wrong(format!("layer {layer} has no keys and values")));
            }
            states.push(state);
        }
        Ok((Self { model, states, lengths, device: device.clone() }, rows))
    }
}

fn numbers<T>(raw: &Raw, number: impl Fn([u8; 4]) -> T) -> impl Iterator<Item = T> {
    raw.bytes.as_chunks::<4>().0.iter().map(move |four| number(*four))
}

/// Positions of a cache, if rows of these lengths can have them.
fn positions(raw: &Raw, lengths: &[usize]) -> Option<Positions> {
    let [rows, columns] = raw.shape[..] else { return None };
    if columns == 0 || (rows != 1 && rows != lengths.len()) {
        return None;
    }
    let longest = lengths.iter().copied().max()? as i32;
    let all: Vec<i32> = numbers(raw, i32::from_le_bytes).collect();
    let possible = all.iter().all(|&position| position == PADDING || (0..longest).contains(&position));
    possible.then(|| Positions::stacked(&all.chunks(columns).collect::<Vec<_>>()))
}
