//! The instruction set: each kernel's body is written once, compiled for each and chosen at run time; `exp` and `sigmoid`.
//!
//! Sums of products name their registers, through [`Arithmetic`]; what goes number by number is left to the compiler's own
//! vectoriser. All must be inlined into the entry point of an instruction set to be compiled for it, hence `inline(always)`.

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Numbers that are handled together: a register of AVX-512, two of AVX2, four of NEON.
pub const LANES: usize = 16;

/// How to multiply and add, one number or [`LANES`] of them at a time.
pub trait Arithmetic: Copy {
    /// [`LANES`] numbers.
    type Lanes: Copy;

    /// `a * b + c`.
    fn fused(a: f32, b: f32, c: f32) -> f32;

    /// `x` in every lane.
    fn splat(x: f32) -> Self::Lanes;

    /// These numbers.
    fn get(from: &[f32; LANES]) -> Self::Lanes;

    /// Writes over these numbers.
    fn put(x: Self::Lanes, to: &mut [f32; LANES]);

    /// The first [`LANES`] numbers of `from`.
    #[inline(always)]
    fn load(from: &[f32]) -> Self::Lanes {
        Self::get(from.first_chunk().expect("as many numbers as lanes"))
    }

    /// Writes over the first [`LANES`] numbers of `to`.
    #[inline(always)]
    fn store(x: Self::Lanes, to: &mut [f32]) {
        Self::put(x, to.first_chunk_mut().expect("as many numbers as lanes"));
    }

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

    /// [`Self::sum`] of eight at once, which is cheaper together; in an order of its own.
    #[inline(always)]
    fn sums(x: [Self::Lanes; 8]) -> [f32; 8] {
        x.map(Self::sum)
    }
}

/// A kernel with its arguments. `run` and all it calls must be `inline(always)`.
pub trait Kernel {
    /// Does the work.
    fn run<A: Arithmetic>(self);
}

/// An instruction set that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every processor of this architecture can.
    Portable,
    /// NEON, which every 64-bit ARM has.
    Neon,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, VL, BW and DQ.
    Avx512,
}

/// The widest instruction set that this processor has. The environment variable `DTR_SIMD` (`portable`, `avx2`) lowers it.
pub fn level() -> Level {
    static LEVEL: std::sync::OnceLock<Level> = std::sync::OnceLock::new();
    *LEVEL.get_or_init(|| {
        let wanted = match std::env::var("DTR_SIMD").as_deref() {
            Ok("portable") => Level::Portable,
            Ok("avx2") => Level::Avx2,
            _ => Level::Avx512,
        };
        detected().min(wanted)
    })
}

fn detected() -> Level {
    #[cfg(target_arch = "x86_64")]
    return x86::detected();
    #[cfg(target_arch = "aarch64")]
    return Level::Neon;
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Level::Portable;
}

/// Runs `kernel` with the instructions of [`level`].
pub fn dispatch(kernel: impl Kernel) {
    match level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => x86::avx512(kernel),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => x86::avx2(kernel),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => kernel.run::<neon::Neon>(),
        _ => kernel.run::<portable::Portable>(),
    }
}

/// `sum(a * b)`; equal lengths.
#[inline(always)]
pub fn dot<A: Arithmetic>(a: &[f32], b: &[f32]) -> f32 {
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
pub fn axpy<A: Arithmetic>(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = A::fused(a, x, *y);
    }
}

/// `exp(x)`, relative error below 2e-7; 0 below the least normal number, constant from 88.37 on, NaN for NaN.
///
/// `x = n ln 2 + r`, a polynomial in `r`, and `n` into the exponent's bits. Coefficients: Cephes, `expf`.
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "coefficients as published")]
pub fn exp<A: Arithmetic>(x: f32) -> f32 {
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
pub fn sigmoid<A: Arithmetic>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<A>(-x))
}

#[cfg(test)]
mod tests {
    use super::portable::Portable;
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

    /// Every instruction set, on the same numbers.
    struct Sums<'a> {
        found: &'a mut Vec<f32>,
    }

    impl Kernel for Sums<'_> {
        fn run<A: Arithmetic>(self) {
            let numbers: Vec<f32> = (0..77).map(|i| (i as f32 - 11.0) / 8.0).collect();
            for n in 0..77 {
                self.found.push(dot::<A>(&numbers[..n], &numbers[..n]));
            }
            let (a, b) = (A::load(&numbers), A::load(&numbers[40..]));
            let eight: [A::Lanes; 8] = std::array::from_fn(|i| A::mul(A::splat(i as f32 - 3.0), A::load(&numbers[i..])));
            self.found.extend(A::sums(eight));
            self.found.extend(eight.map(A::sum));
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
