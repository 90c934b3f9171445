//! Text generation: sessions with state, in memory and on disk, choice of tokens, sequences that come and go, text as it is made.

mod batch;
mod memory;
mod sampling;
mod saved;
mod scores;
mod session;
mod text;

use dtr_attention::MixerBackend;

pub use batch::{Batch, Finish, Progress, Sequence};
pub use sampling::Sampling;
pub use scores::TokenScore;
pub use session::Session;
pub use text::TextStream;

use crate::decoder::Decoder;

/// Extends each prompt by `count` tokens, or up to and including the first of `stop`. Rows draw independently.
///
/// `on_step` is told the tokens of each step, one a row (`None` for rows that have stopped).
///
/// # Panics
/// If a prompt is empty.
pub fn generate<B: MixerBackend>(
    model: &Decoder<B>,
    prompts: &[Vec<u32>],
    count: usize,
    sampling: Sampling,
    stop: &[u32],
    device: &B::Device,
    mut on_step: impl FnMut(&[Option<u32>]),
) -> Vec<Vec<u32>> {
    let mut outputs = vec![Vec::new(); prompts.len()];
    let mut batch = Batch::new(model, device);
    let sequence =
        |row: usize| Sequence { sampling, stream: row as u64, stop: stop.to_vec(), ..Sequence::new(prompts[row].clone(), count) };
    let mut progress = batch.admit((0..prompts.len()).map(|row| (row, sequence(row))).collect());
    while !progress.is_empty() {
        let mut shown = vec![None; prompts.len()];
        for Progress { key, token, .. } in progress {
            shown[key] = token;
            outputs[key].extend(token);
        }
        on_step(&shown);
        progress = batch.step();
    }
    outputs
}
