//! Token mixing as free functions on tensors: softmax, linear and delta attention.
//!
//! Every family has a `naive` form (the readable definition), a `chunk` form (parallel over time, used to train and
//! to read a prompt) and a `recurrent` form (one token, with state). All three give the same numbers.
//!
//! Letters in shapes: `B` batch, `H` heads, `T` time, `C` chunk length, `D` width of a query or key head,
//! `V` width of a value head, `W` width of a convolution.

pub mod position;

pub mod convolution;
pub mod delta;
pub mod feature_map;
pub mod linear;
pub mod norm;
pub mod rotary;
pub mod softmax;

mod chunks;

pub use position::{Positions, Span};
