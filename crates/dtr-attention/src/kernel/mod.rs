//! Fused kernels on plain f32 slices, for CPU backends. Every loop has a fixed order: results do not depend on the number of threads.

#![expect(clippy::inline_always, reason = "a body takes on the instruction set of the function it is inlined into")]
#![expect(clippy::too_many_arguments, reason = "kernels take plain slices")]

pub(crate) mod attention;
pub(crate) mod delta;
pub(crate) mod rows;
pub(crate) mod simd;

/// A tensor of four dimensions read through its strides; the last dimension is contiguous.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub data: &'a [f32],
    pub strides: [usize; 3],
    pub shape: [usize; 4],
}

impl<'a> View<'a> {
    /// The row at `[i, j, k, ..]`.
    #[inline(always)]
    pub fn row(&self, i: usize, j: usize, k: usize) -> &'a [f32] {
        let start = i * self.strides[0] + j * self.strides[1] + k * self.strides[2];
        &self.data[start..start + self.shape[3]]
    }

    /// The rows `[i, j, ..]` from the first on, and how far they lie apart.
    pub fn strip(&self, i: usize, j: usize) -> Strip<'a> {
        Strip { data: &self.data[i * self.strides[0] + j * self.strides[1]..], stride: self.strides[2] }
    }
}

/// Rows at equal distances.
#[derive(Clone, Copy)]
pub(crate) struct Strip<'a> {
    pub data: &'a [f32],
    pub stride: usize,
}

impl<'a> Strip<'a> {
    /// The first `width` elements of row `index`.
    #[inline(always)]
    pub fn row(&self, index: usize, width: usize) -> &'a [f32] {
        &self.data[index * self.stride..][..width]
    }
}
