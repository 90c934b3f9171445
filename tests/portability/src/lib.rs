//! Outcomes of the suite on devices, compared with those of the reference. The suite itself is in the binary: it is compiled once a backend.

pub mod compare;
pub mod outcome;
pub mod table;
