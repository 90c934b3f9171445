"""Writes models/<case>/: tiny random checkpoints in Hugging Face form, and the logits transformers computes from them.

    pip install -r requirements.txt
    python make_models.py                    # rewrites models/ beside this file
    python make_models.py gpt2_tied bert     # only these

Every number is drawn from a generator seeded with the case's name. The logits are those of the model loaded again
from the written directory: eager attention, f32 (also where the file holds bf16 or several shards). Of an encoder without a head, the
last hidden states stand in their place. Learned positions are counted from the first token on, as generation with left padding does.

expected.safetensors:
    ids                        int64 [2, 40]       no padding
    logits                     f32   [2, 40, V]
    padded_{left,right}_ids    int64 [2, 40]       row 0 as above; row 1: its first 27 tokens and 13 times the token 0
    padded_{left,right}_mask   int64 [2, 40]       1 token, 0 padding
    padded_{left,right}_logits f32   [2, 40, V]    zero where the mask is 0
    greedy                     int64 [2, 20]       GPT-2 only: what it generates after the first 10 tokens of each row
    pooled                     f32   [2, N]        encoders with a pooler: what it makes of the first token in padded_right

<encoder>_classes/expected.safetensors, models with a head for classes:
    ids                        int64 [24, 40]      texts of 4 to 40 tokens, the first of which is 2 and the last 3, padded with 0 on the right
    mask                       int64 [24, 40]      1 token, 0 padding
    logits                     f32   [24, C]
and a tokenizer.json with a word for each token. It cuts texts, as files of encoders do: whoever reads it has to know better.

models/grid/<family>_<rope>/: every family with every kind of rotary embedding, smaller still; the other settings are drawn by the case's name.

expected.safetensors there, all logits with weights as in the file and arithmetic in f32:
    ids                        int64 [2, 30]       longer than max_position_embeddings, where that matters
    logits                     f32   [2, 30, V]
    decoded                    f32   [2, 30 - P, V] P tokens read at once, then one at a time: the logits after each of these
    prompt                     int64 [1]           P
"""
import json, pathlib, random, shutil, sys, zlib
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, BertConfig, DistilBertConfig, GPT2Config, LlamaConfig,
                          MistralConfig, Qwen2Config, Qwen3Config, RobertaConfig, XLMRobertaConfig)

OUT = pathlib.Path(__file__).parent / "models"
VOCABULARY, TIME, PAD = 39, 40, 13
SMALL = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=128, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None)


def rope(kind="default", theta=10000.0, **more):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **more))


LLAMA3 = rope("llama3", 500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
GPT2 = dict(n_embd=32, n_head=4, n_layer=2, n_positions=128)
DISTILBERT = dict(dim=32, hidden_dim=40, n_layers=2, n_heads=4, max_position_embeddings=64)
OTHER_NAMES = (GPT2Config, DistilBertConfig)
ENCODERS = ("bert", "roberta", "xlm_roberta", "distilbert")
LEARNED = (GPT2Config, BertConfig, DistilBertConfig)
CASES = {
    "llama_gqa": (LlamaConfig, rope()),
    "llama_rope_llama3": (LlamaConfig, dict(num_attention_heads=2, num_key_value_heads=1) | LLAMA3),
    "llama_rope_linear": (LlamaConfig, rope("linear", 1000.0, factor=4.0)),
    "llama_rope_yarn": (LlamaConfig, dict(num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64) | rope("yarn", 1000.0, factor=4.0, original_max_position_embeddings=16)),
    "llama_head_dim_10": (LlamaConfig, dict(hidden_size=48, num_attention_heads=3, num_key_value_heads=1, head_dim=10)),
    "llama_biases": (LlamaConfig, dict(attention_bias=True, mlp_bias=True, rms_norm_eps=0.05)),
    "llama_tied": (LlamaConfig, dict(tie_word_embeddings=True)),
    "llama_shards": (LlamaConfig, dict(num_hidden_layers=3)),
    "llama_bf16": (LlamaConfig, dict()),
    "mistral_window": (MistralConfig, dict(sliding_window=8, head_dim=8)),
    "mistral_full": (MistralConfig, dict(sliding_window=None, head_dim=12)),
    "qwen2_tied": (Qwen2Config, dict(tie_word_embeddings=True)),
    "qwen2_head_dim_14": (Qwen2Config, dict(hidden_size=42, num_attention_heads=3, num_key_value_heads=1)),
    "qwen2_window_above": (Qwen2Config, dict(use_sliding_window=True, sliding_window=8, max_window_layers=1)),
    "qwen3_gqa_3": (Qwen3Config, dict(num_attention_heads=3, num_key_value_heads=1, head_dim=16) | rope(theta=1000000.0)),
    "qwen3_mha": (Qwen3Config, dict(num_key_value_heads=4, head_dim=8, rms_norm_eps=0.05)),
    "gpt2_tied": (GPT2Config, GPT2),
    "gpt2_inner": (GPT2Config, GPT2 | dict(n_inner=40, tie_word_embeddings=False, activation_function="gelu", layer_norm_epsilon=0.05)),
    "bert": (BertConfig, dict(hidden_act="gelu")),
    "bert_tanh": (BertConfig, dict(hidden_act="gelu_new", num_attention_heads=2, type_vocab_size=1, layer_norm_eps=0.05)),
    "roberta": (RobertaConfig, dict(pad_token_id=0, type_vocab_size=1)),
    "xlm_roberta": (XLMRobertaConfig, dict(pad_token_id=0, max_position_embeddings=48)),
    "distilbert": (DistilBertConfig, DISTILBERT),
    "bert_classes": (BertConfig, dict(id2label={0: "sad", 1: "glad", 2: "neither"})),
    "roberta_classes": (RobertaConfig, dict(pad_token_id=0, type_vocab_size=1)),
    "xlm_roberta_classes": (XLMRobertaConfig, dict(pad_token_id=0, max_position_embeddings=48, num_labels=4)),
    "distilbert_classes": (DistilBertConfig, DISTILBERT | dict(n_heads=2, activation="gelu_pytorch_tanh", num_labels=5)),
    "qwen3_biases": (Qwen3Config, dict(num_attention_heads=2, num_key_value_heads=1, head_dim=10, attention_bias=True)),
}


@torch.no_grad()
def randomise(model, generator):
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.copy_(1 + 0.3 * noise if name.lower().endswith(("norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight")) else 0.3 * noise)


def older_config(path):
    """Moves the rotary settings to where transformers wrote them before version 5."""
    config = json.loads(path.read_text())
    settings = config.pop("rope_parameters")
    config["rope_theta"] = settings.pop("rope_theta")
    config["rope_scaling"] = settings
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@torch.no_grad()
def expected(model, generator, learned):
    def run(ids, mask):
        positions = dict(position_ids=(mask.cumsum(1) - 1).clamp(min=0)) if learned else {}
        found = model(ids, attention_mask=mask, **positions)
        return found.last_hidden_state if "last_hidden_state" in found else found.logits

    ids = torch.randint(1, VOCABULARY, (2, TIME), generator=generator)
    out = dict(ids=ids, logits=run(ids, torch.ones_like(ids)))
    alone = run(ids[1:, :TIME - PAD], torch.ones_like(ids[1:, :TIME - PAD]))[0]
    for side in ("left", "right"):
        padded, mask = ids.clone(), torch.ones_like(ids)
        padding = slice(0, PAD) if side == "left" else slice(TIME - PAD, TIME)
        kept = slice(PAD, TIME) if side == "left" else slice(0, TIME - PAD)
        padded[1, kept] = ids[1, :TIME - PAD]
        padded[1, padding] = mask[1, padding] = 0
        logits = run(padded, mask)
        torch.testing.assert_close(logits[0], out["logits"][0])
        torch.testing.assert_close(logits[1, kept], alone, rtol=1e-4, atol=1e-4)
        out |= {f"padded_{side}_ids": padded, f"padded_{side}_mask": mask, f"padded_{side}_logits": logits * mask[..., None]}
    if getattr(model, "pooler", None):
        out["pooled"] = model(out["padded_right_ids"], attention_mask=out["padded_right_mask"]).pooler_output
    if model.can_generate() and learned:
        out["greedy"] = model.generate(ids[:, :10], max_new_tokens=20, min_new_tokens=20, do_sample=False, pad_token_id=0)[:, 10:]
    return out


@torch.no_grad()
def expected_classes(model, generator):
    ids = torch.randint(4, VOCABULARY, (24, TIME), generator=generator)
    length = torch.randint(4, TIME + 1, (24, 1), generator=generator)
    ids.scatter_(1, length - 1, 3)[:, 0] = 2
    mask = (torch.arange(TIME) < length).long()
    ids *= mask
    logits = model(ids, attention_mask=mask).logits
    for row, text, count in zip(logits, ids, length):
        torch.testing.assert_close(model(text[None, :count]).logits[0], row, rtol=1e-4, atol=1e-4)
    return dict(ids=ids, mask=mask, logits=logits)


def tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] + [f"w{word}" for word in range(4, VOCABULARY)]
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    made.enable_truncation(4)
    return made


def write(name, config_class, settings):
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    directory = OUT / name
    shutil.rmtree(directory, ignore_errors=True)
    classes = name.endswith("_classes")
    auto = AutoModelForSequenceClassification if classes else AutoModel if name.startswith(ENCODERS) else AutoModelForCausalLM
    small = dict(vocab_size=VOCABULARY, bos_token_id=None, eos_token_id=None) if config_class in OTHER_NAMES else SMALL
    model = auto.from_config(config_class(**(small | settings)))
    randomise(model, generator)
    model.to(torch.bfloat16 if name == "llama_bf16" else torch.float32)
    model.save_pretrained(directory, max_shard_size="40KB" if name == "llama_shards" else "1GB")
    (directory / "generation_config.json").unlink(missing_ok=True)
    if name == "llama_rope_linear":
        older_config(directory / "config.json")
    model = auto.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    if classes:
        tokenizer().save(str(directory / "tokenizer.json"))
    tensors = expected_classes(model, generator) if classes else expected(model, generator, learned=config_class in LEARNED)
    save_file({k: v.contiguous() for k, v in tensors.items()}, directory / "expected.safetensors", metadata={"padding_token": "0"})
    print(f"{name:20} logits' standard deviation {tensors['logits'].std():.2f}, files {sorted(p.name for p in directory.iterdir())}")


for name in sys.argv[1:] or CASES:
    write(name, *CASES[name])

SHORT = dict(max_position_embeddings=16)
YARN = dict(factor=4.0, original_max_position_embeddings=12)
ROPES = {
    "default": rope(),
    "linear": rope("linear", factor=3.0),
    "dynamic": SHORT | rope("dynamic", 100.0, factor=4.0),
    "llama3": rope("llama3", 500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=24),
    "yarn": rope("yarn", **YARN),
    "yarn_mscale": rope("yarn", **YARN, mscale=0.9, mscale_all_dim=0.4),
    "yarn_mscale_alone": rope("yarn", **YARN, mscale=0.9),
    "yarn_attention": rope("yarn", 2000.0, **YARN, attention_factor=0.8, beta_fast=6, beta_slow=0.5),
    "yarn_untruncated": SHORT | rope("yarn", 2000.0, factor=2.5, truncate=False, beta_fast=4, beta_slow=0.25),
}
FAMILIES = dict(llama=LlamaConfig, mistral=MistralConfig, qwen2=Qwen2Config, qwen3=Qwen3Config)
DTYPES = dict(f32=torch.float32, f16=torch.float16, bf16=torch.bfloat16)
TINY = dict(vocab_size=11, hidden_size=16, intermediate_size=12, num_hidden_layers=2, max_position_embeddings=64, bos_token_id=None, eos_token_id=None)
LENGTH = 30


def drawn(family, rope, draw):
    """Settings of one case, and how its files are written."""
    heads, kv_heads = draw.choice([(4, 4), (4, 2), (4, 1), (2, 1), (6, 3)])
    head_dim = draw.choice([6, 8, 10] + [None] * (16 % heads == 0))
    settings = TINY | dict(num_attention_heads=heads, num_key_value_heads=kv_heads, tie_word_embeddings=draw.random() < 0.4)
    settings |= dict(head_dim=head_dim or 16 // heads)
    if heads == 6:
        settings |= dict(hidden_size=18)
    biased, windowed = draw.random() < 0.5, draw.random() < 0.5
    if family == "llama":
        settings |= dict(attention_bias=biased, mlp_bias=draw.random() < 0.5)
    if family == "qwen3":
        settings |= dict(attention_bias=biased)
    if family == "mistral":
        settings |= dict(sliding_window=7 if windowed else None)
    if family.startswith("qwen") and windowed:
        kinds = ["sliding_attention", "full_attention"]
        settings |= dict(use_sliding_window=True, sliding_window=7, layer_types=draw.sample(kinds, 2))
    files = dict(dtype=draw.choice(list(DTYPES)), shards=draw.random() < 0.25, older=draw.random() < 0.3)
    return settings | rope, files


@torch.no_grad()
def decoded(directory, ids, prompt):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    output, logits = model(ids[:, :prompt], use_cache=True), []
    for column in range(prompt, LENGTH):
        output = model(ids[:, column:column + 1], past_key_values=output.past_key_values, use_cache=True)
        logits.append(output.logits)
    return torch.cat(logits, 1)


@torch.no_grad()
def write_grid(family, kind):
    name = f"{family}_{kind}"
    settings, files = drawn(family, ROPES[kind], random.Random(name))
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    directory = OUT / "grid" / name
    model = AutoModelForCausalLM.from_config(FAMILIES[family](**settings))
    randomise(model, generator)
    model.to(DTYPES[files["dtype"]]).save_pretrained(directory, max_shard_size="4KB" if files["shards"] else "1GB")
    (directory / "generation_config.json").unlink()
    if files["older"]:
        older_config(directory / "config.json")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    ids = torch.randint(1, TINY["vocab_size"], (2, LENGTH), generator=generator)
    prompt = 9 if zlib.crc32(name.encode()) % 2 else 20
    tensors = dict(ids=ids, logits=model(ids).logits, decoded=decoded(directory, ids, prompt), prompt=torch.tensor([prompt]))
    save_file({k: v.contiguous() for k, v in tensors.items()}, directory / "expected.safetensors")
    shown = {k: v for k, v in settings.items() if k not in TINY and k != "rope_parameters"}
    apart = (tensors["decoded"] - tensors["logits"][:, prompt:]).abs().max()
    print(f"{name:25} decoding differs from one pass by {apart:.0e}", shown, files)


shutil.rmtree(OUT / "grid", ignore_errors=True)
for family in FAMILIES:
    for kind in ROPES:
        write_grid(family, kind)
