//! Layout search over an abstract objective: strategies, racing, acceptance, trace. No tensors.
//!
//! `search` asks an [`Objective`] what layouts are worth, proposes by a [`Strategy`], keeps a layout by the rule of
//! [`Acceptance`], and writes everything into a [`Trace`]. A strategy is one file in `strategy/`.

pub mod baselines;
pub mod layout;
pub mod objective;
pub mod settings;
pub mod statistics;
pub mod trace;

pub mod search;
pub mod strategy;

pub use layout::{Layout, LayoutError, Operator};
pub use objective::{Evaluation, Example, Objective, Signal, Summary};
pub use search::{Observation, search};
pub use settings::{Acceptance, Confirm, Floor, Goal, Racing, SearchError, Settings};
pub use strategy::{Ranking, Strategy};
pub use trace::{Confirmation, Decision, Refitted, Step, Trace, Verdict};
