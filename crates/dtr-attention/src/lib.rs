//! Token mixing as free functions on tensors: softmax, linear and delta attention.
//!
//! | mixer | module | state of a head, numbers | cost of a token | gradients |
//! |---|---|---|---|---|
//! | softmax: full | [`softmax`] | `(D + V) T` | `(D + V) T` | fused |
//! | softmax: window `w` and sinks `s` | [`softmax`] | `(D + V) (w + s)` | `(D + V) (w + s)` | fused |
//! | linear attention, any map to `F` features ([`feature_map`]) | [`linear`] | `F (V + 1)` | `2 F V` | fused |
//! | retention, Mamba-2 ([`mamba2`]), GLA | [`recurrence`] | `D V` | `3 D V` | fused |
//! | `DeltaNet` | [`recurrence`] | `D V` | `3 D V` | fused |
//! | Gated `DeltaNet`, Kimi delta attention | [`recurrence`] | `D V` | `4 D V` | fused |
//! | window `w` and linear attention together | [`window_linear`] | `F (V + 1) + w (D + V + F + 1)` | `2 F V + 2 w (D + V)` | composed; linear part fused |
//! | linear map, skip | [`token_wise`] | none | `N^2`, none | composed |
//!
//! Fused is said of the CPU backends flex and ndarray; on those of `CubeCL` the recurrences and linear attention are, the rest is
//! composed. Costs are multiplications and additions, by the recurrent form. [`packed`] takes any of them over several sequences in one row; [`convolution`] is the short convolution in
//! front of many, [`norm`], [`gate`] and [`rotary`] what stands around them, [`loss`] the usual loss.
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
pub mod precision;

pub mod adamw;
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
pub mod token_wise;
pub mod window_linear;

mod autodiff;
mod chunks;
#[cfg(feature = "cubecl")]
mod cubecl;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod host;

pub use backend::{FusedBackend, FusedRecurrence, MixerBackend, TrainBackend};
pub use position::{PADDING, Positions, Span};
