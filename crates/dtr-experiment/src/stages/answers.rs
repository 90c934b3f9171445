//! Examples of the test split that parent and hybrid answer differently, as text for people to look at.

use burn::prelude::*;
use dtr_attention::MixerBackend;
use dtr_eval::{BATCH_TOKENS, Example, Metric, Question, evaluate};
use dtr_models::{Decoder, Tokenizer};

use crate::error::Error;
use crate::events::Answer;

/// Examples that only the one or only the other gets right, of each so many.
const EACH: usize = 3;

/// Tokens of an answer that are shown.
const TOKENS: usize = 24;

/// Characters of text before it, or of a document.
const CHARACTERS: usize = 900;

/// Someone's answers on the test split: a model, and the score of each.
pub(super) type Answers<'a, B> = (&'a Decoder<B>, &'a [dtr_search::Example]);

/// The examples on which the scores of `parent` and `hybrid` are furthest apart, in both directions.
pub(super) fn differing<B: MixerBackend>(
    task: &str,
    metric: &Metric,
    (parent, parent_scores): Answers<'_, B>,
    (hybrid, hybrid_scores): Answers<'_, B>,
    questions: &[Question],
    tokenizer: &Tokenizer,
    device: &B::Device,
) -> Result<Vec<Answer>, Error> {
    let examples = furthest(parent_scores, hybrid_scores);
    let models = [parent, hybrid];
    let texts = match metric {
        _ if examples.is_empty() => Vec::new(),
        Metric::Retrieval(..) => retrieved(models, metric, questions, &examples, tokenizer, device)?,
        // What an encoder says of a text is a class, no text.
        _ if parent.is_encoder() => Vec::new(),
        _ => predicted(models, questions, &examples, tokenizer, device)?,
    };
    let answer = |(example, [prompt, expected, parent, hybrid]): (usize, [String; 4])| {
        let [parent_score, hybrid_score] = [parent_scores, hybrid_scores].map(|scores| scores[example].score.into());
        Answer { task: task.into(), example, prompt, expected, parent, hybrid, parent_score, hybrid_score }
    };
    Ok(examples.into_iter().zip(texts).map(answer).collect())
}

/// Of each example what stands before the answer, the right one, and what each model says in its place.
fn predicted<B: MixerBackend>(
    models: [&Decoder<B>; 2],
    questions: &[Question],
    examples: &[usize],
    tokenizer: &Tokenizer,
    device: &B::Device,
) -> Result<Vec<[String; 4]>, Error> {
    let texts = |&example: &usize| {
        let Example { tokens, labelled, .. } = questions[example].example();
        let said = models.map(|model| predictions(model, tokens, labelled, device));
        let first = (0..labelled.len()).find(|&at| said[0][at] != said[1][at]).unwrap_or(0);
        let shown = if labelled.len() <= TOKENS { 0..labelled.len() } else { first..labelled.len().min(first + TOKENS) };
        let expected: Vec<u32> = labelled[shown.clone()].iter().map(|&at| tokens[at]).collect();
        let decode = |tokens: &[u32]| tokenizer.decode(tokens);
        let prompt = end(&decode(&tokens[..labelled[shown.start]])?);
        Ok([prompt, decode(&expected)?, decode(&said[0][shown.clone()])?, decode(&said[1][shown])?])
    };
    examples.iter().map(texts).collect()
}

/// Of each example the query, the right document, and the one that each model finds first.
fn retrieved<B: MixerBackend>(
    models: [&Decoder<B>; 2],
    metric: &Metric,
    questions: &[Question],
    examples: &[usize],
    tokenizer: &Tokenizer,
    device: &B::Device,
) -> Result<Vec<[String; 4]>, Error> {
    let found = models.map(|model| evaluate(model, questions, metric, BATCH_TOKENS, device));
    let text = |example: &Example| -> Result<String, Error> { Ok(beginning(&tokenizer.decode_with(&example.tokens, true)?)) };
    let texts = |&example: &usize| {
        let [parent, hybrid] = found.each_ref().map(|replies| questions[replies[example].found.unwrap_or(example)].example());
        let question = &questions[example];
        Ok([text(&question.answers[0])?, text(question.example())?, text(parent)?, text(hybrid)?])
    };
    examples.iter().map(texts).collect()
}

/// Places of the examples where the hybrid loses most, then of those where it gains most; the earlier one on a tie.
fn furthest(parent: &[dtr_search::Example], hybrid: &[dtr_search::Example]) -> Vec<usize> {
    let mut gains: Vec<(f32, usize)> = hybrid.iter().zip(parent).map(|(hybrid, parent)| hybrid.score - parent.score).zip(0..).collect();
    gains.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let losses: Vec<usize> = gains.iter().filter(|(gain, _)| *gain < 0.0).map(|(_, example)| *example).take(EACH).collect();
    gains.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let gains = gains.iter().filter(|(gain, _)| *gain > 0.0).map(|(_, example)| *example).take(EACH);
    losses.into_iter().chain(gains).collect()
}

/// The likeliest token at each labelled place, after the right ones before it.
fn predictions<B: MixerBackend>(model: &Decoder<B>, tokens: &[u32], labelled: &[usize], device: &B::Device) -> Vec<u32> {
    let ids: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
    let ids = Tensor::<B, 2, Int>::from_data(TensorData::new(ids, [1, tokens.len()]), device);
    let likeliest = model.logits(ids).argmax(2).into_data().convert::<i64>();
    let likeliest: Vec<i64> = likeliest.iter::<i64>().collect();
    labelled.iter().map(|&at| likeliest[at - 1] as u32).collect()
}

fn beginning(text: &str) -> String {
    match text.char_indices().nth(CHARACTERS) {
        Some((place, _)) => format!("{}…", &text[..place]),
        None => text.to_owned(),
    }
}

fn end(text: &str) -> String {
    let count = text.chars().count();
    if count <= CHARACTERS {
        return text.to_owned();
    }
    std::iter::once('…').chain(text.chars().skip(count - CHARACTERS)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_furthest_apart_come_first_losses_before_gains() {
        let scored = |scores: &[f32]| scores.iter().map(|&score| dtr_search::Example { score, ..Default::default() }).collect::<Vec<_>>();
        let parent = scored(&[1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0]);
        let hybrid = scored(&[1.0, 0.0, 1.0, 1.0, 0.0, 0.5, 0.0]);
        assert_eq!(furthest(&parent, &hybrid), [1, 4, 6, 2, 3]);
        assert!(furthest(&parent, &parent).is_empty());
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        let text = "ä".repeat(2 * CHARACTERS);
        assert_eq!(end(&text).chars().count(), CHARACTERS + 1);
        assert_eq!((end("short"), beginning("short")), ("short".into(), "short".into()));
        assert_eq!(beginning(&text).chars().count(), CHARACTERS + 1);
    }
}
