//! What one case of the suite gives on one device.

use serde::{Deserialize, Serialize};

/// What kind of numbers a case gives, and so how far they may be off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// What an operation computes.
    Value,
    /// Derivatives of `sum(output * weights)`.
    Gradient,
    /// Losses of students that train: differences of single steps add up.
    Curve,
    /// Tokens, layouts: equal or not.
    Decision,
}

/// What one case gave on one device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// What it belongs to.
    pub group: String,
    /// Its name in the group.
    pub case: String,
    /// What kind of numbers these are.
    pub kind: Kind,
    /// The numbers, tensor by tensor, or what the backend said in place of them.
    pub numbers: Result<Numbers, String>,
    /// How long the case took, its other kinds included.
    pub seconds: f64,
}

/// The numbers of several tensors.
pub type Numbers = Vec<Vec<f64>>;
