//! Where tokens stand and who sees whom: positions with padding, causal spans, masks.

use std::ops::Range;
use std::sync::Arc;

use burn::prelude::*;

/// Position given to padding. Larger than that of any token, so that a causal mask hides padding by itself.
pub const PADDING: i32 = 1 << 30;

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

    /// Whether a query at position `query` sees a key at position `key`.
    ///
    /// `p_j <= p_i  and  (p_i - p_j < window or p_j < sinks)`.
    pub fn sees(self, query: i32, key: i32) -> bool {
        let near = self.window.is_none_or(|window| i64::from(query) - i64::from(key) < window as i64);
        key <= query && (near || i64::from(key) < self.sinks as i64)
    }
}

/// Position of each token within its sequence, counted from 0 without padding. Known on the host.
///
/// Padding may stand on either side; it has a position of its own that no token ever sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Positions {
    /// Row by row; one row if all are alike.
    index: Arc<[i32]>,
    rows: usize,
}

impl Positions {
    /// Positions `start..start + length` in every row, no padding.
    pub fn range(start: usize, length: usize) -> Self {
        Self { index: (start as i32..(start + length) as i32).collect(), rows: 1 }
    }

    /// Rows in which `true` marks a token and `false` padding; row `b` starts to count at `start[b]`.
    ///
    /// # Panics
    /// If there is no row, if rows differ in length, or in number from `start`.
    pub fn padded(rows: &[Vec<bool>], start: &[usize]) -> Self {
        assert_eq!(rows.len(), start.len(), "one start a row");
        let mut index = Vec::with_capacity(rows.len() * rows[0].len());
        for (row, &start) in rows.iter().zip(start) {
            assert_eq!(row.len(), rows[0].len(), "rows of one length");
            let mut next = start as i32;
            index.extend(row.iter().map(|&token| {
                next += i32::from(token);
                if token { next - 1 } else { PADDING }
            }));
        }
        Self { index: index.into(), rows: rows.len() }
    }

    /// Number of columns `T`.
    pub fn length(&self) -> usize {
        self.index.len() / self.rows
    }

    /// Number of rows, 1 if all are alike.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Positions row by row; one row if all are alike.
    pub fn all(&self) -> &[i32] {
        &self.index
    }

    /// Positions in row `row` of the batch.
    pub fn row(&self, row: usize) -> &[i32] {
        let (row, length) = (if self.rows == 1 { 0 } else { row }, self.length());
        &self.index[row * length..(row + 1) * length]
    }

    /// One past the last position of a token in row `row` of the batch; 0 if it has none.
    pub fn end(&self, row: usize) -> usize {
        self.row(row).iter().filter(|&&position| position != PADDING).max().map_or(0, |&position| position as usize + 1)
    }

    /// Whether any row has padding.
    pub fn is_padded(&self) -> bool {
        self.index.contains(&PADDING)
    }

    /// All tokens at one position, so that each sees all: the attention of an encoder. Padding stays unseen.
    #[must_use]
    pub fn at_once(&self) -> Self {
        Self { index: self.index.iter().map(|&position| if position == PADDING { PADDING } else { 0 }).collect(), rows: self.rows }
    }

    /// Whether no token sees one in a later column: each stands behind the tokens before it.
    pub fn is_in_order(&self) -> bool {
        (0..self.rows).all(|row| {
            let mut last = -1;
            self.row(row).iter().filter(|&&position| position != PADDING).all(|&position| position > std::mem::replace(&mut last, position))
        })
    }

    /// These positions followed by `later` ones.
    #[must_use]
    pub fn followed_by(&self, later: &Self) -> Self {
        let rows = self.rows.max(later.rows);
        let index = (0..rows).flat_map(|row| self.row(row).iter().chain(later.row(row)).copied()).collect();
        Self { index, rows }
    }

    /// The columns `range`.
    #[must_use]
    pub fn narrow(&self, range: Range<usize>) -> Self {
        let index = (0..self.rows).flat_map(|row| self.row(row)[range.clone()].iter().copied()).collect();
        Self { index, rows: self.rows }
    }

    /// Rows of any length one below the other, the shorter ones behind padding; one row if all are alike.
    ///
    /// # Panics
    /// If there is no row.
    pub fn stacked(rows: &[&[i32]]) -> Self {
        if rows.iter().all(|row| row == &rows[0]) {
            return Self { index: rows[0].into(), rows: 1 };
        }
        let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let padded = |row: &&[i32]| std::iter::repeat_n(PADDING, longest - row.len()).chain(row.to_vec());
        Self { index: rows.iter().flat_map(padded).collect(), rows: rows.len() }
    }

    /// Number of tokens in the row that has most of them.
    pub fn most_tokens(&self) -> usize {
        let count = |row| self.row(row).iter().filter(|&&position| position != PADDING).count();
        (0..self.rows).map(count).max().unwrap_or(0)
    }

    /// Columns that later queries can see, in the order sinks, then window; and the positions that stand there.
    ///
    /// Every row keeps `sinks + window` columns; where it has fewer tokens, some hold padding. With an unbounded span, or
    /// where nothing need be dropped, the answer is `None`.
    pub fn visible_later(&self, span: Span) -> Option<(Vec<Vec<usize>>, Self)> {
        let window = span.window?;
        if !self.is_padded() && self.length() <= span.sinks + window {
            return None;
        }
        let mut columns = Vec::with_capacity(self.rows);
        let mut index = Vec::with_capacity(self.rows * (span.sinks + window));
        for row in 0..self.rows {
            let row = self.row(row);
            let tokens: Vec<usize> = (0..row.len()).filter(|&column| row[column] != PADDING).collect();
            let late = tokens.len().saturating_sub(window).max(span.sinks.min(tokens.len()));
            let sinks = (0..span.sinks).map(|i| tokens.get(i));
            let missing = window - (tokens.len() - late);
            let latest = std::iter::repeat_n(None, missing).chain(tokens[late..].iter().map(Some));
            let kept: Vec<Option<&usize>> = sinks.chain(latest).collect();
            index.extend(kept.iter().map(|column| column.map_or(PADDING, |&column| row[column])));
            columns.push(kept.into_iter().map(|column| column.copied().unwrap_or(0)).collect());
        }
        Some((columns, Self { index: index.into(), rows: self.rows }))
    }

    /// Positions as numbers, padding as 0: `[B or 1, T]`.
    pub fn values<B: Backend>(&self, device: &B::Device) -> Tensor<B, 2> {
        self.tensor(device, |position| if position == PADDING { 0.0 } else { position as f32 })
    }

    /// 1 for tokens and 0 for padding, `[B, T]`; `None` without padding.
    pub fn tokens<B: Backend>(&self, device: &B::Device) -> Option<Tensor<B, 2>> {
        self.is_padded().then(|| self.tensor(device, |position| f32::from(u8::from(position != PADDING))))
    }

    /// Which of `keys` the queries at these positions do *not* see, `[B or 1, 1, Tq, Tk]`.
    ///
    /// A padded query sees padding, so that no row of a softmax is empty.
    pub fn hidden<B: Backend>(&self, keys: &Self, span: Span, device: &B::Device) -> Tensor<B, 4, Bool> {
        let rows = self.rows.max(keys.rows);
        let mut hidden = Vec::with_capacity(rows * self.length() * keys.length());
        for row in 0..rows {
            for &query in self.row(row) {
                hidden.extend(keys.row(row).iter().map(|&key| !span.sees(query, key)));
            }
        }
        Tensor::from_data(TensorData::new(hidden, [rows, 1, self.length(), keys.length()]), device)
    }

    fn tensor<B: Backend>(&self, device: &B::Device, value: impl Fn(i32) -> f32) -> Tensor<B, 2> {
        let values: Vec<f32> = self.index.iter().map(|&position| value(position)).collect();
        Tensor::from_data(TensorData::new(values, [self.rows, self.length()]), device)
    }
}
