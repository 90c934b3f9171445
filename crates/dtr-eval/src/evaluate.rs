//! One model on many questions: part by part, so that work can be shown, stored and taken up again.

use std::ops::Range;

use dtr_attention::MixerBackend;
use dtr_models::Decoder;

use crate::reply::Reply;
use crate::scorer::Scorer;
use crate::task::{Metric, Question};

/// Tokens of a part: some batches for each thread, and yet a matter of seconds.
const PART_TOKENS: usize = 1 << 15;

/// Consecutive questions that are put together. What is together depends on the questions alone: so does every number that comes out.
/// Documents are looked for among those of all questions.
pub fn parts(questions: &[Question], metric: &Metric) -> Vec<Range<usize>> {
    if matches!(metric, Metric::Retrieval(..)) {
        return std::iter::once(0..questions.len()).collect();
    }
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (index, question) in questions.iter().enumerate() {
        match parts.last_mut() {
            Some(part) if tokens + question.tokens() <= PART_TOKENS => part.end = index + 1,
            _ => {
                tokens = 0;
                parts.push(index..index + 1);
            }
        }
        tokens += question.tokens();
    }
    parts
}

/// What `model` makes of the questions of one part, in their order; in batches of about `batch_tokens` tokens, usually
/// [`BATCH_TOKENS`](crate::BATCH_TOKENS).
pub fn evaluate<B: MixerBackend>(
    model: &Decoder<B>,
    part: &[Question],
    metric: &Metric,
    batch_tokens: usize,
    device: &B::Device,
) -> Vec<Reply> {
    // Blocks of questions of similar length have little padding.
    let mut order: Vec<usize> = (0..part.len()).collect();
    order.sort_by_key(|&index| part[index].answers.iter().map(|answer| answer.tokens.len()).max());
    let sorted: Vec<Question> = order.iter().map(|&index| part[index].clone()).collect();
    let path = vec![0; model.layers.len()];
    let whole = 0..part.len();
    let mut scorer =
        Scorer::new(&sorted, std::slice::from_ref(&whole), metric.clone(), (model, &path), 0, device).in_batches_of(batch_tokens);
    let mut replies = vec![Reply::default(); part.len()];
    for (&index, reply) in order.iter().zip(scorer.replies(model, &path, whole).0) {
        replies[index] = Reply { found: reply.found.map(|found| order[found]), ..reply };
    }
    replies
}
