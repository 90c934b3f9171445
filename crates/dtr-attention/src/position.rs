//! Where tokens stand and who sees whom: positions with padding, causal spans, masks.

use burn::prelude::*;

/// Position given to padding. Larger than that of any token, so that a causal mask hides padding by itself.
const PADDING: i64 = 1 << 30;

/// Which earlier keys a query sees. It always sees itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Number of latest positions seen, the query's own among them. `None`: all.
    pub window: Option<usize>,
    /// Number of first positions that are seen from everywhere.
    pub sinks: usize,
}

impl Span {
    /// Every earlier position.
    pub const FULL: Self = Self { window: None, sinks: 0 };
}

/// Position of each token within its sequence, counted from 0 without padding.
///
/// Padding may stand on either side; it has a position of its own that no token ever sees.
#[derive(Debug, Clone)]
pub struct Positions<B: Backend> {
    /// `[B, T]`, or `[1, T]` if all rows are alike.
    index: Tensor<B, 2, Int>,
    padded: bool,
}

impl<B: Backend> Positions<B> {
    /// Positions `start..start + length` in every row, no padding.
    pub fn range(start: usize, length: usize, device: &B::Device) -> Self {
        let index = Tensor::arange(start as i64..(start + length) as i64, device).unsqueeze();
        Self { index, padded: false }
    }

    /// Rows in which `true` marks a token and `false` padding; row `b` starts to count at `start[b]`.
    ///
    /// # Panics
    /// If the rows differ in length, or in number from `start`.
    pub fn padded(rows: &[Vec<bool>], start: &[usize], device: &B::Device) -> Self {
        assert_eq!(rows.len(), start.len(), "one start a row");
        let length = rows.first().map_or(0, Vec::len);
        let mut index = Vec::with_capacity(rows.len() * length);
        for (row, &start) in rows.iter().zip(start) {
            assert_eq!(row.len(), length, "rows of one length");
            let mut next = start as i64;
            index.extend(row.iter().map(|&token| {
                next += i64::from(token);
                if token { next - 1 } else { PADDING }
            }));
        }
        let padded = rows.iter().flatten().any(|token| !token);
        let index = Tensor::from_data(TensorData::new(index, [rows.len(), length]), device);
        Self { index, padded }
    }

    /// Number of columns `T`.
    pub fn length(&self) -> usize {
        self.index.dims()[1]
    }

    /// Whether any row has padding.
    pub fn is_padded(&self) -> bool {
        self.padded
    }

    /// These positions followed by `later` ones.
    #[must_use]
    pub fn followed_by(&self, later: &Self) -> Self {
        let rows = self.index.dims()[0].max(later.index.dims()[0]);
        let wide = |index: &Tensor<B, 2, Int>| {
            let [have, length] = index.dims();
            if have == rows { index.clone() } else { index.clone().expand([rows, length]) }
        };
        Self { index: Tensor::cat(vec![wide(&self.index), wide(&later.index)], 1), padded: self.padded || later.padded }
    }

    /// The columns `range`.
    #[must_use]
    pub fn narrow(&self, range: std::ops::Range<usize>) -> Self {
        Self { index: self.index.clone().narrow(1, range.start, range.len()), padded: self.padded }
    }

    /// The columns `columns[b]` of row `b`: `[B, N]` indices.
    #[must_use]
    pub fn gather(&self, columns: Tensor<B, 2, Int>) -> Self {
        let [rows, length] = [columns.dims()[0], self.length()];
        let index = if self.index.dims()[0] == rows { self.index.clone() } else { self.index.clone().expand([rows, length]) };
        Self { index: index.gather(1, columns), padded: self.padded }
    }

    /// The same with the columns marked in `dropped [B, T]` turned into padding.
    #[must_use]
    pub fn without(self, dropped: Tensor<B, 2, Bool>) -> Self {
        Self { index: self.index.mask_fill(dropped, PADDING), padded: true }
    }

    /// Positions as numbers, padding as 0: `[B or 1, T]`.
    pub fn values(&self) -> Tensor<B, 2> {
        if self.padded { self.index.clone().mask_fill(self.index.clone().equal_elem(PADDING), 0).float() } else { self.index.clone().float() }
    }

    /// 1 for tokens and 0 for padding, `[B, T]`; `None` without padding.
    pub fn tokens(&self) -> Option<Tensor<B, 2>> {
        self.padded.then(|| self.index.clone().lower_elem(PADDING).float())
    }

    /// Which of `keys` the queries at these positions do *not* see, `[B or 1, 1, Tq, Tk]`.
    ///
    /// `hidden(i, j) = p_j > p_i  or  (p_i - p_j >= window and p_j >= sinks)`.
    ///
    /// A padded query sees padding, so that no row of a softmax is empty.
    pub fn hidden(&self, keys: &Self, span: Span) -> Tensor<B, 4, Bool> {
        let rows = self.index.dims()[0].max(keys.index.dims()[0]);
        let shape = [rows, 1, self.length(), keys.length()];
        let query = self.index.clone().unsqueeze_dims::<4>(&[1, -1]).expand(shape);
        let key = keys.index.clone().unsqueeze_dims::<4>(&[1, 1]).expand(shape);
        let later = key.clone().greater(query.clone());
        match span.window {
            None => later,
            Some(window) => {
                let far = (query - key.clone()).greater_equal_elem(window as i64);
                later.bool_or(far.bool_and(key.greater_equal_elem(span.sinks as i64)))
            }
        }
    }
}
