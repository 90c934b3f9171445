//! What a model makes of a question, and how good that is.

use crate::task::{Metric, Question};
use crate::work::Row;

/// How one question went.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Task metric.
    pub score: f32,
    /// Mean cross-entropy of the labelled tokens of the right answer in nats.
    pub loss: f32,
    /// Mean `KL(parent || model)` where labelled tokens of any answer are predicted, in nats.
    pub divergence: f32,
}

/// What a model makes of a question.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reply {
    /// How good it is.
    pub score: Score,
    /// Log-likelihood of each answer in nats.
    pub log_likelihoods: Vec<f32>,
    /// Whether each answer is what greedy generation begins with.
    pub greedy: Vec<bool>,
    /// The text, where text is generated.
    pub text: Option<String>,
    /// The question whose document is closest, where documents are looked for.
    pub found: Option<usize>,
}

impl Reply {
    /// From the rows of a question's answers, and what was generated.
    pub(crate) fn new(question: &Question, metric: &Metric, rows: &[Row], text: Option<String>) -> Self {
        let right = &rows[question.right];
        let count = right.count as f32;
        let score = match metric {
            Metric::ExactMatch => indicator(right.hits == right.count),
            Metric::TokenAccuracy => right.hits as f32 / count,
            Metric::AnswerAccuracy => right.answered as f32 / right.answers as f32,
            Metric::Probability => (-right.nats / count).exp(),
            Metric::Label(_) => indicator(right.chosen),
            Metric::Choice(_) => indicator(best(question, rows) == Some(question.right)),
            Metric::Retrieval(..) => unreachable!("a rank needs the documents of all questions"),
            Metric::Generated(generation) => text.as_ref().map_or(0.0, |text| generation.metric.score(text, &question.references)),
        };
        let labelled: usize = rows.iter().map(|row| row.count).sum();
        let divergence = rows.iter().map(|row| row.divergence).sum::<f32>() / labelled as f32;
        Self {
            score: Score { score, loss: right.nats / count, divergence },
            log_likelihoods: rows.iter().map(|row| -row.nats).collect(),
            greedy: rows.iter().map(|row| row.hits == row.count).collect(),
            text,
            found: None,
        }
    }
}

/// The first of the answers with the highest log-likelihood for its length; none, if one is no number.
fn best(question: &Question, rows: &[Row]) -> Option<usize> {
    // In double precision: answers that differ little are told apart as where they are divided so.
    let values: Vec<f64> = rows.iter().zip(&question.lengths).map(|(row, &length)| -f64::from(row.nats) / length as f64).collect();
    let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    values.iter().all(|value| !value.is_nan()).then(|| values.iter().position(|&value| value >= highest))?
}

fn indicator(right: bool) -> f32 {
    f32::from(u8::from(right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Example, Normalise};

    fn scored(nats: &[f32], lengths: &[usize]) -> f32 {
        let answer = Example { tokens: vec![1, 2], labelled: vec![1], class: None };
        let question =
            Question { id: String::new(), answers: vec![answer; nats.len()], lengths: lengths.to_vec(), right: 1, references: Vec::new() };
        let rows: Vec<Row> = nats.iter().map(|&nats| Row { count: 1, nats, ..Row::default() }).collect();
        Reply::new(&question, &Metric::Choice(Normalise::Bytes), &rows, None).score.score
    }

    #[test]
    fn the_likeliest_answer_for_its_length_is_chosen_and_the_first_of_equals() {
        assert_eq!(scored(&[2.0, 3.0], &[1, 1]).to_bits(), 0.0_f32.to_bits());
        assert_eq!(scored(&[2.0, 3.0], &[1, 2]).to_bits(), 1.0_f32.to_bits());
        assert_eq!(scored(&[2.0, 4.0], &[1, 2]).to_bits(), 0.0_f32.to_bits());
        assert_eq!(scored(&[2.0, f32::NAN], &[1, 2]).to_bits(), 0.0_f32.to_bits());
        assert_eq!(scored(&[f32::NAN, 1.0], &[1, 2]).to_bits(), 0.0_f32.to_bits());
    }
}
