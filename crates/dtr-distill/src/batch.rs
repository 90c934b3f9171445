//! Rows of tokens as the trainer takes them: of one length, padding marked, each token with its weight in the loss.

use burn::prelude::*;
use dtr_attention::Positions;

/// A row of tokens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Row {
    /// Token ids, at least one.
    pub tokens: Vec<u32>,
    /// Weight of each token's output in the losses, as many as tokens; at least 0.
    pub weights: Vec<f32>,
}

impl Row {
    /// A row in which every token counts the same.
    pub fn plain(tokens: Vec<u32>) -> Self {
        Self { weights: vec![1.0; tokens.len()], tokens }
    }
}

/// Rows side by side on a device, shorter ones padded on the right.
#[derive(Debug, Clone)]
pub struct Batch<B: Backend> {
    /// Token ids, `[B, T]`; padding is 0.
    pub ids: Tensor<B, 2, Int>,
    /// Where the tokens stand; padding stands where no token sees it.
    pub positions: Positions,
    /// Weight of each output in the losses, `[B, T]`, 0 for padding; `None` where all are 1.
    pub weights: Option<Tensor<B, 2>>,
}

impl<B: Backend> Batch<B> {
    /// Rows as tensors.
    ///
    /// # Panics
    /// If there are no rows, or a row has no tokens or not a weight for each.
    pub fn new(rows: &[Row], device: &B::Device) -> Self {
        assert!(rows.iter().all(|row| !row.tokens.is_empty() && row.tokens.len() == row.weights.len()), "a weight for every token");
        let longest = rows.iter().map(|row| row.tokens.len()).max().expect("a batch has rows");
        let (mut ids, mut weights) = (Vec::new(), Vec::new());
        for (index, row) in rows.iter().enumerate() {
            ids.extend(row.tokens.iter().map(|&token| i64::from(token)));
            ids.resize((index + 1) * longest, 0);
            weights.extend(&row.weights);
            weights.resize((index + 1) * longest, 0.0);
        }
        let positions = if rows.iter().all(|row| row.tokens.len() == longest) {
            Positions::range(0, longest)
        } else {
            let masks: Vec<Vec<bool>> = rows.iter().map(|row| (0..longest).map(|at| at < row.tokens.len()).collect()).collect();
            Positions::padded(&masks, &vec![0; rows.len()])
        };
        let shape = [rows.len(), longest];
        let weighted = weights.iter().any(|weight| weight.to_bits() != 1.0_f32.to_bits());
        Self {
            ids: Tensor::from_data(TensorData::new(ids, shape), device),
            positions,
            weights: weighted.then(|| Tensor::from_data(TensorData::new(weights, shape), device)),
        }
    }
}
