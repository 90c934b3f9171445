//! The command dtr.
fn main() {}
