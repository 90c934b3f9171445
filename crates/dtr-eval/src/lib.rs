//! Tasks, scoring with shared prefixes, efficiency measurement.
