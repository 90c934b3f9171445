//! AVX2 and AVX-512.

#![expect(unsafe_code, reason = "vector instructions, behind the check that the processor has them")]

use std::arch::x86_64::{
    __m256, __m512, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehl_ps, _mm_shuffle_ps, _mm256_add_ps, _mm256_castps256_ps128,
    _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_hadd_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_mul_ps, _mm256_permute2f128_ps,
    _mm256_set1_ps, _mm256_storeu_ps, _mm256_sub_ps, _mm512_add_ps, _mm512_castps512_ps256, _mm512_extractf32x8_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_storeu_ps, _mm512_sub_ps,
};

use super::{Arithmetic, Kernel, LANES, Level};

pub(super) fn detected() -> Level {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl");
    let avx512 = avx2 && avx512 && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512dq");
    if avx512 {
        Level::Avx512
    } else if avx2 {
        Level::Avx2
    } else {
        Level::Portable
    }
}

/// Runs `kernel` with AVX2 and FMA, or without where the processor lacks them.
pub(super) fn avx2(kernel: impl Kernel) {
    #[target_feature(enable = "avx2,fma")]
    fn wide(kernel: impl Kernel) {
        kernel.run::<Avx2>();
    }
    assert!(detected() >= Level::Avx2, "the processor has AVX2 and FMA");
    // SAFETY: both features have just been detected.
    unsafe { wide(kernel) }
}

/// Runs `kernel` with AVX-512.
pub(super) fn avx512(kernel: impl Kernel) {
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    fn wide(kernel: impl Kernel) {
        kernel.run::<Avx512>();
    }
    assert!(detected() >= Level::Avx512, "the processor has AVX-512");
    // SAFETY: the features have just been detected.
    unsafe { wide(kernel) }
}

/// Private: only [`avx2`] names it, after it has asked the processor.
#[derive(Clone, Copy)]
struct Avx2;

/// Private: only [`avx512`] names it, after it has asked the processor.
#[derive(Clone, Copy)]
struct Avx512;

// SAFETY, all through: whoever names `Avx2` or `Avx512` has detected the instructions; loads and stores go through references to
// as many numbers as they touch, and need no alignment.

impl Arithmetic for Avx2 {
    type Lanes = [__m256; 2];

    #[inline(always)]
    fn fused(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn splat(x: f32) -> Self::Lanes {
        [unsafe { _mm256_set1_ps(x) }; 2]
    }

    #[inline(always)]
    fn get(from: &[f32; LANES]) -> Self::Lanes {
        let from = from.as_ptr();
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }

    #[inline(always)]
    fn put(x: Self::Lanes, to: &mut [f32; LANES]) {
        let to = to.as_mut_ptr();
        unsafe {
            _mm256_storeu_ps(to, x[0]);
            _mm256_storeu_ps(to.add(8), x[1]);
        }
    }

    #[inline(always)]
    fn add(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_add(a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn max(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes {
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sum(x: Self::Lanes) -> f32 {
        sum_of_eight(unsafe { _mm256_add_ps(x[0], x[1]) })
    }

    #[inline(always)]
    fn sums(x: [Self::Lanes; 8]) -> [f32; 8] {
        let mut halves = [unsafe { _mm256_set1_ps(0.0) }; 8];
        for (half, x) in halves.iter_mut().zip(x) {
            *half = unsafe { _mm256_add_ps(x[0], x[1]) };
        }
        sums_of_eight(halves)
    }
}

/// Sum of the lanes, by halves.
#[inline(always)]
fn sum_of_eight(x: __m256) -> f32 {
    // SAFETY: called by the implementations here only.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

/// The sum of each, by neighbours and then by halves.
#[inline(always)]
fn sums_of_eight(x: [__m256; 8]) -> [f32; 8] {
    let mut sums = [0.0; 8];
    // SAFETY: called by the implementations here only; the store writes eight numbers.
    unsafe {
        let pairs = [_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]), _mm256_hadd_ps(x[4], x[5]), _mm256_hadd_ps(x[6], x[7])];
        let (first, last) = (_mm256_hadd_ps(pairs[0], pairs[1]), _mm256_hadd_ps(pairs[2], pairs[3]));
        let (low, high) = (_mm256_permute2f128_ps::<0x20>(first, last), _mm256_permute2f128_ps::<0x31>(first, last));
        _mm256_storeu_ps(sums.as_mut_ptr(), _mm256_add_ps(low, high));
    }
    sums
}

impl Arithmetic for Avx512 {
    type Lanes = __m512;

    #[inline(always)]
    fn fused(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn get(from: &[f32; LANES]) -> __m512 {
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn put(x: __m512, to: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn sum(x: __m512) -> f32 {
        sum_of_eight(unsafe { _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x)) })
    }

    #[inline(always)]
    fn sums(x: [__m512; 8]) -> [f32; 8] {
        // A loop and no closure: a closure is not always inlined, and a call by 512-bit registers goes through memory.
        let mut halves = [unsafe { _mm256_set1_ps(0.0) }; 8];
        for (half, x) in halves.iter_mut().zip(x) {
            *half = unsafe { _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x)) };
        }
        sums_of_eight(halves)
    }
}
