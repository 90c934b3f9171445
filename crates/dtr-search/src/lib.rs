//! Layout search over an abstract objective: strategies, trace, baselines. No tensors.

pub mod layout;
pub mod objective;
pub mod trace;

pub mod baselines;
pub mod greedy;

pub use greedy::{Floor, Observation, SearchError, greedy};
pub use layout::{Layout, LayoutError, Operator};
pub use objective::{Evaluation, Example, Objective};
pub use trace::{Decision, Step, Trace};
