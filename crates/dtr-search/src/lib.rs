//! Layout search over an abstract objective: strategies, trace, statistics. No tensors.
