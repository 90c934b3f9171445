//! Picks the backend features for an experiment and launches `dtr`.
fn main() {}
