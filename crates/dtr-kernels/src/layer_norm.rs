//! What goes row by row in families with layer norms: layer norm and GELU, forward. Results have the rows in their order.

use rayon::prelude::*;

use crate::simd::{Arithmetic, Kernel, dispatch, dot, exp, sigmoid};
use crate::threads::for_each;
use crate::view::Rows;

/// Numbers that one task handles, about.
const TASK: usize = 1 << 13;

fn rows_a_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`.
///
/// # Panics
/// If `weight` or `bias` has another width.
pub fn layer_norm(x: &Rows<'_>, [weight, bias]: [&[f32]; 2], eps: f32) -> Vec<f32> {
    assert_eq!([weight.len(), bias.len()], [x.width; 2], "one weight and one bias a column");
    let mut y = vec![0.0; x.count() * x.width];
    let work = y.len() * 4;
    for_each(y.par_chunks_mut((rows_a_task(x.width) * x.width).max(1)).enumerate(), work, |(task, y)| {
        dispatch(LayerNorm { x, weight, bias, eps, first: task * rows_a_task(x.width), y });
    });
    y
}

struct LayerNorm<'a> {
    x: &'a Rows<'a>,
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    first: usize,
    y: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        let width = self.x.width;
        let ones = vec![1.0; width];
        for (n, y) in self.y.chunks_exact_mut(width).enumerate() {
            let x = self.x.row(self.first + n);
            let mean = dot::<A>(x, &ones) / width as f32;
            for (y, x) in y.iter_mut().zip(x) {
                *y = x - mean;
            }
            let scale = (dot::<A>(y, y) / width as f32 + self.eps).sqrt().recip();
            for ((y, weight), bias) in y.iter_mut().zip(self.weight).zip(self.bias) {
                *y = A::fused(*y * scale, *weight, *bias);
            }
        }
    }
}

/// `x P(X <= x)` for a standard normal `X`; or, if `approximate`, `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
pub fn gelu(x: &Rows<'_>, approximate: bool) -> Vec<f32> {
    let mut y = vec![0.0; x.count() * x.width];
    let work = y.len() * 10;
    for_each(y.par_chunks_mut((rows_a_task(x.width) * x.width).max(1)).enumerate(), work, |(task, y)| {
        dispatch(Gelu { x, approximate, first: task * rows_a_task(x.width), y });
    });
    y
}

struct Gelu<'a> {
    x: &'a Rows<'a>,
    approximate: bool,
    first: usize,
    y: &'a mut [f32],
}

impl Kernel for Gelu<'_> {
    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        for (n, y) in self.y.chunks_exact_mut(self.x.width).enumerate() {
            let x = self.x.row(self.first + n);
            if self.approximate {
                for (y, &x) in y.iter_mut().zip(x) {
                    // tanh(u) = 2 sigmoid(2 u) - 1.
                    *y = x * sigmoid::<A>(1.595_769 * A::fused(0.044_715 * x * x, x, x));
                }
            } else {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = x * normal::<A>(x);
                }
            }
        }
    }
}

/// `P(X <= x)` for a standard normal `X`, to about 1e-7: Abramowitz and Stegun, 7.1.26.
#[inline(always)]
fn normal<A: Arithmetic>(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / A::fused(0.327_591_1, z, 1.0);
    let mut p = 1.061_405_4;
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = A::fused(p, t, coefficient);
    }
    let tail = 0.5 * p * t * exp::<A>(-z * z);
    if x < 0.0 { tail } else { 1.0 - tail }
}
