"""Writes tiny_qwen3.safetensors and tiny_qwen3.json: what transformers makes of assets/models/tiny-qwen3 (f32, eager attention).

    pip install -r requirements.txt
    python make_tiny_qwen3.py                # rewrites both files beside this one

tiny_qwen3.safetensors:
    phone_ids     int64 [1, 155]        16 entries and one query with its answer, by `Tasks.phone` of the model's train.py
    phone_logits  f32   [1, 8, 2048]    at the last 8 positions
    recall_ids    int64 [1, 300]        the first 300 tokens of a book of 17 entries with all of its queries
    recall_logits f32   [1, 8, 2048]    at the last 8 positions
    greedy_ids    int64 [1, 8]          greedy continuation of the phone row up to `First Last: `

tiny_qwen3.json: the phone row's pieces of text, the prompt, the answer and the continuation as text; examples of the tokenizer.
"""
import importlib.util, json, pathlib, random
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
MODEL = HERE.parent.parent / "assets/models/tiny-qwen3"
TEXTS = [
    "<|phone|>Alice Baker: 4711\nMona Powell: 0042\n<|query|>Mona Powell: ",
    "<|crate|><|c3|><|eos|><|bos|><|pad|>",
    "<|unknown|> <|c8|>",
    "3.14159 0x2A 1_000_000u64 007",
    "pub fn double(values: &[f32]) -> Vec<f32> {\n    values.iter().map(|v| 2.0 * v).collect()\n}\n",
    "let s = \"tab\\t\";\r\n\t// done\n\n\n",
    "impl<'a, T: Default> Ring<'a, T> where T: Clone {}",
    "Grüße, naïve café – 你好 🦀 Ωmega",
    "   leading, trailing   ",
    "e\u0301 \u00e9 \u200b \ufeff",
    "",
]


def load_tasks(tokenizer):
    spec = importlib.util.spec_from_file_location("train", MODEL / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Tasks(tokenizer, {})


@torch.no_grad()
def main():
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager")
    tasks, rng = load_tasks(tokenizer), random.Random("golden")
    phone, labelled = tasks.phone(rng, 16, 1)
    recall = tasks.phone(rng, 17)[0][:300]
    start = labelled.index(1)
    prompt, answer = phone[:start], phone[start:start + 4]

    phone_ids, recall_ids = torch.tensor([phone]), torch.tensor([recall])
    greedy = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, start, dtype=torch.int64), max_new_tokens=8, do_sample=False)[:, start:]
    tensors = dict(phone_ids=phone_ids, phone_logits=model(phone_ids).logits[:, -8:], recall_ids=recall_ids, recall_logits=model(recall_ids).logits[:, -8:], greedy_ids=greedy)
    save_file({k: v.contiguous() for k, v in tensors.items()}, HERE / "tiny_qwen3.safetensors")

    text = lambda ids: tokenizer.decode(ids, skip_special_tokens=False)
    data = dict(phone_pieces=[text([i]) for i in phone], prompt=text(prompt), prompt_length=start, answer=text(answer), greedy=text(greedy[0].tolist()),
                tokenizer=[dict(text=t, ids=e.ids, decoded=text(e.ids)) for t in TEXTS for e in [tokenizer.encode(t)]])
    (HERE / "tiny_qwen3.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    print({k: list(v.shape) for k, v in tensors.items()}, repr(data["answer"]), repr(data["greedy"]))


if __name__ == "__main__":
    main()
