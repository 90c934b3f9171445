//! What the machine can do: multiplications and memory traffic a second, to compare kernels with.

use std::time::Instant;

use crate::simd::{Arithmetic, Kernel, LANES, dispatch};

/// Fused multiplications and additions a second of all threads together, nothing read from memory.
pub fn multiplications_per_second() -> f64 {
    /// Independent sums, enough to hide the latency of an addition on every processor in use.
    const CHAINS: usize = 6;
    const ROUNDS: usize = 1 << 22;
    struct Multiply<'a>(&'a mut f32);
    impl Kernel for Multiply<'_> {
        #[inline(always)]
        fn run<A: Arithmetic>(self) {
            let (a, b) = (A::splat(std::hint::black_box(0.999_999)), A::splat(std::hint::black_box(1e-6)));
            let mut sums = [b; CHAINS];
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    *sum = A::mul_add(*sum, a, b);
                }
            }
            *self.0 = sums.into_iter().map(A::sum).sum();
        }
    }
    let seconds = on_all_threads(|| {
        let mut total = 0.0;
        dispatch(Multiply(&mut total));
        std::hint::black_box(total);
    });
    (rayon::current_num_threads() * ROUNDS * CHAINS * LANES) as f64 / seconds
}

/// Bytes read a second by all threads together, from arrays larger than any cache.
pub fn bytes_per_second() -> f64 {
    const NUMBERS: usize = 1 << 26;
    struct Sum<'a>(&'a [f32], &'a mut f32);
    impl Kernel for Sum<'_> {
        #[inline(always)]
        fn run<A: Arithmetic>(self) {
            let mut sums = [A::splat(0.0); 4];
            for part in self.0.chunks_exact(4 * LANES) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = A::add(*sum, A::load(&part[i * LANES..]));
                }
            }
            *self.1 = sums.into_iter().map(A::sum).sum();
        }
    }
    let numbers = vec![1.0_f32; NUMBERS];
    let seconds = on_all_threads(|| {
        let mut total = 0.0;
        dispatch(Sum(&numbers, &mut total));
        std::hint::black_box(total);
    });
    (rayon::current_num_threads() * NUMBERS * size_of::<f32>()) as f64 / seconds
}

/// Least time of twenty runs of `work` on every thread at once.
fn on_all_threads(work: impl Fn() + Sync) -> f64 {
    let run = || {
        let began = Instant::now();
        rayon::broadcast(|_| work());
        began.elapsed().as_secs_f64()
    };
    (0..20).map(|_| run()).fold(f64::INFINITY, f64::min)
}
