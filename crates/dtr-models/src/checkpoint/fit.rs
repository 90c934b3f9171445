//! What a module needs beside what files hold, compared name by name before a weight is read.

use std::collections::BTreeSet;
use std::path::Path;

use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;

use super::names::{self, Naming};
use super::numbers::{Layout, Number};
use super::source::{Stock, Stored};
use crate::error::CheckpointError;

/// Number of weights of a module, which need not be there yet.
pub fn parameters<B: Backend, M: Module<B>>(module: &M) -> usize {
    needs(module, &Naming::LLAMA).iter().map(|need| need.shape.iter().product::<usize>()).sum()
}

/// Where a parameter comes from.
#[derive(Debug)]
pub(super) struct Origin {
    pub stored: Stored,
    pub number: Number,
    pub layout: Layout,
    /// Which part of the tensor it is, and of how many, side by side along the last dimension.
    pub part: (usize, usize),
}

/// Where each parameter comes from, in the order of the module: every tensor is needed and every need is met, in shape and type; tensors that
/// `ignored` knows may be left over.
pub(super) fn require<B: Backend, M: Module<B>>(
    module: &M,
    naming: &'static Naming,
    stock: &Stock,
    shown: &Path,
    ignored: impl Fn(&str) -> bool,
) -> Result<Vec<Origin>, CheckpointError> {
    let known = |names: &[String]| names.iter().find(|name| stock.contains_key(*name)).unwrap_or(&names[0]).clone();
    let (mut origins, mut needed, mut missing) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for Need { names, shape, layout, part } in needs(module, naming) {
        let (path, name) = (shown.to_path_buf(), known(&names));
        let Some(stored) = stock.get(&name) else {
            missing.insert(name);
            continue;
        };
        if stored.shape != shape {
            return Err(CheckpointError::Shape { path, name, expected: shape, found: stored.shape.clone() });
        }
        let Some(number) = Number::of(stored.dtype) else {
            return Err(CheckpointError::DType { path, name, found: format!("{:?}", stored.dtype) });
        };
        origins.push(Origin { stored: stored.clone(), number, layout, part });
        needed.insert(name);
    }
    let extra: Vec<String> = stock.keys().filter(|name| !needed.contains(*name) && !ignored(name)).cloned().collect();
    if missing.is_empty() && extra.is_empty() {
        return Ok(origins);
    }
    Err(CheckpointError::Tensors { path: shown.into(), missing: missing.into_iter().collect(), extra })
}

/// What a parameter is in files: names that it may have, and its shape there.
struct Need {
    names: Vec<String>,
    shape: Vec<usize>,
    layout: Layout,
    part: (usize, usize),
}

fn needs<B: Backend, M: Module<B>>(module: &M, naming: &'static Naming) -> Vec<Need> {
    struct Needs {
        path: names::Path,
        found: Vec<Need>,
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
            let (names, part) = (self.path.names(), self.path.part());
            shape[D - 1] *= part.1;
            let layout = if self.path.is_transposed() { Layout::Transposed } else { Layout::AsStored };
            if layout == Layout::Transposed {
                shape.reverse();
            }
            self.found.push(Need { names, shape, layout, part });
        }
    }
    let mut needs = Needs { path: names::Path::new(naming), found: Vec::new() };
    module.visit(&mut needs);
    needs.found
}
