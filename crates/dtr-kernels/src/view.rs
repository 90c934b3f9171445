//! Reading inputs through their strides.

/// Rows of an array of rank `R`, found by their first `R - 1` indices.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, const R: usize> {
    numbers: &'a [f32],
    shape: [usize; R],
    strides: [usize; R],
}

impl<'a, const R: usize> View<'a, R> {
    /// An array whose number `[i, j, ..]` is `numbers[i * strides[0] + j * strides[1] + ..]`. A stride of 0 repeats.
    ///
    /// # Panics
    /// If `numbers` ends too early, or the last dimension is longer than 1 and not contiguous.
    pub fn new(numbers: &'a [f32], shape: [usize; R], strides: [usize; R]) -> Self {
        assert!(R == 0 || shape[R - 1] <= 1 || strides[R - 1] == 1, "the last dimension must be contiguous");
        assert!(reach(&shape, &strides) <= numbers.len(), "numbers end before shape {shape:?} with strides {strides:?}");
        Self { numbers, shape, strides }
    }

    /// A contiguous array.
    ///
    /// # Panics
    /// If `numbers` ends too early.
    pub fn contiguous(numbers: &'a [f32], shape: [usize; R]) -> Self {
        let mut strides = [1; R];
        for i in (1..R).rev() {
            strides[i - 1] = strides[i] * shape[i];
        }
        Self::new(numbers, shape, strides)
    }

    /// Lengths of the dimensions.
    pub fn shape(&self) -> [usize; R] {
        self.shape
    }

    /// Length of the last dimension.
    pub fn width(&self) -> usize {
        self.shape[R - 1]
    }

    /// The first `width` numbers of each row.
    ///
    /// # Panics
    /// If there are not as many.
    #[must_use]
    pub fn narrow(mut self, width: usize) -> Self {
        assert!(width <= self.width(), "{width} numbers of rows of {}", self.width());
        self.shape[R - 1] = width;
        self
    }
}

/// How many numbers an array reaches over.
fn reach(shape: &[usize], strides: &[usize]) -> usize {
    if shape.contains(&0) { 0 } else { shape.iter().zip(strides).map(|(length, stride)| (length - 1) * stride).sum::<usize>() + 1 }
}

impl<'a> View<'a, 2> {
    /// Row `[i, ..]`.
    #[inline(always)]
    pub fn row(&self, i: usize) -> &'a [f32] {
        let start = i * self.strides[0];
        &self.numbers[start..start + self.shape[1]]
    }
}

impl<'a> View<'a, 3> {
    /// Row `[i, j, ..]`.
    #[inline(always)]
    pub fn row(&self, i: usize, j: usize) -> &'a [f32] {
        let start = i * self.strides[0] + j * self.strides[1];
        &self.numbers[start..start + self.shape[2]]
    }
}

impl<'a> View<'a, 4> {
    /// Row `[i, j, k, ..]`.
    #[inline(always)]
    pub fn row(&self, i: usize, j: usize, k: usize) -> &'a [f32] {
        let start = i * self.strides[0] + j * self.strides[1] + k * self.strides[2];
        &self.numbers[start..start + self.shape[3]]
    }
}

/// All rows of an array of any rank, numbered in the order of given axes.
#[derive(Debug)]
pub struct Rows<'a> {
    numbers: &'a [f32],
    /// Lengths and strides of the leading axes, those that run on into each other made one.
    axes: Vec<(usize, usize)>,
    /// Length of the last dimension.
    pub width: usize,
}

impl<'a> Rows<'a> {
    /// Rows of an array, its leading axes taken in the order `order[..rank - 1]`; the last axis stays last.
    ///
    /// # Panics
    /// If `numbers` ends too early, the last dimension is not contiguous, or `order` does not name every axis once.
    pub fn new(numbers: &'a [f32], shape: &[usize], strides: &[usize], order: &[usize]) -> Self {
        let rank = shape.len();
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        assert!(sorted.iter().copied().eq(0..rank) && order[rank - 1] == rank - 1, "{order:?} is no order of {rank} axes");
        assert!(shape[rank - 1] <= 1 || strides[rank - 1] == 1, "the last dimension must be contiguous");
        assert!(reach(shape, strides) <= numbers.len(), "numbers end before shape {shape:?} with strides {strides:?}");
        let mut axes: Vec<(usize, usize)> = Vec::with_capacity(rank);
        for &axis in &order[..rank - 1] {
            let (length, stride) = (shape[axis], strides[axis]);
            match axes.last_mut() {
                _ if length == 1 => {}
                Some(outer) if outer.1 == length * stride => *outer = (outer.0 * length, stride),
                _ => axes.push((length, stride)),
            }
        }
        Self { numbers, axes, width: shape[rank - 1] }
    }

    /// Number of rows.
    pub fn count(&self) -> usize {
        self.axes.iter().map(|&(length, _)| length).product()
    }

    /// Row number `index`.
    #[inline(always)]
    pub fn row(&self, index: usize) -> &'a [f32] {
        let mut start = 0;
        let mut rest = index as u32;
        for &(length, stride) in self.axes[1.min(self.axes.len())..].iter().rev() {
            start += (rest % length as u32) as usize * stride;
            rest /= length as u32;
        }
        start += rest as usize * self.axes.first().map_or(0, |&(_, stride)| stride);
        &self.numbers[start..start + self.width]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_are_followed() {
        let numbers: Vec<f32> = (0..24_u8).map(f32::from).collect();
        let plain = View::contiguous(&numbers, [2, 3, 4]);
        assert_eq!(plain.row(1, 2), [20.0, 21.0, 22.0, 23.0]);
        let swapped = View::new(&numbers, [3, 2, 4], [4, 12, 1]);
        assert_eq!(swapped.row(2, 1), plain.row(1, 2));
        let repeated = View::new(&numbers, [5, 2, 4], [0, 12, 1]);
        assert_eq!(repeated.row(4, 1), plain.row(1, 0));
        let rows = Rows::new(&numbers, &[3, 2, 4], &[4, 12, 1], &[1, 0, 2]);
        assert_eq!((rows.count(), rows.row(5)), (6, plain.row(1, 2)));
    }

    #[test]
    #[should_panic(expected = "numbers end before")]
    fn a_view_beyond_its_numbers_is_refused() {
        let _ = View::contiguous(&[0.0; 5], [2, 3]);
    }
}
