//! A row of the state in registers: `R * LANES` columns of it, zeros beyond the last.

use crate::simd::{Arithmetic, LANES};

/// In registers.
pub(super) type Row<A, const R: usize> = [<A as Arithmetic>::Lanes; R];

/// In memory. Lengths are part of the type, so that a loop over rows has nothing to check.
pub(super) type Stored<const R: usize> = [[f32; LANES]; R];

#[inline(always)]
pub(super) fn zero<A: Arithmetic, const R: usize>() -> Row<A, R> {
    [A::splat(0.0); R]
}

#[inline(always)]
pub(super) fn scaled<A: Arithmetic, const R: usize>(a: f32, mut x: Row<A, R>) -> Row<A, R> {
    for x in &mut x {
        *x = A::mul(A::splat(a), *x);
    }
    x
}

/// `a * x + y`.
#[inline(always)]
pub(super) fn axpy<A: Arithmetic, const R: usize>(a: f32, x: Row<A, R>, mut y: Row<A, R>) -> Row<A, R> {
    for r in 0..R {
        y[r] = A::mul_add(A::splat(a), x[r], y[r]);
    }
    y
}

/// `x - y`.
#[inline(always)]
pub(super) fn minus<A: Arithmetic, const R: usize>(mut x: Row<A, R>, y: Row<A, R>) -> Row<A, R> {
    for r in 0..R {
        x[r] = A::sub(x[r], y[r]);
    }
    x
}

/// `sum_r x[r] * y[r] + z`, lane by lane.
#[inline(always)]
pub(super) fn fold<A: Arithmetic, const R: usize>(x: Row<A, R>, y: Row<A, R>, mut z: A::Lanes) -> A::Lanes {
    for r in 0..R {
        z = A::mul_add(x[r], y[r], z);
    }
    z
}

/// `sum(x * y)`.
#[inline(always)]
pub(super) fn overlap<A: Arithmetic, const R: usize>(x: Row<A, R>, y: Row<A, R>) -> f32 {
    A::sum(fold::<A, R>(x, y, A::splat(0.0)))
}

#[inline(always)]
pub(super) fn load<A: Arithmetic, const R: usize>(from: &Stored<R>) -> Row<A, R> {
    let mut row = zero::<A, R>();
    for r in 0..R {
        row[r] = A::get(&from[r]);
    }
    row
}

#[inline(always)]
pub(super) fn store<A: Arithmetic, const R: usize>(row: Row<A, R>, to: &mut Stored<R>) {
    for r in 0..R {
        A::put(row[r], &mut to[r]);
    }
}

/// Columns from `column` on, zeros beyond the last.
#[inline(always)]
pub(super) fn part<A: Arithmetic, const R: usize>(from: &[f32], column: usize) -> Row<A, R> {
    let from = &from[column..];
    let mut row = zero::<A, R>();
    if from.len() >= R * LANES {
        for (r, register) in row.iter_mut().enumerate() {
            *register = A::load(&from[r * LANES..]);
        }
    } else {
        // Only a single register is ever filled in part.
        let mut padded = [0.0; LANES];
        padded[..from.len()].copy_from_slice(from);
        row[0] = A::get(&padded);
    }
    row
}

/// Writes to the columns from `column` on, as far as there are any.
#[inline(always)]
pub(super) fn write<A: Arithmetic, const R: usize>(row: Row<A, R>, to: &mut [f32], column: usize) {
    let to = &mut to[column..];
    if to.len() >= R * LANES {
        for (r, register) in row.into_iter().enumerate() {
            A::store(register, &mut to[r * LANES..]);
        }
    } else {
        let mut padded = [0.0; LANES];
        A::put(row[0], &mut padded);
        let count = to.len();
        to.copy_from_slice(&padded[..count]);
    }
}

/// Numbers as rows of registers.
#[inline(always)]
pub(super) fn rows<const R: usize>(numbers: &mut [f32]) -> &mut [Stored<R>] {
    numbers.as_chunks_mut::<LANES>().0.as_chunks_mut::<R>().0
}
