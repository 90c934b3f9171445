"""lm_eval through `dtr serve` against lm_eval through transformers, on one checkpoint: the same answers, sample by sample.

    pip install "lm_eval[api]" torch transformers
    cargo build --package dtr-experiment
    python tests/lm_eval/compare.py [MODEL]          # default: the bundled parent

Two tasks over local JSONL files, written by this script: multiple choice by log-likelihood (`echo` and `logprobs`), and generation up to a
stop string. Log-likelihoods must agree to 1e-3, which choice is greedy and every generated text exactly. Ends with status 1 if they do not.
"""
import json, os, pathlib, random, re, subprocess, sys, tempfile

os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
import lm_eval
from lm_eval.tasks import TaskManager

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = ["Alice", "Bob", "Carol", "Frank", "Mona", "Oscar"], ["Baker", "Clark", "Davis", "Powell", "Reed", "Turner"]
CODE = ["fn main() {", "let mut sum = 0;", "    for i in 0..10 {", "impl Default for Ring {", "use std::collections::HashMap;", "// Grüße – é", "pub struct Point {", "match value {"]
YAML = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
doc_to_text: "{{{{text}}}}"
target_delimiter: ""
{rest}
"""
CHOICE = """output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list: [{metric: acc}, {metric: acc_norm}]"""
GENERATE = """output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 12, do_sample: false, temperature: 0}
filter_list: [{name: digits, filter: [{function: regex, regex_pattern: '^(\\d{4})'}, {function: take_first}]}]
metric_list: [{metric: exact_match}]"""


def books(rng, count):
    for _ in range(count):
        people = rng.sample([f"{first} {last}" for first in NAMES[0] for last in NAMES[1]], rng.randint(2, 12))
        numbers = [f"{rng.randrange(10000):04}" for _ in people]
        asked = rng.randrange(len(people))
        text = "<|phone|>" + "".join(f"{who}: {number}\n" for who, number in zip(people, numbers)) + f"<|query|>{people[asked]}: "
        choices = [numbers[asked]] + [f"{rng.randrange(10000):04}" for _ in range(3)]
        rng.shuffle(choices)
        yield dict(text=text, choices=choices, gold=choices.index(numbers[asked]), answer=numbers[asked])
    for first in CODE:
        choices = rng.sample(CODE, 3)
        yield dict(text=first + "\n", choices=choices, gold=0, answer=choices[0])


def tasks(folder):
    rng = random.Random("lm_eval")
    for name, rest in ("dtr_choice", CHOICE), ("dtr_generate", GENERATE):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in books(rng, 40)))
        (folder / f"{name}.yaml").write_text(YAML.format(name=name, file=file, rest=rest))
    return TaskManager(include_path=str(folder), include_defaults=False)


def evaluate(manager, model, arguments):
    found = lm_eval.simple_evaluate(model=model, model_args=arguments, tasks=["dtr_choice", "dtr_generate"], task_manager=manager, batch_size=8, bootstrap_iters=0)
    samples = {name: sorted(rows, key=lambda row: row["doc_id"]) for name, rows in found["samples"].items()}
    return found["results"], samples


def main():
    model = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "assets/models/tiny-qwen3").resolve()
    server = subprocess.Popen([ROOT / "target/debug/dtr", "serve", "--model", model, "--port", "0"], stderr=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://\S+/v1", server.stderr.readline())[0]
        with tempfile.TemporaryDirectory() as folder:
            manager = tasks(pathlib.Path(folder))
            wanted, theirs = evaluate(manager, "hf", dict(pretrained=str(model), dtype="float32", device="cpu"))
            served, ours = evaluate(manager, "local-completions", dict(
                model=model.name, base_url=f"{address}/completions", tokenizer=str(model), num_concurrent=4, max_retries=1))
    finally:
        server.terminate()
        server.wait(timeout=60)
    wrong, largest, compared = 0, 0.0, 0
    for one, other in zip(ours["dtr_choice"], theirs["dtr_choice"], strict=True):
        for (ours_sum, ours_greedy), (sum_, greedy) in zip((r[0] for r in one["resps"]), (r[0] for r in other["resps"]), strict=True):
            difference = abs(float(ours_sum) - float(sum_))
            largest, compared = max(largest, difference), compared + 1
            wrong += difference > 1e-3 or str(ours_greedy) != str(greedy)
    print(f"{compared} log-likelihoods, largest difference {largest:.1e}")
    texts = [(one["resps"], other["resps"]) for one, other in zip(ours["dtr_generate"], theirs["dtr_generate"], strict=True)]
    wrong += sum(one != other for one, other in texts)
    print(f"{len(texts)} texts, {sum(one == other for one, other in texts)} equal")
    for name in wanted:
        scores = [{key: value for key, value in results[name].items() if isinstance(value, float)} for results in (wanted, served)]
        print(name, *scores)
        wrong += scores[0] != scores[1]
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
