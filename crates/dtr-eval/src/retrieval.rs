//! Retrieval: which of a pool of documents a query's vector is closest to, and how far up the right one stands.
//!
//! The pool of a query is made of the documents of all questions that are scored together. Vectors are compared by their cosine.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::reply::{Reply, Score};
use crate::work::Row;

/// What cosines are divided by where they are turned into probabilities: as encoders are usually trained.
const TEMPERATURE: f32 = 0.05;

/// How good a rank is, between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Measure {
    /// 1 over the rank of the right document; the mean over queries is the mean reciprocal rank.
    ReciprocalRank,
    /// 1 if the right document is among so many best ones, else 0; the mean is recall at that many.
    Hit(usize),
}

impl Measure {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReciprocalRank => "reciprocal rank",
            Self::Hit(_) => "recall among the best",
        }
    }

    fn score(self, rank: usize) -> f32 {
        match self {
            Self::ReciprocalRank => 1.0 / rank as f32,
            Self::Hit(best) => f32::from(u8::from(rank <= best)),
        }
    }
}

/// Replies to questions of which each has two rows, its query and its document.
///
/// The loss is that of the right document under the softmax of cosines over a temperature of 0.05, the divergence that of these
/// probabilities from the parent's. Another document that is as close as the right one stands before it.
pub(crate) fn replies(measure: Measure, rows: &[Row]) -> Vec<Reply> {
    let of = |vector: fn(&Row) -> &[f32]| Cosines::new(rows, vector);
    let own = of(|row| &row.vector);
    let parent = rows.iter().all(|row| !row.reference.is_empty()).then(|| of(|row| &row.reference));
    (0..rows.len() / 2)
        .map(|query| {
            let cosines = own.of(query);
            let before = |document: &usize| *document != query && cosines[*document].partial_cmp(&cosines[query]) != Some(Ordering::Less);
            let rank = 1 + (0..cosines.len()).filter(before).count();
            let found = (0..cosines.len()).filter(before).max_by(|&a, &b| cosines[a].total_cmp(&cosines[b])).unwrap_or(query);
            let log_odds = log_softmax(&cosines);
            let divergence = parent.as_ref().map_or(0.0, |parent| {
                let wanted = log_softmax(&parent.of(query));
                wanted.iter().zip(&log_odds).map(|(wanted, found)| wanted.exp() * (wanted - found)).sum()
            });
            let score = Score { score: measure.score(rank), loss: -log_odds[query], divergence };
            Reply { score, log_likelihoods: vec![log_odds[query]], greedy: vec![rank == 1], text: None, found: Some(found) }
        })
        .collect()
}

/// Queries and documents as vectors of length 1.
struct Cosines {
    queries: Vec<Vec<f32>>,
    documents: Vec<Vec<f32>>,
}

impl Cosines {
    fn new(rows: &[Row], vector: fn(&Row) -> &[f32]) -> Self {
        let unit = |row: &Row| {
            let vector = vector(row);
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            vector.iter().map(|x| x / length).collect::<Vec<f32>>()
        };
        Self { queries: rows.iter().step_by(2).map(unit).collect(), documents: rows.iter().skip(1).step_by(2).map(unit).collect() }
    }

    /// Cosine of one query with every document.
    fn of(&self, query: usize) -> Vec<f32> {
        let query = &self.queries[query];
        self.documents.iter().map(|document| query.iter().zip(document).map(|(q, d)| q * d).sum()).collect()
    }
}

fn log_softmax(cosines: &[f32]) -> Vec<f32> {
    let highest = cosines.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = cosines.iter().map(|cosine| ((cosine - highest) / TEMPERATURE).exp()).sum();
    cosines.iter().map(|cosine| (cosine - highest) / TEMPERATURE - sum.ln()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three queries along the axes and these documents.
    fn scored(measure: Measure, documents: [[f32; 3]; 3]) -> Vec<Score> {
        let axis = |i: usize| (0..3).map(|j| f32::from(u8::from(i == j))).collect::<Vec<f32>>();
        let pair = |i: usize| {
            let document = Row { vector: documents[i].to_vec(), reference: documents[i].to_vec(), ..Row::default() };
            [Row { vector: axis(i), reference: axis(i), ..Row::default() }, document]
        };
        replies(measure, &(0..3).flat_map(pair).collect::<Vec<_>>()).into_iter().map(|reply| reply.score).collect()
    }

    #[test]
    fn what_is_found_first_is_named() {
        let documents = [[9.0, 8.0, 7.0], [1.0, 2.0, 0.0], [1.0, 1.0, 0.0]];
        let row = |vector: &[f32; 3]| Row { vector: vector.to_vec(), ..Row::default() };
        let queries = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        let rows: Vec<Row> = queries.iter().zip(&documents).flat_map(|(query, document)| [row(query), row(document)]).collect();
        let found: Vec<Option<usize>> = replies(Measure::ReciprocalRank, &rows).iter().map(|reply| reply.found).collect();
        assert_eq!(found, [Some(2), Some(1), Some(0)]);
    }

    fn scores(measure: Measure, documents: [[f32; 3]; 3]) -> Vec<f32> {
        scored(measure, documents).into_iter().map(|score| score.score).collect()
    }

    #[test]
    fn ranks_by_hand() {
        // The length of a vector does not matter: the first query finds both others closer than its own document, long as that is.
        let documents = [[9.0, 8.0, 7.0], [0.5, 0.1, 0.2], [1.0, 1.0, 0.0]];
        let check = |measure, documents, expected: [f32; 3]| {
            let found = scores(measure, documents);
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{measure:?}: {found:?}, expected {expected:?}");
        };
        check(Measure::ReciprocalRank, documents, [1.0 / 3.0; 3]);
        let documents = [[1.0, 0.0, 0.0], [1.0, 2.0, 0.0], [0.0, 3.0, 1.0]];
        check(Measure::ReciprocalRank, documents, [1.0, 0.5, 1.0]);
        check(Measure::Hit(1), documents, [1.0, 0.0, 1.0]);
        check(Measure::Hit(2), documents, [1.0; 3]);
    }

    #[test]
    fn equals_stand_before_and_the_parent_does_not_diverge_from_itself() {
        let found = scored(Measure::ReciprocalRank, [[1.0, 1.0, 1.0]; 3]);
        assert!(found.iter().all(|score| (score.score - 1.0 / 3.0).abs() < 1e-6 && (score.loss - 3.0_f32.ln()).abs() < 1e-5));
        assert!(found.iter().all(|score| score.divergence.abs() < 1e-6));
        let found = scored(Measure::ReciprocalRank, [[0.0; 3]; 3]);
        assert!(found.iter().all(|score| score.loss.is_nan()), "a text without a vector is found nowhere");
    }
}
