//! The instruction set: each kernel's body is written once, compiled for each and chosen at run time; `exp` and `sigmoid`.
//!
//! Sums of products name their registers, through [`Arithmetic`]; what goes number by number is left to the compiler's own
//! vectoriser. All must be inlined into the entry point of an instruction set to be compiled for it, hence `inline(always)`.

#![expect(unsafe_code, reason = "vector instructions, behind the check that the processor has them")]

/// Numbers in a register.
pub(super) const LANES: usize = 8;

/// How to multiply and add, one number or [`LANES`] of them at a time.
pub(super) trait Arithmetic: Copy {
    /// A register.
    type Lanes: Copy;

    /// `a * b + c`.
    fn fused(a: f32, b: f32, c: f32) -> f32;

    /// `x` in every lane.
    fn splat(x: f32) -> Self::Lanes;

    /// The first [`LANES`] numbers of `from`.
    fn load(from: &[f32]) -> Self::Lanes;

    /// Writes over the first [`LANES`] numbers of `to`.
    fn store(x: Self::Lanes, to: &mut [f32]);

    /// `a + b`.
    fn add(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;

    /// `a - b`.
    fn sub(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;

    /// `a * b`.
    fn mul(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;

    /// `a * b + c`.
    fn mul_add(a: Self::Lanes, b: Self::Lanes, c: Self::Lanes) -> Self::Lanes;

    /// The larger of each two; `b` where either is no number.
    fn max(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;

    /// Sum of the lanes, by halves.
    fn sum(x: Self::Lanes) -> f32;
}

/// What every processor can. A fused operation is a slow library call where there is no instruction for it.
#[derive(Clone, Copy)]
struct Portable;

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
    fn load(from: &[f32]) -> Self::Lanes {
        from[..LANES].try_into().expect("as many as lanes")
    }

    #[inline(always)]
    fn store(x: Self::Lanes, to: &mut [f32]) {
        to[..LANES].copy_from_slice(&x);
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
        let four: [f32; 4] = std::array::from_fn(|i| x[i] + x[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
}

/// AVX2 and FMA. Private: only [`dispatch`] names it, after it has asked the processor.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehl_ps, _mm_shuffle_ps, _mm256_add_ps, _mm256_castps256_ps128,
        _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_mul_ps, _mm256_set1_ps, _mm256_storeu_ps,
        _mm256_sub_ps,
    };

    use super::{Arithmetic, LANES};

    #[derive(Clone, Copy)]
    pub struct Avx2;

    // SAFETY, all through: whoever names `Avx2` has detected the instructions; loads and stores go through references to as
    // many numbers as they touch, and need no alignment.
    impl Arithmetic for Avx2 {
        type Lanes = __m256;

        #[inline(always)]
        fn fused(a: f32, b: f32, c: f32) -> f32 {
            a.mul_add(b, c)
        }

        #[inline(always)]
        fn splat(x: f32) -> __m256 {
            unsafe { _mm256_set1_ps(x) }
        }

        #[inline(always)]
        fn load(from: &[f32]) -> __m256 {
            let from = &from[..LANES];
            unsafe { _mm256_loadu_ps(from.as_ptr()) }
        }

        #[inline(always)]
        fn store(x: __m256, to: &mut [f32]) {
            let to = &mut to[..LANES];
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), x) }
        }

        #[inline(always)]
        fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }

        #[inline(always)]
        fn sub(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }

        #[inline(always)]
        fn mul(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }

        #[inline(always)]
        fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        fn max(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }

        #[inline(always)]
        fn sum(x: __m256) -> f32 {
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
            }
        }
    }
}

/// A kernel with its arguments. `run` and all it calls must be `inline(always)`.
pub(super) trait Kernel {
    /// Does the work.
    fn run<A: Arithmetic>(self);
}

/// Runs `kernel` with the widest instructions this processor has.
pub(super) fn dispatch(kernel: impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn wide(kernel: impl Kernel) {
            kernel.run::<avx2::Avx2>();
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: both features have just been detected.
            return unsafe { wide(kernel) };
        }
    }
    kernel.run::<Portable>();
}

/// `sum(a * b)`; equal lengths.
#[inline(always)]
pub(super) fn dot<A: Arithmetic>(a: &[f32], b: &[f32]) -> f32 {
    let b = &b[..a.len()];
    let (mut even, mut odd) = (A::splat(0.0), A::splat(0.0));
    let (mut pairs, mut others) = (a.chunks_exact(2 * LANES), b.chunks_exact(2 * LANES));
    for (a, b) in (&mut pairs).zip(&mut others) {
        even = A::mul_add(A::load(a), A::load(b), even);
        odd = A::mul_add(A::load(&a[LANES..]), A::load(&b[LANES..]), odd);
    }
    let (mut a, mut b) = (pairs.remainder(), others.remainder());
    if a.len() >= LANES {
        even = A::mul_add(A::load(a), A::load(b), even);
        (a, b) = (&a[LANES..], &b[LANES..]);
    }
    let mut rest = 0.0;
    for (&a, &b) in a.iter().zip(b) {
        rest = A::fused(a, b, rest);
    }
    A::sum(A::add(even, odd)) + rest
}

/// `y += a * x`; equal lengths.
#[inline(always)]
pub(super) fn axpy<A: Arithmetic>(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = A::fused(a, x, *y);
    }
}

/// `exp(x)`, relative error below 2e-7; 0 below the least normal number, constant from 88.37 on, NaN for NaN.
///
/// `x = n ln 2 + r`, a polynomial in `r`, and `n` into the exponent's bits. Coefficients: Cephes, `expf`.
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "coefficients as published")]
pub(super) fn exp<A: Arithmetic>(x: f32) -> f32 {
    const LOWEST: f32 = -87.336_54;
    const HIGHEST: f32 = 88.376_26;
    /// Adding this rounds to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let below = x < LOWEST;
    let x = if below { LOWEST } else { x };
    // Not `f32::min`: that would hide NaN.
    let x = if x > HIGHEST { HIGHEST } else { x };
    let shifted = A::fused(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = A::fused(n, 2.121_944_4e-4, A::fused(n, -0.693_359_375, x));
    let mut p = 1.987_569_15e-4;
    for coefficient in [1.398_199_95e-3, 8.333_451_9e-3, 4.166_579_6e-2, 1.666_666_55e-1, 0.5] {
        p = A::fused(p, r, coefficient);
    }
    let p = A::fused(p, r * r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if below { 0.0 } else { p * power }
}

/// `1 / (1 + exp(-x))`.
#[inline(always)]
pub(super) fn sigmoid<A: Arithmetic>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<A>(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Accuracy<'a> {
        worst: &'a mut f64,
    }

    impl Kernel for Accuracy<'_> {
        fn run<A: Arithmetic>(self) {
            for i in -87_000..88_000 {
                let x = i as f32 / 1000.0 + 0.000_37;
                let exact = f64::from(x).exp();
                *self.worst = self.worst.max((f64::from(exp::<A>(x)) - exact).abs() / exact);
            }
            let exact = [(f32::NEG_INFINITY, 0.0), (f32::MIN, 0.0), (0.0, 1.0), (f32::INFINITY, exp::<A>(89.0))];
            assert!(exact.iter().all(|&(x, expected)| exp::<A>(x).to_bits() == expected.to_bits()));
            assert!(exp::<A>(f32::NAN).is_nan());
        }
    }

    #[test]
    fn exp_is_accurate() {
        let mut worst = [0.0; 2];
        dispatch(Accuracy { worst: &mut worst[0] });
        Accuracy { worst: &mut worst[1] }.run::<Portable>();
        assert!(worst[0].max(worst[1]) < 2e-7, "relative errors {worst:?}");
    }

    /// Both instruction sets, on the same numbers.
    struct Sums<'a> {
        found: &'a mut Vec<f32>,
    }

    impl Kernel for Sums<'_> {
        fn run<A: Arithmetic>(self) {
            let numbers: Vec<f32> = (0..37).map(|i| (i as f32 - 11.0) / 8.0).collect();
            for n in 0..37 {
                self.found.push(dot::<A>(&numbers[..n], &numbers[..n]));
            }
            let (a, b) = (A::load(&numbers), A::load(&numbers[20..]));
            for x in [A::add(a, b), A::sub(a, b), A::mul(a, b), A::max(a, b), A::mul_add(a, b, A::splat(2.0))] {
                let mut stored = [0.0; LANES];
                A::store(x, &mut stored);
                self.found.extend(stored);
                self.found.push(A::sum(x));
            }
        }
    }

    #[test]
    fn instruction_sets_agree() {
        let (mut found, mut portable) = (Vec::new(), Vec::new());
        dispatch(Sums { found: &mut found });
        Sums { found: &mut portable }.run::<Portable>();
        // All these numbers are exact.
        assert_eq!(found, portable);
    }
}
