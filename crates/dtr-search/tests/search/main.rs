//! Searches on objectives made of numbers.

mod greedy;
mod promises;
mod strategies;
mod support;
