"""Speed of distillation in eager PyTorch, to compare ours with: one gated-delta student for each layer of tiny-qwen3.

    pip install -r ../../tests/golden/requirements.txt
    python distill.py --batch 8 --length 256 --steps 20 --warmup 3 --threads 2

A step: the parent's forward pass under no_grad on random tokens (the plain model of the checkpoint's train.py, which is faster
than transformers with sdpa; no output head), then per layer the student's forward and backward pass on the parent's normed hidden states,
loss MSE(o, student) / MSE(o, 0), then AdamW for all students. Weights of the students are random: speed does not depend on them.

Shapes: B batch, T time, H heads, D head width, N chunks, C tokens in a chunk.
"""
import argparse, importlib.util, json, pathlib, time
import torch, torch.nn as nn, torch.nn.functional as F
from safetensors.torch import load_file

MODEL = pathlib.Path(__file__).parents[2] / "assets/models/tiny-qwen3"
CHUNK, CONVOLUTION = 64, 4


def load_parent():
    spec = importlib.util.spec_from_file_location("train", MODEL / "train.py")
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    parent = train.Model()
    parent.load_state_dict({k.removeprefix("model."): v for k, v in load_file(MODEL / "model.safetensors").items()})
    return parent.requires_grad_(False), train.CONFIG


def observe(parent):
    """Lists that each forward pass fills with the input and the output of every attention sublayer."""
    inputs, outputs = [None] * len(parent.layers), [None] * len(parent.layers)

    def hook(layer):
        def keep(_, arguments, output):
            inputs[layer], outputs[layer] = arguments[0], output
        return keep

    for i, block in enumerate(parent.layers):
        block.self_attn.register_forward_hook(hook(i))
    return inputs, outputs


def unit(x):
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def delta_rule(q, k, v, g, beta):
    """q, k, v [B, H, T, D], g, beta [B, H, T] -> [B, H, T, D], from an empty state."""
    length = q.shape[2]
    rest = -length % CHUNK
    q, k, v = (F.pad(x, (0, 0, 0, rest)).unflatten(2, (-1, CHUNK)) for x in (q, k, v))                  # [B, H, N, C, D]
    g, beta = (F.pad(x, (0, rest)).unflatten(2, (-1, CHUNK)) for x in (g, beta))
    total = g.cumsum(-1)
    later = torch.ones(CHUNK, CHUNK, dtype=torch.bool).triu(1)
    decay = (total[..., :, None] - total[..., None, :]).masked_fill(later, -torch.inf).exp()            # [B, H, N, C, C]
    grown, left = total.exp()[..., None], (total[..., -1:] - total).exp()[..., None]

    writes = k * beta[..., None]
    system = (writes @ k.mT) * decay
    both = torch.linalg.solve_triangular(system, torch.cat([v * beta[..., None], writes * grown], -1), upper=False, unitriangular=True)
    values, reads = both.split(v.shape[-1], -1)
    inside = (q @ k.mT) * decay

    state, outputs = v.new_zeros(*v.shape[:2], k.shape[-1], v.shape[-1]), []
    for queries, keys, weights, values, reads, last in zip(*(x.unbind(2) for x in (q * grown, (k * left).mT, inside, values, reads, grown[..., -1:, :]))):
        new = values - reads @ state
        outputs.append(queries @ state + weights @ new)
        state = state * last + keys @ new
    return torch.cat(outputs, 2)[:, :, :length]


class Student(nn.Module):
    """A linear layer in the form of Qwen3.5."""

    def __init__(self, hidden, heads, width):
        super().__init__()
        inner = heads * width
        self.heads, self.width = heads, width
        self.in_proj_qkv, self.in_proj_z = nn.Linear(hidden, 3 * inner, bias=False), nn.Linear(hidden, inner, bias=False)
        self.in_proj_b, self.in_proj_a = nn.Linear(hidden, heads, bias=False), nn.Linear(hidden, heads, bias=False)
        self.conv = nn.Parameter(torch.randn(3 * inner, 1, CONVOLUTION) / 2)
        self.a_log, self.dt_bias = nn.Parameter(torch.zeros(heads)), nn.Parameter(torch.zeros(heads))
        self.norm = nn.Parameter(torch.ones(width))
        self.out_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x):
        split = lambda y: y.unflatten(-1, (-1, self.width)).transpose(1, 2)
        mixed = F.conv1d(F.pad(self.in_proj_qkv(x).mT, (CONVOLUTION - 1, 0)), self.conv, groups=len(self.conv))
        q, k, v = (split(y) for y in F.silu(mixed).mT.chunk(3, -1))
        beta = self.in_proj_b(x).sigmoid().mT
        g = (-self.a_log.exp() * F.softplus(self.in_proj_a(x) + self.dt_bias)).mT
        o = delta_rule(unit(q) * self.width ** -0.5, unit(k), v, g, beta).transpose(1, 2)
        o = F.rms_norm(o, (self.width,), self.norm, 1e-6) * F.silu(self.in_proj_z(x).unflatten(-1, (-1, self.width)))
        return self.out_proj(o.flatten(2))


def tokens_per_second(step, arguments):
    for _ in range(arguments.warmup):
        step()
    start = time.perf_counter()
    for _ in range(arguments.steps):
        step()
    return round(arguments.steps * arguments.batch * arguments.length / (time.perf_counter() - start))


def main():
    parser = argparse.ArgumentParser()
    for name, default in dict(batch=8, length=256, steps=20, threads=2, warmup=3).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    parent, config = load_parent()
    inputs, targets = observe(parent)
    students = nn.ModuleList(Student(config["hidden_size"], config["num_attention_heads"], config["head_dim"]) for _ in parent.layers)
    optimiser = torch.optim.AdamW(students.parameters(), lr=1e-3, fused=True)

    def parent_step():
        with torch.no_grad():
            parent(torch.randint(config["vocab_size"], (arguments.batch, arguments.length)))

    def step():
        parent_step()
        optimiser.zero_grad()
        for student, x, target in zip(students, inputs, targets):
            (F.mse_loss(student(x), target) / target.square().mean()).backward()
        optimiser.step()

    print(json.dumps(dict(tokens_per_second=tokens_per_second(step, arguments), parent_tokens_per_second=tokens_per_second(parent_step, arguments),
                          threads=arguments.threads, torch=torch.__version__)))


if __name__ == "__main__":
    main()
