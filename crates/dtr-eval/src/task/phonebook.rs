//! Recall: a phonebook, one name, its number.

use dtr_models::Tokenizer;
use rand::Rng;
use rand::seq::{IndexedRandom, index};
use rand_chacha::ChaCha8Rng;

use super::names::{FIRST, LAST};
use super::{Documents, Example, Metric, Split, Task};
use crate::error::EvalError;

/// `START`, lines `First Last: dddd`, `QUESTION`, `First Last: `, and the answer `dddd`. Last names are distinct within a book.
/// A book of more entries than there are last names has distinct pairs of first and last names, so that neither tells who it is.
#[derive(Debug)]
pub struct Phonebook {
    entries: usize,
    start: Vec<u32>,
    question: Vec<u32>,
    first: Vec<Vec<u32>>,
    last: Vec<Vec<u32>>,
    colon: Vec<u32>,
    newline: Vec<u32>,
    digits: Vec<Vec<u32>>,
}

struct Entry {
    name: Vec<u32>,
    number: Vec<u32>,
}

impl Phonebook {
    /// Books of `entries` lines; `start` and `question` are put around them as they stand.
    ///
    /// # Errors
    /// If there are fewer pairs of names than entries, or the tokenizer refuses a piece.
    pub fn new(tokenizer: &Tokenizer, entries: usize, start: &str, question: &str) -> Result<Self, EvalError> {
        let available = FIRST.len() * LAST.len();
        if entries > available {
            return Err(EvalError::TooManyEntries { entries, available });
        }
        let encode = |text: &str| tokenizer.encode(text);
        Ok(Self {
            entries,
            start: encode(start)?,
            question: encode(question)?,
            first: FIRST.iter().map(|name| encode(name)).collect::<Result<_, _>>()?,
            last: LAST.iter().map(|name| encode(&format!(" {name}"))).collect::<Result<_, _>>()?,
            colon: encode(": ")?,
            newline: encode("\n")?,
            digits: (0..10).map(|digit| encode(&digit.to_string())).collect::<Result<_, _>>()?,
        })
    }

    fn book(&self, entries: usize, random: &mut ChaCha8Rng) -> Vec<Entry> {
        let distinct_last = entries <= self.last.len();
        let names = if distinct_last { self.last.len() } else { self.first.len() * self.last.len() };
        index::sample(random, names, entries)
            .iter()
            .map(|name| {
                let last = &self.last[name % self.last.len()];
                let first =
                    if distinct_last { self.first.choose(random).expect("there are names") } else { &self.first[name / self.last.len()] };
                let number = (0..4).flat_map(|_| self.digits[random.random_range(0..10)].clone()).collect();
                Entry { name: [first, last, &self.colon].into_iter().flatten().copied().collect(), number }
            })
            .collect()
    }

    fn listing(&self, book: &[Entry]) -> Vec<u32> {
        let mut tokens = self.start.clone();
        for entry in book {
            tokens.extend(entry.name.iter().chain(&entry.number).chain(&self.newline));
        }
        tokens.extend(&self.question);
        tokens
    }
}

impl Task for Phonebook {
    fn metric(&self) -> Metric {
        Metric::ExactMatch
    }

    fn example(&self, _split: Split, random: &mut ChaCha8Rng) -> Example {
        let book = self.book(self.entries, random);
        let asked = book.choose(random).expect("a book has entries");
        let mut tokens = self.listing(&book);
        tokens.extend(&asked.name);
        let labelled = tokens.len()..tokens.len() + asked.number.len();
        tokens.extend(&asked.number);
        Example { tokens, labelled: labelled.collect(), class: None }
    }
}

impl Documents for Phonebook {
    /// A book with as many questions as fit, all of them answered; shorter books where a whole one does not fit. The answers matter most.
    fn document(&self, length: usize, random: &mut ChaCha8Rng) -> Result<Example, EvalError> {
        let line = self.colon.len() + self.newline.len() + 2 + 4;
        let fitting = (length / line).saturating_sub(1).clamp(1, self.entries);
        let entries = random.random_range(fitting.div_ceil(2)..=fitting);
        let book = self.book(entries, random);
        let (mut tokens, mut labelled) = (self.listing(&book), Vec::new());
        for asked in index::sample(random, entries, entries) {
            tokens.extend(&book[asked].name);
            labelled.extend(tokens.len()..tokens.len() + book[asked].number.len());
            tokens.extend(book[asked].number.iter().chain(&self.newline));
        }
        Ok(Example { tokens, labelled, class: None })
    }
}
