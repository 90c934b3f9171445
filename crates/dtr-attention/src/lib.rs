//! Token mixing as free functions on tensors: softmax, linear and delta attention.
//!
//! Every family has a `naive` form (the readable definition), a `chunk` form (parallel over time) and a `recurrent`
//! form (one token, with state). All three give the same numbers. Where a backend has a fused kernel, the functions
//! bound by [`MixerBackend`] use it; its definition is the composed form beside it.
//!
//! Letters in shapes: `B` batch, `H` heads, `G` key/value heads, `T` time, `C` chunk length, `D` width of a query or
//! key head, `V` width of a value head, `N` channels, `W` width of a convolution.

pub mod backend;
pub mod packed;
pub mod position;

pub mod convolution;
pub mod feature_map;
pub mod gate;
pub mod linear;
pub mod loss;
pub mod mamba2;
pub mod norm;
pub mod recurrence;
pub mod rotary;
pub mod softmax;
pub mod window_linear;

mod autodiff;
mod chunks;
#[cfg(feature = "cubecl")]
mod cubecl;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod host;

pub use backend::{FusedBackend, MixerBackend, TrainBackend};
pub use position::{Positions, Span};
