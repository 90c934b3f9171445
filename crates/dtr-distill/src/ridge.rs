//! Linear maps fitted in closed form from accumulated moments.

use burn::prelude::*;
use dtr_attention::precision::single;
use nalgebra::DMatrix;

/// Strength of the penalty, relative to the mean of the diagonal of `X^T X`, of weights found from nothing.
pub(crate) const PENALTY: f64 = 1e-3;

/// The same of weights that are near the right ones: in directions of which the rows tell little they stay as they are.
pub(crate) const NEAR: f64 = 0.3;

/// Running sums `X^T X` and `X^T Y` over rows of inputs and targets; memory does not depend on how many rows were added.
#[derive(Debug, Clone)]
pub struct Moments {
    xx: DMatrix<f64>,
    xy: DMatrix<f64>,
}

impl Moments {
    /// Nothing added yet, for maps from `input` to `output` coordinates.
    pub fn new(input: usize, output: usize) -> Self {
        Self { xx: DMatrix::zeros(input, input), xy: DMatrix::zeros(input, output) }
    }

    /// Adds the rows of `x [B, T, input]` and `y [B, T, output]`, each as often as its weight `[B, T]` says.
    pub fn add<B: Backend>(&mut self, x: Tensor<B, 3>, y: Tensor<B, 3>, weights: Option<Tensor<B, 2>>) {
        let (x, y) = (single(x), single(y));
        let flat = |x: Tensor<B, 3>| {
            let [batch, time, width] = x.dims();
            x.reshape([batch * time, width])
        };
        let weighted = weights.map_or_else(|| x.clone(), |weights| x.clone() * weights.unsqueeze_dim(2));
        let (x, y, transposed) = (flat(x), flat(y), flat(weighted).transpose());
        self.xx += matrix(transposed.clone().matmul(x));
        self.xy += matrix(transposed.matmul(y));
    }

    /// `W [input, output]` that minimises `|X W - Y|^2 + penalty |W|^2`; `None` if the moments are not finite.
    pub fn solve<B: Backend>(&self, device: &B::Device) -> Option<Tensor<B, 2>> {
        let (input, output) = self.xy.shape();
        self.refined(Tensor::zeros([input, output], device), PENALTY)
    }

    /// `W [input, output]` that minimises `|X W - Y|^2 + penalty |W - weight|^2`; `None` if the moments or the weight are not finite.
    pub fn refined<B: Backend>(&self, weight: Tensor<B, 2>, penalty: f64) -> Option<Tensor<B, 2>> {
        let (input, output) = self.xy.shape();
        let penalty = penalty * self.xx.trace() / input as f64 + f64::MIN_POSITIVE;
        let residual = &self.xy - &self.xx * matrix(weight.clone());
        let change = (&self.xx + DMatrix::identity(input, input) * penalty).cholesky()?.solve(&residual);
        let values: Vec<f32> = change.transpose().iter().map(|&value| value as f32).collect();
        let finite = values.iter().all(|value| value.is_finite());
        finite.then(|| weight.clone() + Tensor::from_data(TensorData::new(values, [input, output]), &weight.device()))
    }
}

fn matrix<B: Backend>(x: Tensor<B, 2>) -> DMatrix<f64> {
    let [rows, columns] = x.dims();
    let data = x.into_data().convert::<f32>();
    DMatrix::from_row_iterator(rows, columns, data.iter::<f32>().map(f64::from))
}

#[cfg(test)]
mod tests {
    use burn::prelude::*;
    use burn_flex::Flex;

    use super::Moments;

    #[test]
    fn recovers_a_linear_map() {
        let device = Default::default();
        let values: Vec<f32> = (0..60).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0).sin()).collect();
        let x = Tensor::<Flex, 3>::from_data(TensorData::new(values, [1, 20, 3]), &device);
        let map = Tensor::<Flex, 2>::from_floats([[1.0, -2.0], [0.5, 3.0], [-1.5, 0.25]], &device);
        let y = x.clone().matmul(map.clone().unsqueeze());
        let mut moments = Moments::new(3, 2);
        moments.add(x.clone().narrow(1, 0, 7), y.clone().narrow(1, 0, 7), None);
        moments.add(x.clone().narrow(1, 7, 13), y.narrow(1, 7, 13), None);
        // What weighs nothing changes nothing.
        moments.add(x.clone(), x.clone().narrow(2, 0, 2), Some(Tensor::zeros([1, 20], &device)));
        let found = moments.solve::<Flex>(&device).expect("finite moments");
        let error: f32 = (found - map).abs().max().into_scalar();
        assert!(error < 2e-2, "the penalty alone explains a small difference, found {error}");
    }
}
