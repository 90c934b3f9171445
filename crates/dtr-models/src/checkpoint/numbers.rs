//! Stored numbers into `f32`, as they lie or transposed, strip by strip.

use std::io::{self, Read};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

/// Numbers of a strip, which stay in a core's cache until they are in place.
const STRIP: usize = 1 << 18;
/// Rows of a strip at least, if it is transposed: fewer fill cache lines of the result in part only.
const ROWS: usize = 256;
/// Numbers that one thread converts at a time.
const PIECE: usize = 1 << 15;
/// Columns that one thread writes at a time: a cache line of each row.
const COLUMNS: usize = 16;

/// How a number is stored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    F32,
    F16,
    Bf16,
}

impl Number {
    /// The type, if it is one that weights are read from.
    pub(super) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    fn convert(self, bytes: &[u8], numbers: &mut [f32]) {
        match self {
            Self::F32 => {
                let stored = bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four));
                numbers.iter_mut().zip(stored).for_each(|(number, stored)| *number = stored);
            }
            Self::F16 => {
                let halves: Vec<f16> = bytes.as_chunks::<2>().0.iter().map(|two| f16::from_le_bytes(*two)).collect();
                halves.convert_to_f32_slice(numbers);
            }
            Self::Bf16 => {
                let stored = bytes.as_chunks::<2>().0.iter().map(|two| bf16::from_le_bytes(*two).to_f32());
                numbers.iter_mut().zip(stored).for_each(|(number, stored)| *number = stored);
            }
        }
    }

    fn convert_all(self, bytes: &[u8], numbers: &mut [f32]) {
        bytes.par_chunks(PIECE * self.bytes()).zip(numbers.par_chunks_mut(PIECE)).for_each(|(bytes, numbers)| self.convert(bytes, numbers));
    }
}

/// How numbers are to lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Row by row, as in the file.
    AsStored,
    /// Column by column.
    Transposed,
}

/// Reads a matrix of `rows` times `columns` numbers.
///
/// # Errors
/// If the file ends before, or cannot be read.
pub(super) fn read_numbers(file: &mut impl Read, number: Number, [rows, columns]: [usize; 2], layout: Layout) -> io::Result<Vec<f32>> {
    let total = rows * columns;
    let mut numbers = vec![0.0; total];
    if layout == Layout::AsStored {
        strips(file, number.bytes(), total, STRIP, |start, bytes| {
            let count = bytes.len() / number.bytes();
            number.convert_all(bytes, &mut numbers[start..start + count]);
        })?;
        return Ok(numbers);
    }
    let strip = (STRIP / columns.max(1)).max(ROWS) * columns;
    // Rows a power of two apart would all fall into the same lines of a cache.
    let stride = columns + COLUMNS;
    let mut scratch = vec![0.0; if total == 0 { 0 } else { strip.min(total) / columns * stride }];
    strips(file, number.bytes(), total, strip, |start, bytes| {
        let (first, count) = (start / columns, bytes.len() / number.bytes() / columns);
        let stored = bytes.par_chunks(columns * number.bytes());
        scratch.par_chunks_mut(stride).zip(stored).for_each(|(row, stored)| number.convert(stored, &mut row[..columns]));
        numbers.par_chunks_mut(COLUMNS * rows).enumerate().for_each(|(block, transposed)| {
            for (column, transposed) in transposed.chunks_mut(rows).enumerate() {
                let stored = scratch[block * COLUMNS + column..].iter().step_by(stride);
                transposed[first..first + count].iter_mut().zip(stored).for_each(|(number, stored)| *number = *stored);
            }
        });
    })?;
    Ok(numbers)
}

/// Hands `total` numbers of `size` bytes to `place`, `strip` at a time, with the number that each strip begins at.
fn strips(file: &mut impl Read, size: usize, total: usize, strip: usize, mut place: impl FnMut(usize, &[u8])) -> io::Result<()> {
    let mut bytes = vec![0; strip.min(total) * size];
    for start in (0..total).step_by(strip.max(1)) {
        let bytes = &mut bytes[..strip.min(total - start) * size];
        file.read_exact(bytes)?;
        place(start, bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_and_layout_is_read_as_it_was_written() {
        // Longer than a strip, in rows that do not divide it; numbers that all types hold exactly.
        let [rows, columns] = [1031, 1030];
        let value = |row: usize, column: usize| ((row * 7 + column * 3) % 200) as f32 - 100.0;
        for number in [Number::F32, Number::F16, Number::Bf16] {
            let bytes: Vec<u8> = (0..rows * columns)
                .flat_map(|i| {
                    let value = value(i / columns, i % columns);
                    match number {
                        Number::F32 => value.to_le_bytes().to_vec(),
                        Number::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
                        Number::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
                    }
                })
                .collect();
            let stored = read_numbers(&mut &bytes[..], number, [rows, columns], Layout::AsStored).expect("numbers");
            let transposed = read_numbers(&mut &bytes[..], number, [rows, columns], Layout::Transposed).expect("numbers");
            for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
                let found = [stored[row * columns + column], transposed[column * rows + row]];
                assert!(found.iter().all(|found| (found - value(row, column)).abs() < f32::EPSILON), "{number:?}, {row}, {column}");
            }
            assert!(read_numbers(&mut &bytes[1..], number, [rows, columns], Layout::Transposed).is_err(), "a file that ends before");
        }
        for layout in [Layout::AsStored, Layout::Transposed] {
            assert!(read_numbers(&mut &[][..], Number::F32, [0, 5], layout).expect("nothing").is_empty());
            assert!(read_numbers(&mut &[][..], Number::F32, [5, 0], layout).expect("nothing").is_empty());
        }
    }
}
