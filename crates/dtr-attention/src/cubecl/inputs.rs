//! Inputs of a recurrence as the kernels want them: one element type, shapes known, time cut into chunks.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl::prelude::AddressType;
use burn_cubecl::cubecl::zspace::metadata::Metadata;
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;

use super::tile::Decay;
use crate::recurrence::RecurrenceInputs;

/// Inputs of one element type but for the states, with any strides.
#[derive(Clone)]
pub struct Inputs<R: CubeRuntime> {
    pub q: CubeTensor<R>,
    pub k: CubeTensor<R>,
    pub v: CubeTensor<R>,
    pub g: Option<CubeTensor<R>>,
    /// `[B, H, T, 1]`.
    pub beta: Option<CubeTensor<R>>,
    /// State before each chunk, one below the other, in `f32`: `[B, H, N D, V]`.
    pub states: CubeTensor<R>,
    /// Tokens of a chunk but for the last, which may have fewer.
    pub length: usize,
    pub decay: Decay,
    /// `B, H, T, D, V`.
    pub shape: [usize; 5],
}

impl<R: CubeRuntime> Inputs<R> {
    /// All time as one chunk. Inputs of different element types are read as `f32`.
    pub fn new(inputs: RecurrenceInputs<CubeTensor<R>>) -> Self {
        let dtype = inputs.q.dtype;
        let alike = inputs.clone().list().iter().all(|input| input.dtype == dtype);
        let RecurrenceInputs { q, k, v, g, beta, state } = if alike { inputs } else { inputs.map(|input| cast(input, DType::F32)) };
        let beta = beta.map(|beta| {
            let ([batch, heads, time], strides) = (beta.meta.shape().dims(), beta.meta.strides());
            // Not by `reshape`: see `recurrence::column`.
            let meta = Metadata::new([batch, heads, time, 1], [strides[0], strides[1], strides[2], 1]);
            CubeTensor { meta: Box::new(meta), ..beta }
        });
        let [batch, heads, time, width] = q.meta.shape().dims();
        let values = v.meta.shape()[3];
        let decay = match &g {
            None => Decay::None,
            Some(g) if g.meta.shape()[3] == width && width > 1 => Decay::Channel,
            Some(_) => Decay::Head,
        };
        let (states, length) = (cast(state, DType::F32), time.max(1));
        Self { q, k, v, g, beta, states, length, decay, shape: [batch, heads, time, width, values] }
    }

    /// `N`.
    pub fn chunks(&self) -> usize {
        self.shape[2].div_ceil(self.length).max(1)
    }

    /// The type of places in any of these and the `others`.
    pub fn addresses(&self, others: &[&CubeTensor<R>]) -> AddressType {
        let all = [&self.q, &self.k, &self.v, &self.states].into_iter().chain(&self.g).chain(&self.beta).chain(others.iter().copied());
        all.map(CubeTensor::required_address_type).max().unwrap_or_default()
    }
}
