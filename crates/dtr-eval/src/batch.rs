//! Sequences in batches of similar length, padded on the right, ready for a model.

use burn::prelude::*;
use dtr_attention::Positions;

use crate::task::Example;

/// Some examples side by side.
#[derive(Debug)]
pub struct Batch<B: Backend> {
    /// Token ids, `[B, T]`, padding 0.
    pub ids: Tensor<B, 2, Int>,
    /// Where the tokens stand.
    pub positions: Positions,
    /// Index of each row's sequence among all.
    pub sequences: Vec<usize>,
    /// Rows of the flattened hidden states that predict a labelled token or tell a class, in the order of rows.
    pub predicting: Tensor<B, 1, Int>,
    /// What is to be told by them, in the same order.
    pub targets: Tensor<B, 2, Int>,
    /// Lengths of each row's answers, runs of adjacent labelled tokens.
    pub answers: Vec<Vec<usize>>,
}

/// Groups of indices, shortest sequences first, of at most `tokens` tokens, padding included.
pub(crate) fn grouped(lengths: &[usize], tokens: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| lengths[index]);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for index in order {
        match groups.last_mut() {
            Some(group) if (group.len() + 1) * lengths[index] <= tokens => group.push(index),
            _ => groups.push(vec![index]),
        }
    }
    groups
}

/// Cuts sequences into batches of at most `tokens` tokens, padding included, shortest first.
pub fn batches<B: Backend>(sequences: &[&Example], tokens: usize, device: &B::Device) -> Vec<Batch<B>> {
    let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.tokens.len()).collect();
    grouped(&lengths, tokens).into_iter().map(|rows| batch(sequences, rows, device)).collect()
}

fn batch<B: Backend>(sequences: &[&Example], rows: Vec<usize>, device: &B::Device) -> Batch<B> {
    let lengths: Vec<usize> = rows.iter().map(|&index| sequences[index].tokens.len()).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let (mut ids, mut predicting, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for (row, &index) in rows.iter().enumerate() {
        let sequence = sequences[index];
        ids.extend(sequence.tokens.iter().map(|&token| i64::from(token)));
        ids.resize((row + 1) * longest, 0);
        for (at, told) in sequence.told() {
            predicting.push((row * longest + at) as i64);
            targets.push(i64::from(told));
        }
    }
    let positions = if lengths.iter().all(|&length| length == longest) {
        Positions::range(0, longest)
    } else {
        let masks: Vec<Vec<bool>> = lengths.iter().map(|&length| (0..longest).map(|column| column < length).collect()).collect();
        Positions::padded(&masks, &vec![0; rows.len()])
    };
    let labelled = targets.len();
    Batch {
        ids: Tensor::from_data(TensorData::new(ids, [rows.len(), longest]), device),
        positions,
        predicting: Tensor::from_data(TensorData::new(predicting, [labelled]), device),
        targets: Tensor::from_data(TensorData::new(targets, [labelled, 1]), device),
        answers: rows.iter().map(|&index| sequences[index].answers()).collect(),
        sequences: rows,
    }
}
