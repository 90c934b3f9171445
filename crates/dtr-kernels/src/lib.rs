//! CPU kernels of token mixing on plain slices of `f32`.
//!
//! Inputs are strided views, results are contiguous vectors. Nothing here knows of Burn: `dtr-attention` reads the storage of
//! a backend into views and makes tensors of the results. Every kernel's body is written once over [`simd::Arithmetic`] and
//! runs with the widest instructions the processor has. How work is cut into tasks never depends on the number of threads, so
//! the numbers do not either.
//!
//! What is wrong with shapes is for the callers to say: here it is a panic, never undefined behaviour.
//!
//! Letters in shapes: `B` batch, `H` heads, `G` key/value heads, `T` time, `D` width of a query or key head, `V` width of a
//! value head, `N` channels, `W` width of a convolution.

#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set in use")]

pub mod adamw;
pub mod attention;
pub mod convolution;
pub mod cross_entropy;
pub mod layer_norm;
pub mod linear;
pub mod peak;
pub mod recurrence;
pub mod rows;
pub mod simd;
pub mod view;

mod threads;
