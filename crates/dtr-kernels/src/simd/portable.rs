//! Arithmetic that every processor has.

use super::{Arithmetic, LANES};

/// What every processor can. A fused operation is a slow library call where there is no instruction for it.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Arithmetic for Portable {
    type Lanes = [f32; LANES];

    #[inline(always)]
    fn fused(a: f32, b: f32, c: f32) -> f32 {
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
    }

    #[inline(always)]
    fn splat(x: f32) -> Self::Lanes {
        [x; LANES]
    }

    #[inline(always)]
    fn get(from: &[f32; LANES]) -> Self::Lanes {
        *from
    }

    #[inline(always)]
    fn put(x: Self::Lanes, to: &mut [f32; LANES]) {
        *to = x;
    }

    #[inline(always)]
    fn add(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        std::array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn mul_add(a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes {
        std::array::from_fn(|i| Self::fused(a[i], b[i], c[i]))
    }

    #[inline(always)]
    fn max(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn sum(x: Self::Lanes) -> f32 {
        let eight: [f32; 8] = std::array::from_fn(|i| x[i] + x[i + 8]);
        let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
}
