//! The instruction set: one body per kernel, compiled twice and chosen at run time; lanes, `exp` and `sigmoid`.
//!
//! Nothing here names a vector instruction. Bodies work on arrays of [`LANES`] numbers, which the compiler keeps in
//! registers. What is inlined into the entry point of an instruction set is compiled for it, hence `inline(always)`.

#![expect(unsafe_code, reason = "entering a function compiled for a detected instruction set is an unsafe call")]

/// Numbers handled at a time.
pub(super) const LANES: usize = 8;

/// One register full of numbers.
pub(super) type Lanes = [f32; LANES];

/// How to multiply and add. A fused operation is fast only where the instruction exists; elsewhere it is a library call.
pub(super) trait Arithmetic: Copy {
    /// `a * b + c`.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
}

/// Multiply and add with one rounding, on processors that can.
#[derive(Clone, Copy)]
pub(super) struct Fused;

/// Multiply, then add.
#[derive(Clone, Copy)]
pub(super) struct Plain;

impl Arithmetic for Fused {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

impl Arithmetic for Plain {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
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
            kernel.run::<Fused>();
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: both features have just been detected.
            return unsafe { wide(kernel) };
        }
    }
    // Every 64-bit ARM has the fused instruction in its base set.
    #[cfg(target_arch = "aarch64")]
    kernel.run::<Fused>();
    #[cfg(not(target_arch = "aarch64"))]
    kernel.run::<Plain>();
}

/// The first [`LANES`] numbers of `from`.
#[inline(always)]
pub(super) fn load(from: &[f32]) -> Lanes {
    from[..LANES].try_into().expect("as many as lanes")
}

/// Writes `lanes` over the first [`LANES`] numbers of `to`.
#[inline(always)]
pub(super) fn store(lanes: Lanes, to: &mut [f32]) {
    to[..LANES].copy_from_slice(&lanes);
}

/// `f(i)` in each lane.
#[inline(always)]
pub(super) fn lanes(mut f: impl FnMut(usize) -> f32) -> Lanes {
    let mut result = [0.0; LANES];
    for (i, lane) in result.iter_mut().enumerate() {
        *lane = f(i);
    }
    result
}

/// `a * b + c`, lane by lane.
#[inline(always)]
pub(super) fn mul_add<A: Arithmetic>(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
    lanes(|i| A::mul_add(a[i], b[i], c[i]))
}

/// Sum of the lanes, by halves.
#[inline(always)]
pub(super) fn sum(x: Lanes) -> f32 {
    let four = [x[0] + x[4], x[1] + x[5], x[2] + x[6], x[3] + x[7]];
    (four[0] + four[2]) + (four[1] + four[3])
}

/// `sum(a * b)`; equal lengths.
#[inline(always)]
pub(super) fn dot<A: Arithmetic>(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len();
    let b = &b[..n];
    let mut total = [[0.0; LANES]; 2];
    let mut i = 0;
    while i + 2 * LANES <= n {
        total[0] = mul_add::<A>(load(&a[i..]), load(&b[i..]), total[0]);
        total[1] = mul_add::<A>(load(&a[i + LANES..]), load(&b[i + LANES..]), total[1]);
        i += 2 * LANES;
    }
    if i + LANES <= n {
        total[0] = mul_add::<A>(load(&a[i..]), load(&b[i..]), total[0]);
        i += LANES;
    }
    let mut rest = 0.0;
    while i < n {
        rest = A::mul_add(a[i], b[i], rest);
        i += 1;
    }
    sum(lanes(|i| total[0][i] + total[1][i])) + rest
}

/// `y += a * x`; equal lengths.
#[inline(always)]
pub(super) fn axpy<A: Arithmetic>(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = A::mul_add(a, x, *y);
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
    let shifted = A::mul_add(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = A::mul_add(n, 2.121_944_4e-4, A::mul_add(n, -0.693_359_375, x));
    let mut p = 1.987_569_15e-4;
    for coefficient in [1.398_199_95e-3, 8.333_451_9e-3, 4.166_579_6e-2, 1.666_666_55e-1, 0.5] {
        p = A::mul_add(p, r, coefficient);
    }
    let p = A::mul_add(p, r * r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if below { 0.0 } else { p * power }
}

/// `1 / (1 + exp(-x))`.
#[inline(always)]
pub(super) fn sigmoid<A: Arithmetic>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<A>(-x))
}
