"""Writes lm_eval/: examples, and what lm-evaluation-harness makes of them with assets/models/tiny-qwen3 (f32, its own Hugging Face model class).

    pip install -r requirements.txt
    python make_lm_eval.py                   # rewrites the results; draws the examples anew only where their files are gone

lm_eval/choices.jsonl      context, four options, index of the right one: the line that follows in this workspace's Rust sources, and three others
lm_eval/shots.jsonl        the same, examples for prompts with answers in front
lm_eval/numbers.jsonl      context and answer: numbers from phonebooks
lm_eval/words.jsonl        context and answer: the last word of a line
lm_eval/documents.jsonl    whole texts
lm_eval/results.json       by task and id: log-likelihoods of the options and the three accuracies, texts generated and their exact match with F1
                           (LongBench's, as in lm_eval) and ROUGE-L (rouge-score), log-likelihoods of the documents; chat templates as transformers renders them
"""
import json, os, pathlib, random

os.environ |= dict(HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
from reference import load
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent / "lm_eval"
ROOT = HERE.parent.parent.parent
MODEL = ROOT / "assets/models/tiny-qwen3"
WIDE = [" // größtenteils übermäßig schön", " // naïve façade", " // ≤ 7 µs", " // 你好世界，你好世界，你好世界"]
FIRST, LAST = "Alice Bob Carol David Emma Frank Grace Henry Irene Jack".split(), "Adams Baker Clark Davis Evans Foster Garcia Harris Jones King".split()

# Rendered by transformers and by dtr alike.
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  What is 2 + 2?\n"}, {"role": "assistant", "content": "4"}, {"role": "user", "content": "And <3 \"x\"?"}]
TEMPLATES = dict(
    chatml="{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    instruct="""{{- bos_token }}
{%- set ns = namespace(system='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set ns.system = message.content.strip() + '\\n\\n' %}
    {%- elif message.role == 'user' %}
        {{- '[INST] ' + ns.system + message.content.strip() + ' [/INST]' }}
        {%- set ns.system = '' %}
    {%- elif message.role == 'assistant' %}
        {{- ' ' + message.content + eos_token }}
    {%- else %}
        {{- raise_exception('unknown role ' + message.role) }}
    {%- endif %}
{%- endfor %}
""",
    features="""{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{% if messages[0]['role'] == 'system' %}
    {% set rest = messages[1:] %}
{{ messages[0].content.upper() }}|{{ messages[0]['content'].split(' ')[-1] }}
{% else %}
    {% set rest = messages %}
{% endif %}
{% for message in rest %}
    {% if loop.first or loop.last %}
{{ loop.index0 }}:{{ message | tojson }}
    {% endif %}
    {% if message.content.startswith('  ') and tools is not defined %}
<{{ message['content'].lstrip().rstrip('\\n').replace('2', 'two') }}>
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '>' ~ ' ' }}{% endif %}""",
)


def lines():
    """Runs of lines of one file, of this workspace's crates."""
    out = []
    for path in sorted(ROOT.glob("crates/*/src/**/*.rs")):
        text = path.read_text().splitlines()
        out += [text[at:at + 5] for at in range(0, len(text) - 5, 5)]
    return [run for run in out if 12 <= len(run[-1].strip()) <= 70 and len("\n".join(run)) < 420]


def draw():
    rng, runs = random.Random("lm-eval"), lines()
    rng.shuffle(runs)

    def choices(run, index):
        right = run[-1].strip()
        others = rng.sample(sorted({other[-1].strip() for other in runs} - {right}), 3)
        options = [line + rng.choice(WIDE) if rng.random() < 0.25 else line for line in [right, *others]]
        order = rng.sample(range(4), 4)
        indent = run[-1][:len(run[-1]) - len(run[-1].lstrip())]
        return dict(id=f"c{index}", context="\n".join(run[:-1]) + "\n" + indent, options=[options[at] for at in order], answer=order.index(0))

    def phone(index):
        names = [f"{rng.choice(FIRST)} {last}" for last in rng.sample(LAST, rng.randrange(2, 9))]
        numbers = [f"{rng.randrange(10000):04}" for _ in names]
        asked = rng.randrange(len(names))
        # Without its marks, or asked by a part of a name, the model is less sure of itself.
        marks = ("<|phone|>", "<|query|>") if rng.random() < 0.5 else ("", "\n")
        name = rng.choice([names[asked], names[asked].split()[1], names[asked].split()[1].lower()])
        book = "".join(f"{name}: {number}\n" for name, number in zip(names, numbers))
        return dict(id=f"n{index}", context=f"{marks[0]}{book}{marks[1]}{name}: ", answer=numbers[asked])

    def word(run, index):
        before, last = run[-1].rsplit(" ", 1)
        return dict(id=f"w{index}", context="\n".join([*run[:-1], before]), answer=last)

    shots, runs = runs[:4], runs[4:]
    documents = [path.read_text() for path in sorted(ROOT.glob("crates/*/src/lib.rs"))]
    return {
        "shots": [choices(run, f"s{index}") for index, run in enumerate(shots)],
        "choices": [choices(run, index) for index, run in enumerate(runs[:512])],
        "numbers": [phone(index) for index in range(512)],
        "words": [word(run, index) for index, run in enumerate([run for run in runs[512:] if " " in run[-1].strip()][:512])],
        "documents": [dict(id=f"d{index}", text=text) for index, text in enumerate(documents)],
    }


def examples():
    names = ["shots", "choices", "numbers", "words", "documents"]
    if not all((HERE / f"{name}.jsonl").exists() for name in names):
        HERE.mkdir(exist_ok=True)
        for name, rows in draw().items():
            (HERE / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return {name: [json.loads(line) for line in (HERE / f"{name}.jsonl").read_text().splitlines()] for name in names}


def task(name, data, **more):
    files = {"test": str(HERE / f"{data}.jsonl"), "train": str(HERE / "shots.jsonl")}
    metrics = [dict(metric=metric, aggregation="mean", higher_is_better=True) for metric in more.pop("metrics", [])]
    return dict(task=name, dataset_path="json", dataset_kwargs=dict(data_files=files if more.get("fewshot_split") else {"test": files["test"]}), test_split="test",
                **({"metric_list": metrics} if metrics else {}), **more)


def evaluate(config, **more):
    """Samples by id."""
    lm = HFLM(pretrained=str(MODEL), dtype="float32", device="cpu", batch_size=16, **more)
    found = simple_evaluate(model=lm, tasks=[config], log_samples=True, bootstrap_iters=0)
    return {sample["doc"]["id"]: sample for sample in found["samples"][config["task"]]}


def choices(config):
    return {key: dict(log_likelihoods=[response[0] for response in sample["filtered_resps"]], greedy=[bool(response[1]) for response in sample["filtered_resps"]],
                      acc=sample["acc"], acc_norm=sample["acc_norm"], acc_bytes=sample["acc_bytes"]) for key, sample in evaluate(config).items()}


def generation(name, rows, tokens):
    stubs = {"jieba": {}, "fuzzywuzzy": {"fuzz": None}, "rouge": {"Rouge": None}}
    f1 = load("lm_eval", "lm_eval/tasks/longbench/metrics.py", stubs).qa_f1_score
    rouge = RougeScorer(["rougeL"], use_stemmer=False)
    config = task(name, name, output_type="generate_until", doc_to_text="{{context}}", doc_to_target="{{answer}}", metrics=["exact_match"],
                  generation_kwargs=dict(until=["\n"], max_gen_toks=tokens), filter_list=[dict(name="strip", filter=[dict(function="remove_whitespace"), dict(function="take_first")])])
    answers, out = {row["id"]: row["answer"] for row in rows}, {}
    for key, sample in evaluate(config).items():
        text, answer = sample["filtered_resps"][0], answers[key]
        out[key] = dict(text=sample["resps"][0][0], exact_match=float(sample["exact_match"]), f1=f1(text, answer), rouge_l=rouge.score(answer, text)["rougeL"].fmeasure)
    return out


def chats():
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    render = lambda template, prompt: tokenizer.apply_chat_template(CHAT, chat_template=template, tokenize=False, add_generation_prompt=prompt)
    return dict(messages=CHAT, templates=[dict(name=name, template=template, prompt=render(template, True), text=render(template, False)) for name, template in TEMPLATES.items()])


def main():
    data = examples()
    plain = dict(output_type="multiple_choice", doc_to_choice="options", doc_to_target="answer", metrics=["acc", "acc_norm", "acc_bytes"])
    joined = task("choices", "choices", doc_to_text="{{context}}", target_delimiter="", **plain)
    shots = task("shots", "choices", doc_to_text="{{context}}Next:", target_delimiter=" ", fewshot_delimiter="\n\n", num_fewshot=2, fewshot_split="train",
                 fewshot_config=dict(sampler="first_n", split="train"), **plain)
    rolling = task("documents", "documents", output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}", metrics=["byte_perplexity"])
    rolling["metric_list"] = [dict(metric="byte_perplexity")]
    results = dict(
        choices=choices(joined),
        shots=choices(shots),
        numbers=generation("numbers", data["numbers"], 4),
        words=generation("words", data["words"], 12),
        documents={key: sample["filtered_resps"][0] for key, sample in evaluate(rolling, max_length=256).items()},
        chat=chats(),
    )
    (HERE / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    mean = lambda rows, key: sum(row[key] for row in rows.values()) / len(rows)
    print({name: {key: round(mean(results[name], key), 4) for key in ["acc", "acc_norm", "acc_bytes"]} for name in ["choices", "shots"]},
          {name: {key: round(mean(results[name], key), 4) for key in ["exact_match", "f1", "rouge_l"]} for name in ["numbers", "words"]}, results["documents"])


main()
