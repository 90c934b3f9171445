//! Operations of Burn that everything else is made of, on shapes and strides that dtr makes of them.

use burn::prelude::*;
use burn::tensor::activation::{gelu, log_softmax, sigmoid, silu, softmax, softplus};
use dtr_attention::TrainBackend;
use dtr_portability::outcome::Kind;

use super::{Inputs, Suite, numbers, tensor, values};

/// `[B, H, T, D]` with no power of two in it.
const SHAPE: [usize; 4] = [2, 3, 7, 10];

fn one<B: TrainBackend>(f: impl Fn(Tensor<B, 4>) -> Tensor<B, 4>) -> impl Fn(Inputs<B>) -> Tensor<B, 4> {
    move |mut inputs| f(inputs.remove(0))
}

fn two<B: TrainBackend>(f: impl Fn(Tensor<B, 4>, Tensor<B, 4>) -> Tensor<B, 4>) -> impl Fn(Inputs<B>) -> Tensor<B, 4> {
    move |mut inputs| {
        let second = inputs.remove(1);
        f(inputs.remove(0), second)
    }
}

/// Which of some places in a dimension.
fn places<B: Backend>(places: &[i64], device: &B::Device) -> Tensor<B, 1, Int> {
    Tensor::from_data(TensorData::new(places.to_vec(), [places.len()]), device)
}

impl<B: TrainBackend> Suite<'_, B> {
    pub(super) fn primitives(&mut self) {
        self.elementwise();
        self.products();
        self.shapes();
        self.whole_numbers();
    }

    fn elementwise(&mut self) {
        let positive = |x: Tensor<B, 4>| x.powi_scalar(2).add_scalar(0.25);
        for (name, f) in [
            ("exp", (|x| x.exp()) as fn(Tensor<B, 4>) -> Tensor<B, 4>),
            ("tanh", |x| x.tanh()),
            ("sin", |x| x.sin()),
            ("cos", |x| x.cos()),
            ("sigmoid", sigmoid),
            ("silu", silu),
            ("gelu", gelu),
            ("softplus", |x| softplus(x, 1.0)),
            ("clamp", |x| x.clamp(-0.5, 1.25)),
            ("neg, abs", |x| x.neg().abs()),
            ("sum, mean", |x| x.clone().sum_dim(3) + x.mean_dim(3)),
            ("cumsum", |x| x.cumsum(2)),
            ("max of rows", |x| x.max_dim(3)),
            ("softmax", |x| softmax(x, 3)),
            ("log softmax", |x| log_softmax(x, 3)),
            ("softmax of large numbers", |x| softmax(x.mul_scalar(40.0), 3)),
        ] {
            self.differentiable(name, &[SHAPE], one(f));
        }
        self.differentiable("log", &[SHAPE], one(move |x| positive(x).log()));
        self.differentiable("sqrt, division", &[SHAPE, SHAPE], two(move |x, y| x / positive(y).sqrt()));
        self.differentiable("power", &[SHAPE], one(move |x| positive(x).powf_scalar(-0.5)));
        self.differentiable("broadcasts", &[SHAPE, [1, 3, 1, 10]], two(|x, y| (x.clone() + y.clone()) * y.clone() - x * y));
        self.differentiable(
            "mask",
            &[SHAPE],
            one(|x| {
                let mask = x.clone().lower_elem(0.3);
                x.mask_fill(mask, 1.5)
            }),
        );
    }

    fn products(&mut self) {
        let (left, right) = ([2, 3, 7, 10], [2, 3, 10, 5]);
        self.differentiable("product", &[left, right], two(Tensor::matmul));
        self.differentiable("product, one matrix for all", &[left, [1, 1, 10, 5]], two(Tensor::matmul));
        self.differentiable("product, transposed right", &[left, [2, 3, 9, 10]], two(|x, y| x.matmul(y.swap_dims(2, 3))));
        self.differentiable("product, transposed left", &[[2, 3, 10, 7], right], two(|x, y| x.swap_dims(2, 3).matmul(y)));
        self.differentiable(
            "product, heads inside",
            &[[2, 7, 3, 10], [2, 9, 3, 10]],
            two(|x, y| x.swap_dims(1, 2).matmul(y.swap_dims(1, 2).transpose())),
        );
        self.differentiable("product, one row", &[[2, 3, 1, 10], right], two(Tensor::matmul));
        self.differentiable("product, 130 by 70 by 90", &[[1, 1, 130, 70], [1, 1, 70, 90]], two(Tensor::matmul));
        self.differentiable("product, outer", &[[2, 3, 10, 1], [2, 3, 1, 5]], two(Tensor::matmul));
    }

    fn shapes(&mut self) {
        self.differentiable("narrow, concatenate", &[SHAPE, SHAPE], two(|x, y| Tensor::cat(vec![x.narrow(2, 1, 3), y.narrow(2, 4, 2)], 2)));
        self.differentiable("swap, reshape", &[SHAPE], one(|x| x.swap_dims(1, 2).reshape([2, 1, 7, 30])));
        self.differentiable("expand", &[[2, 1, 7, 10]], one(|x| x.expand([2, 3, 7, 10])));
        self.differentiable("repeat", &[[2, 1, 7, 10]], one(|x| x.repeat_dim(1, 3)));
        self.differentiable("assign a slice", &[SHAPE, [2, 3, 2, 10]], two(|x, y| x.slice_assign([0..2, 0..3, 3..5, 0..10], y)));
        self.differentiable("flip", &[SHAPE], one(|x| x.flip([2])));
        self.differentiable(
            "select",
            &[SHAPE],
            one(|x| {
                let device = x.device();
                x.select(2, places::<B>(&[4, 0, 0, 6, 2], &device))
            }),
        );
        self.differentiable(
            "gather",
            &[SHAPE],
            one(|x| {
                let index = places::<B>(&[3, 9, 0, 1, 3, 5, 7], &x.device()).reshape([1, 1, 7, 1]).expand([2, 3, 7, 1]);
                x.gather(3, index)
            }),
        );
        self.differentiable("lower triangle", &[[2, 3, 7, 7]], one(|x| x.tril(-1)));
    }

    fn whole_numbers(&mut self) {
        self.record("embedding", [Kind::Value, Kind::Gradient], |device, _| {
            let table = tensor::<B, 2>(5, [11, 6], device).require_grad();
            let ids = places::<B>(&[3, 10, 3, 0, 7, 3], device).reshape([2, 3]);
            let found = burn::tensor::module::embedding(table.clone(), ids);
            let grad = (found.clone() * tensor(6, found.dims(), device)).sum().backward();
            [vec![values(found)], vec![table.grad(&grad).map_or_else(Vec::new, values)]]
        });
        self.record("largest, sorted", [Kind::Decision; 2], |device, _| {
            let x = tensor::<B, 2>(7, [5, 37], device) + Tensor::arange(0..185, device).float().reshape([5, 37]).mul_scalar(1e-3);
            let whole = |x: Tensor<B, 2, Int>| x.into_data().convert::<i64>().iter::<i64>().map(|x| x as f64).collect::<Vec<_>>();
            [vec![whole(x.clone().argmax(1))], vec![whole(x.argsort_descending(1))]]
        });
        self.record("whole numbers", [Kind::Decision], |device, _| {
            let x = places::<B>(&[5, -3, 12, 7], device);
            let y = (x.clone() * 3 - 1).mask_fill(x.clone().lower_elem(0), 4) + x.remainder_scalar(4);
            [vec![y.into_data().convert::<i64>().iter::<i64>().map(|x| x as f64).collect()]]
        });
        self.record("numbers in and out", [Kind::Decision], |device, _| {
            let there: Tensor<B, 1> = Tensor::from_data(TensorData::new(numbers(3, 1000), [1000]), device);
            [vec![values(there)]]
        });
    }
}
