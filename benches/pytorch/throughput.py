"""The gated delta rule of flash-linear-attention (Triton) and PyTorch's softmax attention on a GPU, in the shapes of `benches/throughput.rs`.

    pip install torch flash-linear-attention fla-core
    python throughput.py --tokens 8192 32768 --json throughput.json

Milliseconds, medians of 10 after a warm-up, forward, batch 4, 32 heads of width 128, bf16.
"""
import argparse, json, statistics, time
import torch
import torch.nn.functional as F
from fla.ops.gated_delta_rule import chunk_gated_delta_rule


def measured(work):
    times = []
    for _ in range(11):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[1:])


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--tokens", type=int, nargs="+", default=[8192, 32768])
    arguments.add_argument("--json", default="throughput-pytorch.json")
    options = arguments.parse_args()
    figures = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    for tokens in options.tokens:
        def wide():
            return torch.randn(4, tokens, 32, 128, device="cuda", dtype=torch.bfloat16)

        q, k, v = wide(), F.normalize(wide(), dim=-1), wide()
        decay = -0.1 * torch.rand(4, tokens, 32, device="cuda")
        write = torch.rand(4, tokens, 32, device="cuda").to(torch.bfloat16)
        heads_first = [x.transpose(1, 2).contiguous() for x in (q, k, v)]
        with torch.no_grad():
            delta = measured(lambda: chunk_gated_delta_rule(q, k, v, g=decay, beta=write))
            softmax = measured(lambda: F.scaled_dot_product_attention(*heads_first, is_causal=True))
        figures[str(tokens)] = {"gated delta rule": delta, "softmax attention": softmax}
        print(f"{tokens} tokens: chunk_gated_delta_rule {delta:.2f} ms, scaled_dot_product_attention {softmax:.2f} ms")
    with open(options.json, "w") as file:
        json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
