//! Scores of models that differ in few layers: what they share in front of the first difference is computed once.

use std::ops::Range;

use burn::prelude::*;
use dtr_attention::MixerBackend;
use dtr_models::Decoder;
use rayon::prelude::*;

use crate::batch::{batches, grouped};
use crate::generation::Generation;
use crate::prefixes::{Path, Prefixes};
use crate::reply::{Reply, Score};
use crate::retrieval;
use crate::task::{Metric, Question};
use crate::work::{Hidden, Outcome, Row, Work};

/// Tokens of a batch: large enough for full speed, small enough that several fit beside each other.
pub const BATCH_TOKENS: usize = 4096;

/// Questions scored together or not at all.
const BLOCK: usize = 32;

/// Blocks in memory at once.
const AT_ONCE: usize = 16;

/// What `work` makes of each of `items`, side by side where the backend may be used by several threads.
fn each<B: MixerBackend, T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync + Send) -> Vec<R> {
    if B::THREADED { items.par_iter().map(work).collect() } else { items.iter().map(work).collect() }
}

/// The questions of one split, and what is known of them.
#[derive(Debug)]
pub struct Scorer<B: Backend> {
    metric: Metric,
    questions: Vec<Question>,
    /// The model that others diverge from, and its path.
    parent: (Decoder<B>, Vec<u64>),
    blocks: Vec<Block<B>>,
    prefixes: Prefixes<B>,
    hidden: usize,
    batch_tokens: usize,
    device: B::Device,
}

/// Consecutive questions, with the sequences of their answers.
#[derive(Debug)]
struct Block<B: Backend> {
    questions: Range<usize>,
    work: Vec<Work<B>>,
}

impl<B: MixerBackend> Scorer<B> {
    /// Questions to be put, in parts that are always put from their beginning; up to `cache_bytes` of hidden states are kept.
    pub fn new(
        questions: &[Question],
        parts: &[Range<usize>],
        metric: Metric,
        parent: (&Decoder<B>, &Path),
        cache_bytes: usize,
        device: &B::Device,
    ) -> Self {
        // The documents of a block are the pool of its queries.
        let length = |part: &Range<usize>| if matches!(metric, Metric::Retrieval(..)) { part.len().max(1) } else { BLOCK };
        let cut = |part: &Range<usize>| {
            let (length, end) = (length(part), part.end);
            part.clone().step_by(length).map(move |from| from..(from + length).min(end))
        };
        let cuts = parts.iter().flat_map(cut);
        let scorer = Self {
            questions: questions.to_vec(),
            blocks: cuts.map(|questions| Block { questions, work: Vec::new() }).collect(),
            metric,
            prefixes: Prefixes::new(cache_bytes),
            hidden: parent.0.hidden(),
            batch_tokens: 0,
            parent: (parent.0.clone(), parent.1.to_vec()),
            device: device.clone(),
        };
        scorer.in_batches_of(BATCH_TOKENS)
    }

    /// With batches of about so many tokens, where memory does not suffice for [`BATCH_TOKENS`].
    #[must_use]
    pub fn in_batches_of(mut self, tokens: usize) -> Self {
        if tokens == self.batch_tokens {
            return self;
        }
        let pooling = if let Metric::Retrieval(_, pooling) = self.metric { Some(pooling) } else { None };
        for block in &mut self.blocks {
            let questions = &self.questions[block.questions.clone()];
            let batches = batches(questions, |length| self.parent.0.reads_in_pieces(length), tokens, &self.device);
            block.work = batches.into_iter().map(|batch| Work { batch, parent: None, pooling }).collect();
        }
        self.batch_tokens = tokens;
        self
    }

    /// Scores `model`, described by `path`, on some questions, and says what that took in units of a full evaluation of all.
    ///
    /// # Panics
    /// If `questions` does not begin and end where blocks do.
    pub fn score(&mut self, model: &Decoder<B>, path: &Path, questions: Range<usize>) -> (Vec<Score>, f64) {
        let (replies, work) = self.replies(model, path, questions);
        (replies.into_iter().map(|reply| reply.score).collect(), work)
    }

    /// As [`Self::score`], with all that the model makes of each question.
    ///
    /// # Panics
    /// As there.
    pub fn replies(&mut self, model: &Decoder<B>, path: &Path, questions: Range<usize>) -> (Vec<Reply>, f64) {
        let (mut replies, mut work) = (Vec::new(), 0.0);
        for blocks in self.blocks(questions).chunks(AT_ONCE) {
            for &block in blocks {
                work += self.planned(block, path);
            }
            replies.extend(self.reply(model, path, blocks));
            for &block in blocks {
                self.remember(block, path);
            }
        }
        (replies, work)
    }

    /// Takes note of results that need no work any more: later ones are planned as if they had been computed here.
    ///
    /// # Panics
    /// If `questions` does not begin and end where blocks do.
    pub fn skip(&mut self, path: &Path, questions: Range<usize>) {
        for block in self.blocks(questions) {
            self.remember(block, path);
        }
    }

    /// What shares beginnings with `path` is asked for next.
    pub fn favour(&mut self, path: &Path) {
        for block in 0..self.blocks.len() {
            self.prefixes.favour(block, path);
        }
    }

    fn blocks(&self, questions: Range<usize>) -> Vec<usize> {
        let inside = |block: &Block<B>| block.questions.start >= questions.start && block.questions.end <= questions.end;
        let found: Vec<usize> = (0..self.blocks.len()).filter(|&index| inside(&self.blocks[index])).collect();
        let count: usize = found.iter().map(|&index| self.blocks[index].questions.len()).sum();
        assert_eq!(count, questions.len(), "questions {questions:?} cut blocks apart");
        found
    }

    /// Bytes of the hidden states in front of one layer.
    fn bytes(&self, block: usize) -> usize {
        let tokens: usize = self.blocks[block].work.iter().map(|work| work.batch.tokens()).sum();
        tokens * self.hidden * std::mem::size_of::<f32>()
    }

    /// Work of scoring `path`, given what is known.
    fn planned(&self, block: usize, path: &Path) -> f64 {
        let share = self.blocks[block].questions.len() as f64 / self.questions.len() as f64;
        share * (path.len() - self.prefixes.known(block, path)) as f64 / path.len() as f64
    }

    /// Books the states that scoring `path` leaves.
    fn remember(&mut self, block: usize, path: &Path) {
        let bytes = self.bytes(block);
        if self.prefixes.admits(bytes) {
            for layer in 1..path.len() {
                self.prefixes.insert(block, &path[..layer], bytes, None);
            }
        }
        let sizes: Vec<usize> = (0..self.blocks.len()).map(|block| self.bytes(block)).collect();
        self.prefixes.shrink(|block| sizes[block]);
    }

    fn reply(&mut self, model: &Decoder<B>, path: &Path, blocks: &[usize]) -> Vec<Reply> {
        let rows = self.rows(model, path, blocks);
        let mut texts = match &self.metric {
            Metric::Generated(generation) => self.texts(generation, model, blocks),
            _ => Vec::new(),
        }
        .into_iter();
        let mut replies = Vec::new();
        for (&block, rows) in blocks.iter().zip(rows) {
            let mut rows = rows.as_slice();
            if let Metric::Retrieval(measure, _) = self.metric {
                replies.extend(retrieval::replies(measure, rows));
                continue;
            }
            for question in &self.questions[self.blocks[block].questions.clone()] {
                let (own, others) = rows.split_at(question.answers.len());
                rows = others;
                replies.push(Reply::new(question, &self.metric, own, texts.next()));
            }
        }
        replies
    }

    /// What is generated for the questions of some blocks. It shares nothing with other layouts: every token has another history.
    fn texts(&self, generation: &Generation, model: &Decoder<B>, blocks: &[usize]) -> Vec<String> {
        let prompt = |question: &Question| question.example().tokens[..question.example().labelled[0]].to_vec();
        let of_block = |&block: &usize| {
            let prompts: Vec<Vec<u32>> = self.questions[self.blocks[block].questions.clone()].iter().map(prompt).collect();
            let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.len() + generation.max_tokens).collect();
            let mut texts = vec![String::new(); prompts.len()];
            for group in grouped(&lengths, self.batch_tokens) {
                let some: Vec<Vec<u32>> = group.iter().map(|&index| prompts[index].clone()).collect();
                for (index, text) in group.into_iter().zip(generation.write(model, &some, &self.device)) {
                    texts[index] = text;
                }
            }
            texts
        };
        each::<B, _, _>(blocks, of_block).concat()
    }

    /// Rows of the sequences of each block.
    fn rows(&mut self, model: &Decoder<B>, path: &Path, blocks: &[usize]) -> Vec<Vec<Row>> {
        let mut jobs = Vec::new();
        for &block in blocks {
            let (layer, states) = self.prefixes.states(block, path).map_or((0, None), |(layer, states)| (layer, Some(states)));
            for (index, _) in self.blocks[block].work.iter().enumerate() {
                jobs.push((block, index, layer, states.as_ref().map(|states| states[index].clone())));
            }
        }
        let keeps: Vec<bool> = blocks.iter().map(|&block| self.prefixes.admits(self.bytes(block))).collect();
        let keep = keeps.iter().all(|&keep| keep);
        let labels = if let Metric::Label(tokens) = &self.metric { tokens.as_slice() } else { &[] };
        let parent = &self.parent.0;
        let is_parent = path == self.parent.1;
        let unknown = |&(block, index): &(usize, usize)| !is_parent && self.blocks[block].work[index].parent.is_none();
        let missing: Vec<(usize, usize)> = jobs.iter().map(|job| (job.0, job.1)).filter(unknown).collect();
        let references = each::<B, _, _>(&missing, |&(block, index)| self.blocks[block].work[index].reference(parent));
        for ((block, index), reference) in missing.into_iter().zip(references) {
            self.blocks[block].work[index].parent = Some(reference);
        }
        let results: Vec<Outcome<B>> = each::<B, _, _>(&jobs, |(block, index, layer, state)| {
            self.blocks[*block].work[*index].score(model, (*layer, state.clone()), parent, labels, keep)
        });
        let mut results = jobs.iter().zip(results).peekable();
        let mut rows = Vec::new();
        for &block in blocks {
            let sequences = self.blocks[block].work.iter().map(|work| work.batch.sequences.len()).sum();
            let mut of_block = vec![Row::default(); sequences];
            let mut states: Vec<Vec<Hidden<B>>> = Vec::new();
            let mut first = 0;
            while let Some(((_, index, layer, _), result)) = results.next_if(|((other, ..), _)| *other == block) {
                for (&sequence, row) in self.blocks[block].work[*index].batch.sequences.iter().zip(result.rows) {
                    of_block[sequence] = row;
                }
                if is_parent {
                    self.blocks[block].work[*index].parent = Some(result.front);
                }
                first = *layer;
                states.resize_with(result.states.len(), Vec::new);
                for (layer, state) in states.iter_mut().zip(result.states) {
                    layer.push(state);
                }
            }
            let bytes = self.bytes(block);
            for (layer, states) in states.into_iter().enumerate() {
                self.prefixes.insert(block, &path[..=first + layer], bytes, Some(states));
            }
            rows.push(of_block);
        }
        rows
    }
}
