//! What a module needs beside what files hold, compared name by name before a weight is read.

use std::collections::BTreeSet;
use std::path::Path;

use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;

use super::names::{self, Naming};
use super::numbers::Number;
use super::source::Stock;
use crate::error::CheckpointError;

/// Number of weights of a module, which need not be there yet.
pub fn parameters<B: Backend, M: Module<B>>(module: &M) -> usize {
    needs(module, &Naming::LLAMA).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

/// Every tensor is needed and every need is met, in shape and type; tensors that `ignored` knows may be left over.
pub(super) fn require<B: Backend, M: Module<B>>(
    module: &M,
    naming: &'static Naming,
    stock: &Stock,
    shown: &Path,
    ignored: impl Fn(&str) -> bool,
) -> Result<(), CheckpointError> {
    let known = |mut names: Vec<String>| names.swap_remove(names.iter().position(|name| stock.contains_key(name)).unwrap_or(0));
    let needs: Vec<_> = needs(module, naming).into_iter().map(|(names, shape)| (known(names), shape)).collect();
    for (name, expected) in &needs {
        let Some(stored) = stock.get(name) else { continue };
        let (path, name) = (shown.to_path_buf(), name.clone());
        if stored.shape != *expected {
            return Err(CheckpointError::Shape { path, name, expected: expected.clone(), found: stored.shape.clone() });
        }
        if Number::of(stored.dtype).is_none() {
            return Err(CheckpointError::DType { path, name, found: format!("{:?}", stored.dtype) });
        }
    }
    let needed: BTreeSet<&String> = needs.iter().map(|(name, _)| name).collect();
    let missing: Vec<String> = needed.iter().filter(|name| !stock.contains_key(**name)).map(|name| (*name).clone()).collect();
    let extra: Vec<String> = stock.keys().filter(|name| !needed.contains(name) && !ignored(name)).cloned().collect();
    if missing.is_empty() && extra.is_empty() { Ok(()) } else { Err(CheckpointError::Tensors { path: shown.into(), missing, extra }) }
}

/// Names that a tensor may have, and its shape, as they are in files.
fn needs<B: Backend, M: Module<B>>(module: &M, naming: &'static Naming) -> Vec<(Vec<String>, Vec<usize>)> {
    struct Needs {
        path: names::Path,
        found: Vec<(Vec<String>, Vec<usize>)>,
    }
    impl<B: Backend> ModuleVisitor<B> for Needs {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.exit();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            let mut shape = param.lazy_shape().to_vec();
            shape[D - 1] *= self.path.part().1;
            if self.path.is_transposed() {
                shape.reverse();
            }
            self.found.push((self.path.names(), shape));
        }
    }
    let mut needs = Needs { path: names::Path::new(naming), found: Vec::new() };
    module.visit(&mut needs);
    needs.found
}
