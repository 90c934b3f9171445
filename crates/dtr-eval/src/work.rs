//! One batch through the layers of a model, and what its answers come to.

use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use dtr_attention::{MixerBackend, loss};
use dtr_models::decoder::Block;
use dtr_models::{Context, Decoder, Pooling};

use crate::batch::Batch;

/// A batch, and what the parent makes of it.
#[derive(Debug)]
pub(crate) struct Work<B: Backend> {
    pub batch: Batch<B>,
    /// What the parent makes of it, once it is known: hidden states in front of the head that predict the labelled tokens, `[1, M, N]`, or the
    /// vectors of its texts, `[1, B, N]`.
    pub parent: Option<Tensor<B, 3>>,
    /// How texts become vectors, if that is what is asked for.
    pub pooling: Option<Pooling>,
}

/// What comes out of a batch.
pub(crate) struct Outcome<B: Backend> {
    /// Row by row.
    pub rows: Vec<Row>,
    /// As [`Work::parent`], of this model.
    pub front: Tensor<B, 3>,
    /// Hidden states behind each layer from the first that was run, the last one left out.
    pub states: Vec<Hidden<B>>,
}

/// What stands in front of a layer, or is added behind its mixer.
#[derive(Debug, Clone)]
pub(crate) struct Hidden<B: Backend> {
    /// Of what rows begin with, `[Q, P, N]`, where that is read once for several of them.
    prompts: Option<Tensor<B, 3>>,
    /// Of the rows themselves, `[B, T, N]`.
    rows: Tensor<B, 3>,
}

/// How the labelled tokens of one sequence were predicted, sums over them; or its vector.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Row {
    /// How many they are.
    pub count: usize,
    /// Those that were the likeliest of the vocabulary.
    pub hits: usize,
    /// Answers that they make up: runs of adjacent ones.
    pub answers: usize,
    /// Answers of which every token was.
    pub answered: usize,
    /// Whether the first was the likeliest of the tokens asked about, if some are.
    pub chosen: bool,
    /// Cross-entropy in nats.
    pub nats: f32,
    /// `KL(parent || model)` in nats.
    pub divergence: f32,
    /// What an encoder makes of it.
    pub vector: Vec<f32>,
    /// What the parent makes of it.
    pub reference: Vec<f32>,
}

impl<B: MixerBackend> Work<B> {
    /// Runs `model` from layer `first` on, whose input is `state`. Labels are tokens that are compared with each other alone.
    pub fn score(
        &self,
        model: &Decoder<B>,
        (first, state): (usize, Option<Hidden<B>>),
        parent: &Decoder<B>,
        labels: &[u32],
        keep: bool,
    ) -> Outcome<B> {
        let (front, states) = self.front(model, first, state, keep);
        let rows = if self.pooling.is_some() { self.vectors(&front) } else { self.rows(model, front.clone(), parent, labels) };
        Outcome { rows, front, states }
    }

    /// What the parent makes of it.
    pub fn reference(&self, parent: &Decoder<B>) -> Tensor<B, 3> {
        self.front(parent, 0, None, false).0
    }

    /// Runs the layers from `first`; what comes in front of the head where labelled tokens are predicted, or the vectors of texts, and,
    /// if they are to be kept, the hidden states behind each layer but the last.
    fn front(&self, model: &Decoder<B>, first: usize, state: Option<Hidden<B>>, keep: bool) -> (Tensor<B, 3>, Vec<Hidden<B>>) {
        let Batch { prompts, ids, positions, .. } = &self.batch;
        let contexts = (prompts.as_ref().map(|prompts| model.context(prompts.positions.clone())), model.context(positions.clone()));
        let mut x = state.unwrap_or_else(|| Hidden {
            prompts: prompts.as_ref().map(|prompts| model.embed(prompts.ids.clone(), &prompts.positions)),
            rows: model.embed(ids.clone(), positions),
        });
        let last = model.layers.len() - 1;
        let mut states = Vec::new();
        for layer in &model.layers[first..last] {
            let mixed = self.mix(layer, &x, &contexts);
            x = Hidden {
                prompts: x.prompts.zip(mixed.prompts).map(|(x, mixed)| layer.after_mixer(x, mixed)),
                rows: layer.after_mixer(x.rows, mixed.rows),
            };
            if keep {
                states.push(x.clone());
            }
        }
        // Behind the last mixer only the positions count that predict something.
        let layer = &model.layers[last];
        let mixed = self.mix(layer, &x, &contexts).rows;
        if let Some(pooling) = self.pooling {
            return (pooling.pool(layer.after_mixer(x.rows, mixed), contexts.1.tokens).unsqueeze(), states);
        }
        let [x, mixed] = [x.rows, mixed].map(|x| self.predicting(x));
        (layer.after_mixer(x, mixed), states)
    }

    /// What the mixer of a layer makes of `x`: rows go on from what it remembers of their prompts.
    fn mix(&self, layer: &Block<B>, x: &Hidden<B>, contexts: &(Option<Context<B>>, Context<B>)) -> Hidden<B> {
        let mix = |x: &Tensor<B, 3>, context, state| layer.mixer.forward(layer.mixer_input(x.clone()), context, state);
        let empty = |x: &Tensor<B, 3>| layer.mixer.empty_state(x.dims()[0]);
        let (prompts, state) = match (&self.batch.prompts, &x.prompts, &contexts.0) {
            (Some(prompts), Some(x), Some(context)) => {
                let (mixed, state) = mix(x, context, empty(x));
                (Some(mixed), state.select(&prompts.continued))
            }
            _ => (None, empty(&x.rows)),
        };
        Hidden { prompts, rows: mix(&x.rows, &contexts.1, state).0 }
    }

    /// The rows of `x [B, T, N]` that predict a labelled token, `[1, M, N]`.
    fn predicting(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let [batch, time, width] = x.dims();
        x.reshape([batch * time, width]).select(0, self.batch.predicting.clone()).unsqueeze()
    }

    /// The vector of each row beside the parent's.
    fn vectors(&self, front: &Tensor<B, 3>) -> Vec<Row> {
        let rows = |vectors: &Tensor<B, 3>| -> Vec<Vec<f32>> {
            let width = vectors.dims()[2];
            let numbers: Vec<f32> = vectors.to_data().convert::<f32>().iter::<f32>().collect();
            numbers.chunks(width).map(<[f32]>::to_vec).collect()
        };
        let own = rows(front);
        let references = self.parent.as_ref().map_or_else(|| vec![Vec::new(); own.len()], rows);
        own.into_iter().zip(references).map(|(vector, reference)| Row { vector, reference, ..Row::default() }).collect()
    }

    /// Sums of each row from the hidden states `[1, M, N]` that predict its labelled tokens.
    fn rows(&self, model: &Decoder<B>, x: Tensor<B, 3>, parent: &Decoder<B>, labels: &[u32]) -> Vec<Row> {
        let logits = model.head(x).squeeze_dim::<2>(0);
        let floats = |values: Tensor<B, 2>| values.into_data().convert::<f32>().iter::<f32>().collect::<Vec<f32>>();
        let whole = |values: Tensor<B, 2, Int>| values.into_data().convert::<i64>().iter::<i64>().collect::<Vec<i64>>();
        let targets = whole(self.batch.targets.clone());
        let likeliest = whole(logits.clone().argmax(1));
        let chosen = (!labels.is_empty()).then(|| {
            let ids: Vec<i64> = labels.iter().map(|&label| i64::from(label)).collect();
            let ids = Tensor::from_data(TensorData::new(ids, [labels.len()]), &logits.device());
            whole(logits.clone().select(1, ids).argmax(1)).into_iter().map(|place| i64::from(labels[place as usize])).collect::<Vec<_>>()
        });
        let divergences = self.parent.as_ref().map(|parent_states| {
            let own = log_softmax(logits.clone(), 1);
            let parent = log_softmax(parent.head(parent_states.clone()).squeeze_dim::<2>(0), 1);
            floats((parent.clone().exp() * (parent - own)).sum_dim(1))
        });
        let nats = loss::cross_entropy(logits, self.batch.targets.clone().squeeze_dim(1));
        let nats: Vec<f32> = nats.into_data().convert::<f32>().iter::<f32>().collect();
        let right: Vec<bool> = likeliest.iter().zip(&targets).map(|(likeliest, target)| likeliest == target).collect();
        let mut at = 0;
        let rows = self.batch.answers.iter().map(|answers| {
            let count = answers.iter().sum();
            let rows = at..at + count;
            at += count;
            Row {
                count,
                hits: right[rows.clone()].iter().filter(|&&right| right).count(),
                answers: answers.len(),
                answered: wholly(&right[rows.clone()], answers),
                chosen: chosen.as_ref().is_some_and(|chosen| count > 0 && chosen[rows.start] == targets[rows.start]),
                nats: nats[rows.clone()].iter().sum(),
                divergence: divergences.as_ref().map_or(0.0, |all| all[rows].iter().sum()),
                ..Row::default()
            }
        });
        rows.collect()
    }
}

/// How many answers of these lengths, one behind the other, are wholly right.
fn wholly(mut right: &[bool], answers: &[usize]) -> usize {
    let whole = |length: &&usize| {
        let (answer, rest) = right.split_at(**length);
        right = rest;
        answer.iter().all(|&right| right)
    };
    answers.iter().filter(whole).count()
}

#[cfg(test)]
mod tests {
    use super::wholly;

    #[test]
    fn answers_count_as_wholes() {
        assert_eq!(wholly(&[true; 5], &[2, 1, 2]), 3);
        assert_eq!(wholly(&[true, true, false, true, false], &[2, 1, 2]), 1);
        assert_eq!(wholly(&[false, true, true, true, true], &[2, 1, 2]), 2);
    }
}
