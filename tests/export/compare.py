"""Exported directories in stock runtimes: AutoModelForCausalLM must find every weight and compute our logits.

    pip install torch transformers safetensors                # and flash-linear-attention for its format; pins in ../golden/requirements.txt
    python compare.py {transformers,fla} ROOT                 # ROOT/<case>/ is an export, ROOT/<case>.safetensors what we computed

Compared to 1e-4: whole sequences; a sequence read in two pieces and then token by token from the cache; batches padded left and right; a batch
padded left that goes on token by token. Greedy generation, where we wrote some, must be the same tokens, and the tokenizer must load.

flash-linear-attention computes with Triton kernels; they run here in Triton's interpreter, on the CPU. Two things that need a GPU are replaced: the
autotuner's stopwatch, which decides on speed alone, and the functions of the package flash_attn, by their documented definition. Its recurrent kernel
is asked for, since the interpreter does not know all that the chunked one needs. With a cache it knows padding on the left alone (its positions would
begin below 0), so padded batches are read without one, but for the last comparison.
"""
import os, pathlib, sys

runtime, root = sys.argv[1], pathlib.Path(sys.argv[2])
os.environ["HF_HUB_OFFLINE"] = "1"
if runtime == "fla":
    os.environ["TRITON_INTERPRET"] = "1"
else:
    sys.modules["fla"] = None    # else transformers puts fla's Triton kernels in place of its own torch functions

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
TOLERANCE = 1e-4
PREFILL, SECOND = 33, 32    # the two pieces; the rest follows token by token


def attention(q, k, v, causal, window_size):
    """flash_attn_func: [B, T, H, D]; queries stand at the last positions; window_size (left, right), -1 for no bound."""
    assert causal and window_size[1] in (-1, 0)
    k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], 2).transpose(1, 2) for x in (k, v))
    last, first = torch.arange(k.shape[2] - q.shape[1], k.shape[2])[:, None], torch.arange(k.shape[2])
    seen = first <= last
    if window_size[0] >= 0:
        seen &= first >= last - window_size[0]
    return torch.nn.functional.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=seen).transpose(1, 2)


def attention_of_lengths(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, window_size):
    """flash_attn_varlen_func: sequences one behind the other, their ends in cu_seqlens."""
    pieces = zip(*(zip(ends[:-1], ends[1:]) for ends in (cu_seqlens_q.tolist(), cu_seqlens_k.tolist())))
    return torch.cat([attention(q[None, a:b], k[None, c:d], v[None, c:d], causal, window_size)[0] for (a, b), (c, d) in pieces])


def prepare_fla():
    import triton.runtime.autotuner
    triton.runtime.autotuner.Autotuner.do_bench = property(lambda self: lambda call, quantiles: [0.0, 0.0, 0.0])
    import fla.layers.attn, fla.models
    fla.layers.attn.flash_attn_func, fla.layers.attn.flash_attn_varlen_func = attention, attention_of_lengths


def steps(model, first, following, mask, cache=None):
    """Logits behind each of the `following` tokens, read one by one after `first` with its padding."""
    seen = lambda mask: None if mask.all() else mask
    out = model(first, attention_mask=seen(mask), position_ids=positions(mask)[:, -first.shape[1]:], past_key_values=cache, use_cache=True)
    logits = []
    for token in following.unbind(1):
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        out = model(token[:, None], attention_mask=seen(mask), position_ids=positions(mask)[:, -1:], past_key_values=out.past_key_values, use_cache=True)
        logits.append(out.logits[:, -1])
    return torch.stack(logits, 1)


def positions(mask):
    return (mask.cumsum(1) - 1).clamp(min=0)


@torch.no_grad()
def differences(model, ours):
    ids, wanted = ours["ids"], ours["logits"]
    length = ids.shape[1]
    yield "whole", model(ids).logits - wanted

    full = torch.ones_like(ids)
    first = model(ids[:, :PREFILL], use_cache=True)
    yield "first piece", first.logits - wanted[:, :PREFILL]
    both = PREFILL + SECOND
    found = steps(model, ids[:, PREFILL:both], ids[:, both:], full[:, :both], first.past_key_values)
    yield "token by token", found - wanted[:, both:]

    for side in "left", "right":
        mask = ours[f"{side}_mask"]
        logits = model(ours[f"{side}_ids"], attention_mask=mask, use_cache=False).logits
        yield f"padded {side}", (logits - ours[f"{side}_logits"])[mask.bool()]

    # Row 0 whole, row 1 with 20 tokens less and as much padding in front.
    less, kept = 20, length - 10
    padded, mask = ids[:, :kept].clone(), full[:, :kept].clone()
    padded[1] = torch.cat([torch.zeros(less, dtype=ids.dtype), ids[1, :kept - less]])
    mask[1, :less] = 0
    following = torch.stack([ids[0, kept:], ids[1, kept - less:length - less]])
    expected = torch.stack([wanted[0, kept:], wanted[1, kept - less:length - less]])
    yield "padded left, token by token", steps(model, padded, following, mask) - expected


def check(directory):
    ours = load_file(directory.with_name(directory.name + ".safetensors"))
    kernel = dict(attn_mode="fused_recurrent") if runtime == "fla" else {}
    model, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True, **kernel)
    model.eval()
    wrong = {kind: found for kind, found in info.items() if found}
    assert not wrong, f"{directory.name}: {wrong}"
    assert model.dtype == torch.float32, f"{directory.name}: loaded as {model.dtype}"
    found = {what: difference.abs().max().item() for what, difference in differences(model, ours)}
    if "generated" in ours:
        prompt, wanted = ours["prompt"], ours["generated"]
        generated = model.generate(prompt, do_sample=False, max_new_tokens=wanted.shape[1], min_new_tokens=wanted.shape[1])[:, prompt.shape[1]:]
        assert generated.tolist() == wanted.tolist(), f"{directory.name}: generated {generated.tolist()}, we {wanted.tolist()}"
        text = "fn main() { println!(\"Grüße\"); }"
        tokens = AutoTokenizer.from_pretrained(directory).encode(text)
        original = AutoTokenizer.from_pretrained(os.environ["PARENT"]).encode(text)
        assert tokens == original, f"{directory.name}: tokens {tokens}, the parent's {original}"
    worst = max(found, key=found.get)
    print(f"{directory.name:44} {type(model).__name__:26} largest difference {found[worst]:.1e} ({worst})", flush=True)
    assert found[worst] <= TOLERANCE, f"{directory.name}: {found}"
    return found[worst]


if runtime == "fla":
    prepare_fla()
cases = sorted(path.parent for path in root.glob("*/config.json"))
assert cases, f"there is no export in {root}"
print(f"{len(cases)} exports, largest difference {max(check(case) for case in cases):.1e}")
