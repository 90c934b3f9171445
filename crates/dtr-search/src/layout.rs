//! Which operator stands in each layer.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Text that is no layout.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// An operator is one of `A` to `Z`.
    #[error("'{found}' is no operator; expected a letter from A to Z")]
    Letter {
        /// What stands there.
        found: char,
    },
    /// An operator is exactly one letter.
    #[error("\"{found}\" is no operator; expected one letter")]
    Length {
        /// What stands there.
        found: String,
    },
}

/// Operator of a layer, as the letter it has in layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Operator(char);

impl Operator {
    /// The parent's own attention.
    pub const PARENT: Self = Self('S');

    /// The operator with this letter.
    ///
    /// # Errors
    /// If it is not one of `A` to `Z`.
    pub fn new(letter: char) -> Result<Self, LayoutError> {
        if letter.is_ascii_uppercase() { Ok(Self(letter)) } else { Err(LayoutError::Letter { found: letter }) }
    }

    /// Its letter.
    pub fn letter(self) -> char {
        self.0
    }
}

impl TryFrom<String> for Operator {
    type Error = LayoutError;

    fn try_from(text: String) -> Result<Self, LayoutError> {
        let mut letters = text.chars();
        match (letters.next(), letters.next()) {
            (Some(letter), None) => Self::new(letter),
            _ => Err(LayoutError::Length { found: text }),
        }
    }
}

impl From<Operator> for String {
    fn from(operator: Operator) -> Self {
        operator.0.into()
    }
}

/// One operator a layer, printed as letters: `SSGGSGGG`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Layout(Vec<Operator>);

impl Hash for Layout {
    /// One number of all letters (FNV-1a): the default hasher is slow with many small ones, and searches look layouts up all the time.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mix = |hash: u64, operator: &Operator| (hash ^ operator.0 as u64).wrapping_mul(0x0000_0100_0000_01B3);
        state.write_u64(self.0.iter().fold(0xCBF2_9CE4_8422_2325, mix));
    }
}

impl Layout {
    /// The parent: nothing replaced.
    pub fn parent(layers: usize) -> Self {
        Self(vec![Operator::PARENT; layers])
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.0.len()
    }

    /// Operators, first layer first.
    pub fn operators(&self) -> &[Operator] {
        &self.0
    }

    /// Layers that are no longer the parent's.
    pub fn replaced(&self) -> usize {
        self.0.iter().filter(|&&operator| operator != Operator::PARENT).count()
    }

    /// The same with another operator in one layer.
    #[must_use]
    pub fn with(&self, layer: usize, operator: Operator) -> Self {
        let mut operators = self.0.clone();
        operators[layer] = operator;
        Self(operators)
    }

    /// Layers in which two layouts differ.
    pub fn distance(&self, other: &Self) -> usize {
        self.0.iter().zip(&other.0).filter(|(a, b)| a != b).count()
    }

    /// Leading layers in which two layouts agree.
    pub fn shared_prefix(&self, other: &Self) -> usize {
        self.0.iter().zip(&other.0).take_while(|(a, b)| a == b).count()
    }
}

impl FromIterator<Operator> for Layout {
    fn from_iter<I: IntoIterator<Item = Operator>>(operators: I) -> Self {
        Self(operators.into_iter().collect())
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|operator| write!(f, "{}", operator.0))
    }
}

impl FromStr for Layout {
    type Err = LayoutError;

    fn from_str(text: &str) -> Result<Self, LayoutError> {
        text.chars().map(Operator::new).collect()
    }
}

impl TryFrom<String> for Layout {
    type Error = LayoutError;

    fn try_from(text: String) -> Result<Self, LayoutError> {
        text.parse()
    }
}

impl From<Layout> for String {
    fn from(layout: Layout) -> Self {
        layout.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses() {
        let layout: Layout = "SSGWS".parse().expect("letters");
        assert_eq!(layout.to_string(), "SSGWS");
        assert_eq!(layout.replaced(), 2);
        assert_eq!("SsG".parse::<Layout>(), Err(LayoutError::Letter { found: 's' }));
    }

    #[test]
    fn compares() {
        let layout = Layout::parent(4);
        let other = layout.with(2, Operator::new('G').expect("a letter"));
        assert_eq!(layout.distance(&other), 1);
        assert_eq!(layout.shared_prefix(&other), 2);
        assert_eq!(layout.shared_prefix(&layout), 4);
    }
}
