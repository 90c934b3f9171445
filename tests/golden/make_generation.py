"""Writes generation.json and generation.safetensors: what transformers generates with assets/models/tiny-qwen3, and what its logits processors leave.

    pip install -r requirements.txt
    python make_generation.py                # rewrites both files beside this one

generation.json:
    greedy        64 prompts of 3 to 250 tokens, `{"prompt": [..], "output": [..]}`: 24 new tokens, or up to and including the end token
    penalised     16 of them with a repetition penalty of 1.3
    The prompts are those of a longer list in whose outputs the likeliest token is never within 1e-3 of the next: nearer ones are a matter of rounding.
    cases         settings of the processors, one a row of the tensors

generation.safetensors:
    scores        f32 [cases, 512]      logits in front of the processors
    seen          i64 [cases, 12]       tokens of the sequence so far
    processed     f32 [cases, 512]      what a draw is made from, -inf where a token is ruled out
"""
import json, pathlib, random
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import (AutoModelForCausalLM, LogitsProcessorList, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper,
                          TopPLogitsWarper)
from make_tiny_qwen3 import MODEL, load_tasks

HERE = pathlib.Path(__file__).parent
NEW, MARGIN, VOCABULARY = 24, 1e-3, 512
RUST = """//! A ring that forgets.

use std::collections::VecDeque;

/// Keeps the last `room` values.
pub struct Ring<T> {
    values: VecDeque<T>,
    room: usize,
}

impl<T: Clone> Ring<T> {
    /// An empty ring.
    pub fn new(room: usize) -> Self {
        Self { values: VecDeque::with_capacity(room), room }
    }

    pub fn push(&mut self, value: T) -> Option<T> {
        let lost = if self.values.len() == self.room { self.values.pop_front() } else { None };
        self.values.push_back(value);
        lost
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.iter()
    }
}
"""


def prompts(tokenizer):
    tasks, rng = load_tasks(tokenizer), random.Random("generation")
    rust = tokenizer.encode(RUST).ids
    for n in range(40):
        row, labelled = tasks.phone(rng, 1 + n % 24, 1)
        yield row[:labelled.index(1)]
        start = rng.randrange(len(rust) - 40)
        yield rust[start:start + 3 + rng.randrange(min(200, len(rust) - start - 3))]


@torch.no_grad()
def generate(model, prompt, **settings):
    """New tokens, and how far the likeliest one ever was from the next."""
    ids = torch.tensor([prompt])
    found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, output_scores=True, return_dict_in_generate=True, **settings)
    margin = min((top[0, 0] - top[0, 1]).item() for top in (scores.topk(2).values for scores in found.scores))
    return found.sequences[0, len(prompt):].tolist(), margin


def safe(model, prompts, count, **settings):
    rows = []
    for prompt in prompts:
        output, margin = generate(model, prompt, **settings)
        if margin > MARGIN and len(rows) < count:
            rows.append(dict(prompt=prompt, output=output))
    assert len(rows) == count, len(rows)
    return rows


def processors(case):
    """Those that `generate` puts together for these settings, in its order."""
    found = LogitsProcessorList()
    if case["repetition_penalty"] != 1:
        found.append(RepetitionPenaltyLogitsProcessor(case["repetition_penalty"]))
    if case["temperature"] != 1:
        found.append(TemperatureLogitsWarper(case["temperature"]))
    if case["top_k"]:
        found.append(TopKLogitsWarper(case["top_k"]))
    if case["top_p"] < 1:
        found.append(TopPLogitsWarper(case["top_p"]))
    return found


def main():
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager")
    rows = list(prompts(tokenizer))
    greedy, penalised = safe(model, rows, 64), safe(model, rows[:40], 16, repetition_penalty=1.3)

    cases = [dict(temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty)
             for temperature in (1.0, 0.7, 1.9) for top_k in (None, 1, 40, 600) for top_p in (1.0, 0.95, 0.5, 0.01) for penalty in (1.0, 1.3, 0.8)]
    generator = torch.Generator().manual_seed(0)
    scores = 4 * torch.randn(len(cases), VOCABULARY, generator=generator)
    scores[::5] = scores[::5].round()    # many equal ones
    seen = torch.randint(VOCABULARY, (len(cases), 12), generator=generator)
    seen[:, 6:9] = seen[:, :3]           # some tokens several times
    # Ties at the edge of top_p are a matter of the order of a sort: rounded scores go with the other processors.
    for i, case in enumerate(cases):
        if i % 5 == 0:
            case["top_p"] = 1.0
    processed = torch.cat([processors(case)(seen[i:i + 1], scores[i:i + 1].clone()) for i, case in enumerate(cases)])

    (HERE / "generation.json").write_text(json.dumps(dict(greedy=greedy, penalised=penalised, cases=cases)) + "\n")
    save_file(dict(scores=scores, seen=seen, processed=processed), HERE / "generation.safetensors")
    print(len(cases), "cases;", sum(len(row["output"]) for row in greedy), "greedy tokens")


if __name__ == "__main__":
    main()
