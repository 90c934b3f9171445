//! Parameters that are to be trained. On a backend without gradients a parameter made from a tensor is taken for one that is not, and stays so
//! when it comes to one with gradients: whatever is trained must say so.

use burn::module::{Module, ModuleMapper, Param};
use burn::prelude::*;

/// The module with gradients for its parameters, those of one rank or all.
pub(crate) fn thaw<B: Backend, M: Module<B>>(module: M, rank: Option<usize>) -> M {
    module.map(&mut Thaw { rank })
}

struct Thaw {
    rank: Option<usize>,
}

impl<B: Backend> ModuleMapper<B> for Thaw {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if self.rank.is_none_or(|rank| rank == D) { param.set_require_grad(true) } else { param }
    }
}
