"""Attention primitives and row operations in PyTorch on the CPU, beside criterion's times of ours: two threads, on a machine without other load.

    pip install -r ../../tests/golden/requirements.txt
    python mixers.py --criterion ../../target/criterion --longest 4096 --json mixers.json
    python mixers.py --only training/delta

Per row: median of ours (criterion), median of PyTorch (a warm-up, then 5 to 30 runs, more than 5 only until 1.5 s), PyTorch over ours,
and PyTorch's softmax attention of the same group and T over ours. `-`: not measured, or not in criterion's directory.

    forward   no gradients; f32, B=1, H=8, D=V=64
    training  forward, loss sum(o * w), backward to all inputs
    rows      as training on [4096, 1024] (rms_norm, swiglu); cross_entropy: mean over [1024, 32000] logits
    decode    one token after T others; PyTorch: one query over T keys, without appending to the cache

References, each on contiguous inputs in its own layout:
    softmax               scaled_dot_product_attention: forward up to T = 8192, training up to 4096
    linear, scalar_decay  chunk forms of fla's naive.py (linear is normalised)
    delta, kimi_delta     chunk forms of fla's naive.py
    vector_decay          fla's naive.py, which has the recurrent form only: up to T = 1024
    gated_delta           transformers' torch_chunk_gated_delta_rule
    rms_norm              the faster of F.rms_norm and the composed form of transformers
Keys have unit length and log decays lie in [-0.1, 0].
"""
import argparse, functools, importlib.metadata, importlib.util, json, os, pathlib, statistics, sys, time
import torch, torch.nn.functional as F

sys.modules["fla"] = None    # else transformers puts fla's Triton kernels in place of its own torch functions
from transformers.models.qwen3_5.modeling_qwen3_5 import torch_chunk_gated_delta_rule

CRITERION = pathlib.Path(__file__).resolve().parents[2] / "target/criterion"
THREADS, HEADS, WIDTH = 2, 8, 64
LINEAR = ["linear", "scalar_decay", "vector_decay", "delta", "gated_delta", "kimi_delta"]
GROUPS = dict(
    forward={name: [256, 1024, 4096, 8192, 32768] for name in ["softmax"] + LINEAR},
    training={name: [256, 1024, 4096] for name in ["softmax"] + LINEAR},
    rows=dict(rms_norm=[1024], swiglu=[1024], cross_entropy=[32000]),
    decode={name: [1, 1024, 32768] for name in ["linear", "gated_delta", "softmax"]},
)
LONGEST = {("forward", "softmax"): 8192, ("forward", "vector_decay"): 1024, ("training", "vector_decay"): 1024}    # of the reference


def naive(name):
    """fla.ops.<name>.naive by its path: importing the package needs Triton."""
    path = importlib.metadata.distribution("fla-core").locate_file(f"fla/ops/{name}/naive.py")
    spec = importlib.util.spec_from_file_location(f"naive_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- references ----------------------------------------------------------------------------------------------------
def mixer(name, length):
    """A function and its inputs: [B, H, T, D] for softmax and delta, else [B, T, H, D]."""
    flat = (1, HEADS, length) if name in ("softmax", "delta") else (1, length, HEADS)
    shape = (*flat, WIDTH)
    q, k, v, beta = torch.randn(shape), F.normalize(torch.randn(shape), dim=-1), torch.randn(shape), torch.rand(flat)
    decay, decays = -0.1 * torch.rand(flat), -0.1 * torch.rand(shape)
    match name:
        case "softmax":
            return functools.partial(F.scaled_dot_product_attention, is_causal=True), [q, k, v]
        case "linear":
            return functools.partial(naive("linear_attn").naive_chunk_linear_attn, scale=1.0, normalize=True), [q.exp(), k.exp(), v]
        case "scalar_decay":
            function, inputs = naive("simple_gla").naive_chunk_simple_gla, [q, k, v, decay]
        case "vector_decay":
            function, inputs = naive("gla").naive_recurrent_gla, [q, k, v, decays]
        case "delta":
            function, inputs = naive("delta_rule").delta_rule_chunkwise, [q, k, v, beta]
        case "gated_delta":
            function, inputs = torch_chunk_gated_delta_rule, [q, k, v, decay, beta]
        case "kimi_delta":
            function, inputs = naive("kda").naive_chunk_kda, [q, k, v, decays, beta]
    return lambda *inputs: function(*inputs)[0], inputs


def composed_rms_norm(x, weight):
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def rows(name):
    """Functions of which the fastest counts, and their inputs."""
    x = torch.randn(4096, 1024)
    match name:
        case "rms_norm":
            return [lambda x, weight: F.rms_norm(x, (1024,), weight, 1e-6), composed_rms_norm], [x, torch.ones(1024)]
        case "swiglu":
            return [lambda gate, up: F.silu(gate) * up], [x, torch.randn(4096, 1024)]
        case "cross_entropy":
            targets = torch.randint(32000, (1024,))
            return [lambda logits: F.cross_entropy(logits, targets)], [torch.randn(1024, 32000)]


# ---- times ---------------------------------------------------------------------------------------------------------
def median(step):
    """Milliseconds."""
    step()
    times = []
    while len(times) < 5 or (sum(times) < 1.5 and len(times) < 30):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def forward(function, inputs):
    with torch.no_grad():
        return median(lambda: function(*inputs))


def training(function, inputs):
    with torch.no_grad():
        output = function(*inputs)
    weights = torch.randn_like(output)
    inputs = [x.requires_grad_() for x in inputs]

    def step():
        output = function(*inputs)
        torch.autograd.grad((output * weights).sum() if output.ndim else output, inputs)
    return median(step)


@functools.cache
def reference(group, name, length):
    """Milliseconds, or None where there is no reference."""
    torch.manual_seed(0)
    if length > LONGEST.get((group, name), length):
        return None
    match group:
        case "forward":
            return forward(*mixer(name, length))
        case "training":
            return training(*mixer(name, length))
        case "rows":
            functions, inputs = rows(name)
            return min(training(function, inputs) for function in functions)
        case "decode" if name == "softmax":
            k, v = torch.randn(2, 1, HEADS, length, WIDTH)
            return forward(F.scaled_dot_product_attention, [torch.randn(1, HEADS, 1, WIDTH), k, v])


def ours(directory, group, name, parameter):
    """Milliseconds, or None. A function of `rows` has one size: its parameter may be any."""
    found = list((directory / group / name).glob("**/new/estimates.json" if group == "rows" else f"{parameter}/new/estimates.json"))
    if len(found) > 1:
        raise ValueError(f"several estimates of {group}/{name}: {', '.join(map(str, found))}")
    return json.loads(found[0].read_text())["median"]["point_estimate"] / 1e6 if found else None


# ---- the table -----------------------------------------------------------------------------------------------------
def facts():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return dict(cpu=model, cores=os.cpu_count(), torch=torch.__version__, torch_threads=torch.get_num_threads())


def line(*cells):
    text = ["-" if x is None else f"{x:.2f}" if isinstance(x, float) and x >= 100 else f"{x:.3g}" if isinstance(x, float) else str(x) for x in cells]
    print(f"{text[0]:9} {text[1]:14}" + "".join(f"{x:>12}" for x in text[2:]), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--criterion", type=pathlib.Path, default=CRITERION, help="directory of criterion's estimates")
    parser.add_argument("--only", default="", metavar="GROUP[/FUNCTION]")
    parser.add_argument("--longest", type=int, default=sys.maxsize, metavar="N", help="skip larger T")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the results")
    arguments = parser.parse_args()
    only_group, _, only_name = arguments.only.partition("/")
    wanted = [(group, name, length) for group, names in GROUPS.items() if only_group in ("", group)
              for name, lengths in names.items() if only_name in ("", name)
              for length in lengths if group == "rows" or length <= arguments.longest]
    if not wanted:
        parser.error(f"nothing to measure with --only {arguments.only!r} and --longest {arguments.longest}")

    torch.set_num_threads(THREADS)
    machine, results = facts(), []
    for key, value in machine.items():
        print(f"{key:14} {value}")
    line("group", "function", "T or width", "dtr ms", "torch ms", "torch/dtr", "SDPA/dtr")
    for group, name, length in wanted:
        mine, torchs = ours(arguments.criterion, group, name, length), reference(group, name, length)
        attention = reference(group, "softmax", length) if name in LINEAR and mine else None
        ratio = lambda x: x / mine if x and mine else None
        results.append(dict(group=group, function=name, parameter=length, dtr_ms=mine, torch_ms=torchs, torch_over_dtr=ratio(torchs),
                            sdpa_over_dtr=ratio(attention)))
        line(*results[-1].values())
    if arguments.json:
        arguments.json.write_text(json.dumps(dict(machine=machine, results=results), indent=1) + "\n")


if __name__ == "__main__":
    main()
