//! Several sequences in one row, one after another, without padding.
//!
//! Every form of every mixer sees each sequence alone: what is packed is cut, done and joined again. A cut copies nothing.

use burn::prelude::*;

/// Calls `mix(sequence, start, length)` for each sequence and joins the outputs along time.
///
/// `bounds` are the first tokens of the sequences and, last, the number of all tokens; 0 comes first.
///
/// # Shapes
/// Outputs `[1, H, length, V]` -> `[1, H, T, V]`.
///
/// # Panics
/// If `bounds` do not rise from 0, or an output is not as long as its sequence.
pub fn each<B: Backend>(bounds: &[usize], mut mix: impl FnMut(usize, usize, usize) -> Tensor<B, 4>) -> Tensor<B, 4> {
    assert!(bounds.len() > 1 && bounds[0] == 0 && bounds.is_sorted(), "bounds rise from 0: {bounds:?}");
    let outputs = bounds.windows(2).enumerate().filter(|(_, pair)| pair[1] > pair[0]).map(|(sequence, pair)| {
        let length = pair[1] - pair[0];
        let output = mix(sequence, pair[0], length);
        assert_eq!(output.dims()[2], length, "an output for every token of sequence {sequence}");
        output
    });
    Tensor::cat(outputs.collect(), 2)
}
