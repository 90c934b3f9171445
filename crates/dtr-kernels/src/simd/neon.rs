//! NEON.

#![expect(unsafe_code, reason = "vector instructions, which every processor of this architecture has")]

use std::arch::aarch64::{
    float32x4_t, vaddq_f32, vbslq_f32, vcgtq_f32, vdupq_n_f32, vfmaq_f32, vget_high_f32, vget_lane_f32, vget_low_f32, vld1q_f32, vmulq_f32,
    vst1q_f32, vsubq_f32,
};

use super::{Arithmetic, LANES};

/// Four registers of four numbers.
#[derive(Clone, Copy)]
pub(super) struct Neon;

#[inline(always)]
fn zip(a: [float32x4_t; 4], b: [float32x4_t; 4], f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> [float32x4_t; 4] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

// SAFETY, all through: NEON is part of the architecture's baseline; loads and stores go through references to as many numbers
// as they touch, and need no alignment.
impl Arithmetic for Neon {
    type Lanes = [float32x4_t; 4];

    #[inline(always)]
    fn fused(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn splat(x: f32) -> Self::Lanes {
        [unsafe { vdupq_n_f32(x) }; 4]
    }

    #[inline(always)]
    fn get(from: &[f32; LANES]) -> Self::Lanes {
        let from = from.as_ptr();
        unsafe { [vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))] }
    }

    #[inline(always)]
    fn put(x: Self::Lanes, to: &mut [f32; LANES]) {
        let to = to.as_mut_ptr();
        unsafe {
            vst1q_f32(to, x[0]);
            vst1q_f32(to.add(4), x[1]);
            vst1q_f32(to.add(8), x[2]);
            vst1q_f32(to.add(12), x[3]);
        }
    }

    #[inline(always)]
    fn add(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        zip(a, b, |a, b| unsafe { vaddq_f32(a, b) })
    }

    #[inline(always)]
    fn sub(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        zip(a, b, |a, b| unsafe { vsubq_f32(a, b) })
    }

    #[inline(always)]
    fn mul(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        zip(a, b, |a, b| unsafe { vmulq_f32(a, b) })
    }

    #[inline(always)]
    fn mul_add(a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes {
        unsafe { [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1]), vfmaq_f32(c[2], a[2], b[2]), vfmaq_f32(c[3], a[3], b[3])] }
    }

    #[inline(always)]
    fn max(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        // `vmaxq_f32` keeps what is no number, the other instruction sets drop it from `a`.
        zip(a, b, |a, b| unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) })
    }

    #[inline(always)]
    fn sum(x: Self::Lanes) -> f32 {
        unsafe {
            let four = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
            let (low, high) = (vget_low_f32(four), vget_high_f32(four));
            (vget_lane_f32::<0>(low) + vget_lane_f32::<0>(high)) + (vget_lane_f32::<1>(low) + vget_lane_f32::<1>(high))
        }
    }
}
