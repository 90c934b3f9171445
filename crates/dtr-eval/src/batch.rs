//! Sequences in batches of similar length, padded on the right, ready for a model.

use burn::prelude::*;
use dtr_attention::Positions;

use crate::task::{Example, Question};

/// Some examples side by side.
#[derive(Debug)]
pub struct Batch<B: Backend> {
    /// What rows begin with, where that is read once for several of them.
    pub prompts: Option<Prompts<B>>,
    /// Token ids behind the prompts, `[B, T]`, padding 0.
    pub ids: Tensor<B, 2, Int>,
    /// Where these tokens stand.
    pub positions: Positions,
    /// Index of each row's sequence among all.
    pub sequences: Vec<usize>,
    /// Rows of the flattened hidden states that predict a labelled token or tell a class, in the order of rows.
    pub predicting: Tensor<B, 1, Int>,
    /// What is to be told by them, in the same order.
    pub targets: Tensor<B, 2, Int>,
    /// Lengths of each row's answers, runs of adjacent labelled tokens.
    pub answers: Vec<Vec<usize>>,
}

/// What the answers of a question have in common, one row a question.
#[derive(Debug)]
pub struct Prompts<B: Backend> {
    /// Token ids, `[Q, P]`, padding 0.
    pub ids: Tensor<B, 2, Int>,
    /// Where the tokens stand.
    pub positions: Positions,
    /// Which of them each row of the batch goes on from.
    pub continued: Vec<usize>,
}

impl<B: Backend> Batch<B> {
    /// Tokens read, padding included.
    pub fn tokens(&self) -> usize {
        let size = |ids: &Tensor<B, 2, Int>| ids.dims().iter().product::<usize>();
        size(&self.ids) + self.prompts.as_ref().map_or(0, |prompts| size(&prompts.ids))
    }
}

/// Sequences that begin alike.
struct Group<'a> {
    /// So many tokens of each are read once for all; none, if it is one sequence.
    shared: usize,
    /// Index of the first one among all.
    first: usize,
    sequences: &'a [Example],
}

impl Group<'_> {
    /// Tokens of the longest sequence that are its own.
    fn longest(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.tokens.len() - self.shared).max().unwrap_or(0)
    }

    fn tokens(&self) -> usize {
        self.shared + self.sequences.len() * self.longest()
    }
}

/// Groups of indices, shortest sequences first, of at most `tokens` tokens, padding included; as few as that allows, and no larger than so many
/// need to be: threads that take one each end together.
pub(crate) fn grouped(lengths: &[usize], tokens: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| lengths[index]);
    let within = |tokens: usize| {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for &index in &order {
            match groups.last_mut() {
                Some(group) if (group.len() + 1) * lengths[index] <= tokens => group.push(index),
                _ => groups.push(vec![index]),
            }
        }
        groups
    };
    let fewest = within(tokens).len();
    let (mut low, mut high) = (0, tokens);
    while low < high {
        let middle = usize::midpoint(low, high);
        if within(middle).len() <= fewest { high = middle } else { low = middle + 1 }
    }
    within(high)
}

/// Cuts the answers of questions into batches of about `tokens` tokens, padding included, shortest first.
///
/// Where a question has several, what they begin with is read once, if that is longer than what follows and `in_pieces` says that a
/// sequence of this length may be read so.
pub fn batches<B: Backend>(questions: &[Question], in_pieces: impl Fn(usize) -> bool, tokens: usize, device: &B::Device) -> Vec<Batch<B>> {
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    let mut first = 0;
    for question in questions {
        let group = Group { shared: question.shared(), first, sequences: &question.answers };
        let longest = group.longest();
        if group.sequences.len() > 1 && group.shared >= longest && in_pieces(group.shared + longest) {
            together.push(group);
        } else {
            alone.extend(question.answers.chunks(1).zip(first..).map(|(sequences, first)| Group { shared: 0, first, sequences }));
        }
        first += question.answers.len();
    }
    let cut = |groups: &[Group<'_>]| -> Vec<Batch<B>> {
        let lengths: Vec<usize> = groups.iter().map(Group::tokens).collect();
        let chosen = |rows: Vec<usize>| rows.into_iter().map(|row| &groups[row]).collect::<Vec<_>>();
        grouped(&lengths, tokens).into_iter().map(|rows| batch(&chosen(rows), device)).collect()
    };
    [alone, together].iter().flat_map(|groups| cut(groups)).collect()
}

/// Groups that all share something, or of which none does.
fn batch<B: Backend>(groups: &[&Group<'_>], device: &B::Device) -> Batch<B> {
    let rows: Vec<(usize, usize, &Example)> =
        groups.iter().zip(0..).flat_map(|(group, place)| group.sequences.iter().map(move |row| (place, group.shared, row))).collect();
    let own: Vec<&[u32]> = rows.iter().map(|(_, shared, row)| &row.tokens[*shared..]).collect();
    let starts: Vec<usize> = rows.iter().map(|(_, shared, _)| *shared).collect();
    let (ids, positions) = read(&own, &starts, device);
    let longest = ids.dims()[1];
    let (mut predicting, mut targets) = (Vec::new(), Vec::new());
    for (place, (_, shared, row)) in rows.iter().enumerate() {
        for (at, told) in row.told() {
            predicting.push((place * longest + at - shared) as i64);
            targets.push(i64::from(told));
        }
    }
    let prompts = groups.iter().any(|group| group.shared > 0).then(|| {
        let prompts: Vec<&[u32]> = groups.iter().map(|group| &group.sequences[0].tokens[..group.shared]).collect();
        let (ids, positions) = read(&prompts, &vec![0; prompts.len()], device);
        Prompts { ids, positions, continued: rows.iter().map(|(place, ..)| *place).collect() }
    });
    let labelled = targets.len();
    Batch {
        prompts,
        ids,
        positions,
        predicting: Tensor::from_data(TensorData::new(predicting, [labelled]), device),
        targets: Tensor::from_data(TensorData::new(targets, [labelled, 1]), device),
        answers: rows.iter().map(|(.., row)| row.answers()).collect(),
        sequences: groups.iter().flat_map(|group| group.first..group.first + group.sequences.len()).collect(),
    }
}

/// Rows of tokens, padded on the right, of which each begins where it says.
fn read<B: Backend>(rows: &[&[u32]], starts: &[usize], device: &B::Device) -> (Tensor<B, 2, Int>, Positions) {
    let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    let mut ids = Vec::with_capacity(rows.len() * longest);
    for (place, row) in rows.iter().enumerate() {
        ids.extend(row.iter().map(|&token| i64::from(token)));
        ids.resize((place + 1) * longest, 0);
    }
    let alike = rows.iter().all(|row| row.len() == longest) && starts.iter().all(|start| *start == starts[0]);
    let positions = if alike {
        Positions::range(starts[0], longest)
    } else {
        let masks: Vec<Vec<bool>> = rows.iter().map(|row| (0..longest).map(|column| column < row.len()).collect()).collect();
        Positions::padded(&masks, starts)
    };
    (Tensor::from_data(TensorData::new(ids, [rows.len(), longest]), device), positions)
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn groups_are_few_and_even() {
        let sizes = |lengths: &[usize], tokens| grouped(lengths, tokens).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(&[129; 32], 4096), [16, 16], "not 31 and 1");
        assert_eq!(sizes(&[100; 32], 4096), [32]);
        assert_eq!(sizes(&[10, 10, 10, 10, 90, 100], 200), [4, 2]);
        assert_eq!(sizes(&[300, 20], 200), [1, 1], "what is longer stands alone");
        assert!(grouped(&[], 200).is_empty());
        assert_eq!(grouped(&[3, 1, 2], 6), [vec![1, 2], vec![0]]);
    }
}
