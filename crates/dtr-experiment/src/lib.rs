//! One experiment, from TOML to report.
