//! One experiment, from TOML to report: schema, run directory, events, stages, terminal, report.

pub mod error;

pub mod schema;

pub mod atomic;
pub mod events;
pub mod explain;
pub mod log;
pub mod run_dir;

pub mod backend;
mod hub;
pub mod stages;

pub mod report;
pub mod rounds;

pub mod charts;
pub mod evaluated;
pub mod html;
pub mod terminal;
pub mod words;

pub use error::Error;
pub use schema::Experiment;
pub use stages::{Options, run};
