"""Writes family/*.safetensors: outputs and gradients of the linear-attention family, from public reference implementations.

    pip install -r requirements.txt
    python make_family.py                    # rewrites family/ beside this file

Everything is f32 and in the layout [B, H, T, D] (mamba2_module: [B, T, N]); states are [B, H, D, V]. q is not scaled: o_t = q_t S_t.
g is the logarithm of the decay. Gradients are those of sum(o * w_o) + sum(final_state * w_final_state); the weights stand in the
files. `grad_x` belongs to the input `x`. Each file's metadata entry `conventions` states its own.

References: the naive.py files and modules/feature_map.py of flash-linear-attention (fla-core); transformers' `Mamba2Mixer`;
performer-pytorch's `softmax_kernel`; torch. Restated here: the maps torch has as functions, and window_and_linear.
"""
import functools, sys
import torch, torch.nn.functional as F
import reference
from reference import agree, load, naive, normal, run, swap, with_weights    # in front of transformers
sys.modules["mamba_ssm"] = sys.modules["causal_conv1d"] = None    # its own torch functions again
from transformers import DynamicCache
from transformers.models.mamba2.configuration_mamba2 import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

BATCH, HEADS, KEY, VALUE = 1, 2, 8, 6
TIMES = 1, 63, 64, 65, 100, 257
save = functools.partial(reference.save, "family")
simple_gla, gla, retention, delta_rule, kda, gated_delta_rule = map(naive, ("simple_gla", "gla", "retention", "delta_rule", "kda", "gated_delta_rule"))
feature_map = load("fla-core", "fla/modules/feature_map.py", {
    "fla.modules.activations": dict.fromkeys(("fast_gelu_impl", "sigmoid", "sqrelu", "swish")), "fla.modules.layernorm": dict(layer_norm=None),
    "fla.utils": dict(checkpoint=lambda function: function)})
performer = load("performer-pytorch", "performer_pytorch/performer_pytorch.py", {
    "local_attention": dict(LocalAttention=None), "axial_positional_embedding": dict(AxialPositionalEmbedding=None),
    "performer_pytorch.reversible": dict(ReversibleSequence=None, SequentialSequence=None)})


# ---- recurrences ---------------------------------------------------------------------------------------------------
def stateful(rule):
    """`rule` of fla in the layout [B, T, H, ..] with a state."""
    def function(initial_state, **inputs):
        o, state = rule(**dict(zip(inputs, swap(*inputs.values()))), initial_state=initial_state, output_final_state=True)
        return dict(o=o.transpose(1, 2), final_state=state)
    return function


def through_tokens(rule, multiple=1):
    """`rule` [B, H, T, ..] -> (o, ..) without a state: tokens in front write the initial state, tokens behind read the final one.
    Empty tokens follow until the length is a multiple of `multiple`."""
    def function(initial_state, v, **inputs):
        time = v.shape[2]
        empty = -(time + 2 * KEY) % multiple
        unit = torch.eye(KEY).expand(BATCH, HEADS, KEY, KEY)
        front, behind = dict(k=unit, beta=torch.ones(BATCH, HEADS, KEY)), dict(q=unit)

        def lengthen(name, x):
            zeros = torch.zeros(BATCH, HEADS, KEY, *x.shape[3:])
            return torch.cat([front.get(name, zeros), x, behind.get(name, zeros), x.new_zeros(BATCH, HEADS, empty, *x.shape[3:])], 2)
        front["v"] = initial_state
        o = rule(**{name: lengthen(name, x) for name, x in (inputs | dict(v=v)).items()})[0]
        return dict(o=o[:, :, KEY:KEY + time], final_state=o[:, :, KEY + time:2 * KEY + time])
    return function


def time_first(rule):
    def function(**inputs):
        o, rest = rule(**dict(zip(inputs, swap(*inputs.values()))))
        return o.transpose(1, 2), rest
    return function


def scaled(rule):
    """Undoes the q / sqrt(D) of a `rule` that has no argument for it."""
    return lambda q, **rest: rule(q=q * KEY ** 0.5, **rest)


def recurrence(name, rules, time, conventions, **gates):
    """Writes the values of the first of `rules`, which all must give the same."""
    shape = (BATCH, HEADS, time)
    q, k, v, initial_state = normal(*shape, KEY), normal(*shape, KEY), normal(*shape, VALUE), normal(BATCH, HEADS, KEY, VALUE)
    if "beta" in gates:
        k = F.normalize(k, dim=-1)
    inputs = dict(q=q, k=k, v=v, **gates, initial_state=initial_state)
    weights = dict(o=normal(*shape, VALUE), final_state=normal(BATCH, HEADS, KEY, VALUE))
    result, *others = [run(rule, inputs, weights) for rule in rules]
    for other in others:
        agree(result, other, atol=1e-4)
    more = conventions.pop("tensors", {})
    save(f"{name}_T{time}", inputs | with_weights(weights) | result | more, conventions | {
        "layout": "[B, H, T, D], states [B, H, D, V]; o_t = q_t S_t with q as stored, unscaled; g: the logarithm of the decay"})


def decay(*shape):
    return -torch.exp(1.5 * normal(*shape) - 2)


recurrent_decay = stateful(functools.partial(simple_gla.naive_recurrent_simple_gla, scale=1.0))
chunk_decay = stateful(functools.partial(simple_gla.naive_chunk_simple_gla, scale=1.0))
parallel_decay = through_tokens(time_first(functools.partial(simple_gla.naive_parallel_simple_gla, scale=1.0)))


def retention_case(time):
    def broadcast(rule):
        return lambda g, **rest: rule(g=g[None, :, None].expand(BATCH, HEADS, time), **rest)

    shape = (BATCH, HEADS, time)
    q, k, v, g = normal(*shape, KEY), normal(*shape, KEY), normal(*shape, VALUE), torch.log1p(-torch.exp2(-5. - torch.arange(HEADS)))
    o = retention.naive_retention(q * KEY ** 0.5, k, v)
    agree(dict(o=o), broadcast(recurrent_decay)(q=q, k=k, v=v, g=g, initial_state=torch.zeros(BATCH, HEADS, KEY, VALUE)))
    recurrence("retention", [broadcast(rule) for rule in (recurrent_decay, chunk_decay, parallel_decay)], time, {
        "reference": "fla naive_recurrent_simple_gla, g repeated over time; retnet_o: fla naive_retention",
        "rule": "S_t = exp(g_h) S_(t-1) + k_t^T v_t; g and grad_g are [H]",
        "retnet_*": "another case, from a zero state and without gradients: retnet_g is ln(1 - 2^(-5 - h)), the decays of RetNet",
        "tensors": dict(retnet_q=q, retnet_k=k, retnet_v=v, retnet_g=g, retnet_o=o)}, g=decay(HEADS))


def scalar_decay(time):
    recurrence("scalar_decay", [recurrent_decay, chunk_decay, parallel_decay], time, {
        "reference": "fla naive_recurrent_simple_gla", "rule": "S_t = exp(g_t) S_(t-1) + k_t^T v_t; g is [B, H, T]"}, g=decay(BATCH, HEADS, time))


def by_key_feature(q, k, v, g, initial_state):
    """Vector decay as scalar decay: every key feature a head of its own, of width 1, the outputs added."""
    split = [x.transpose(2, 3).flatten(1, 2)[..., None] for x in (q, k, g)]
    result = chunk_decay(q=split[0], k=split[1], v=v.repeat_interleave(KEY, 1), g=split[2][..., 0], initial_state=initial_state.flatten(1, 2)[:, :, None])
    return dict(o=result["o"].unflatten(1, (HEADS, KEY)).sum(2), final_state=result["final_state"].unflatten(1, (HEADS, KEY))[:, :, :, 0])


def gla_case(time):
    def rule(g, **rest):
        return scaled(stateful(gla.naive_recurrent_gla))(gk=g, **rest)
    recurrence("gla", [rule, by_key_feature], time, {
        "reference": "fla naive_recurrent_gla", "rule": "S_t = diag(exp(g_t)) S_(t-1) + k_t^T v_t; g is [B, H, T, D]"}, g=decay(BATCH, HEADS, time, KEY))


def delta_rule_case(time):
    def rule(**inputs):
        o, state = delta_rule.delta_rule_recurrence(**inputs)
        return dict(o=o, final_state=state)
    recurrence("delta_rule", [scaled(rule), through_tokens(scaled(delta_rule.delta_rule_chunkwise), 32)], time, {
        "reference": "fla delta_rule_recurrence", "rule": "S_t = S_(t-1) + k_t^T (beta_t (v_t - k_t S_(t-1))); beta in (0, 1)",
        "k": "stored at unit length, used as stored; q is not"}, beta=torch.sigmoid(2 * normal(BATCH, HEADS, time)))


def kda_case(time):
    g, beta = decay(BATCH, HEADS, time, KEY), torch.sigmoid(2 * normal(BATCH, HEADS, time))
    # the chunk form multiplies what it masks by exp(-sum of g): where that is infinite its gradients are not numbers
    size = 64 if g.unfold(2, min(64, time), 1).sum(-1).min() > -80 else 2
    chunk = through_tokens(time_first(functools.partial(kda.naive_chunk_kda, scale=1.0, chunk_size=size)), size)
    recurrence("kda", [stateful(functools.partial(kda.naive_recurrent_kda, scale=1.0)), chunk], time, {
        "reference": "fla naive_recurrent_kda",
        "rule": "S' = diag(exp(g_t)) S_(t-1); S_t = S' + k_t^T (beta_t (v_t - k_t S')); g is [B, H, T, D], beta in (0, 1)",
        "k": "stored at unit length, used as stored; q is not"}, g=g, beta=beta)


def gated_delta_negative(time):
    forms = gated_delta_rule.naive_recurrent_gated_delta_rule, gated_delta_rule.naive_chunk_gated_delta_rule
    recurrence("gated_delta_negative", [stateful(functools.partial(form, scale=1.0)) for form in forms], time, {
        "reference": "fla naive_recurrent_gated_delta_rule",
        "rule": "S' = exp(g_t) S_(t-1); S_t = S' + k_t^T (beta_t (v_t - k_t S')); g is [B, H, T], beta in (0, 2)",
        "k": "stored at unit length, used as stored; q is not"}, g=decay(BATCH, HEADS, time), beta=2 * torch.sigmoid(2 * normal(BATCH, HEADS, time)))


# ---- the Mamba-2 sublayer ------------------------------------------------------------------------------------------
@torch.no_grad()
def randomise(module):
    for name, weight in module.named_parameters():
        noise = normal(*weight.shape)
        weight.copy_(1 + 0.3 * noise if name in ("norm.weight", "D") else noise - 1 if name == "dt_bias" else 0.5 * noise if name == "A_log" else 0.4 * noise)


def mamba2_restated(p, x, heads, groups, width, state):
    """The sublayer as the metadata describes it, over scalar_decay's rule."""
    def heads_first(x, count):
        return x.unflatten(-1, (count, -1)).transpose(1, 2)

    inner, time = heads * width, x.shape[1]
    z, xbc, dt = (x @ p["in_proj.weight"].T).split([inner, inner + 2 * groups * state, heads], -1)
    padded = F.pad(xbc, (0, 0, 3, 0))
    xbc = F.silu(p["conv1d.bias"] + sum(p["conv1d.weight"][:, 0, j] * padded[:, j:j + time] for j in range(4)))
    v, b, c = xbc.split([inner, groups * state, groups * state], -1)
    b, c = (heads_first(y, groups).repeat_interleave(heads // groups, 1) for y in (b, c))
    v, dt = heads_first(v, heads), F.softplus(dt + p["dt_bias"]).transpose(1, 2)
    o = recurrent_decay(q=c, k=b, v=dt[..., None] * v, g=-p["A_log"].exp()[:, None] * dt, initial_state=torch.zeros(len(x), heads, state, width))["o"]
    o = (o + p["D"][:, None, None] * v).transpose(1, 2).flatten(2) * F.silu(z)
    o = F.rms_norm(o.unflatten(-1, (groups, -1)), (inner // groups,), eps=1e-5).flatten(2) * p["norm.weight"]
    return o @ p["out_proj.weight"].T


def mamba2_module(hidden=16, time=37, prefill=30):
    config = Mamba2Config(hidden_size=hidden, num_heads=4, head_dim=8, state_size=6, n_groups=2, conv_kernel=4, chunk_size=16, num_hidden_layers=1, use_bias=False)
    module = Mamba2Mixer(config, layer_idx=0)
    randomise(module)
    parameters = {k: v.detach() for k, v in module.named_parameters()}
    inputs, weights = parameters | dict(x=normal(2, time, hidden)), dict(y=normal(2, time, hidden))
    result = run(lambda x, **p: dict(y=torch.func.functional_call(module, p, x)), inputs, weights)
    agree(result, run(lambda x, **p: dict(y=mamba2_restated(p, x, 4, 2, 8, 6)), inputs, weights))
    with torch.no_grad():
        cache, x = DynamicCache(config=config), inputs["x"]
        pieces = [module(x[:, :prefill], cache_params=cache)] + [module(x[:, t:t + 1], cache_params=cache) for t in range(prefill, time)]
        agree(dict(y=result["y"]), dict(y=torch.cat(pieces, 1)))
    save("mamba2_module", inputs | with_weights(weights) | result, {
        "reference": "transformers Mamba2Mixer; parameters under its names; 4 heads of width 8, state 6, 2 groups, from a zero state",
        "in_proj": "no bias; rows: 32 gate z (head by head), 56 to the convolution (32 x head by head, 12 B = 2 groups of 6, 12 C = 2 groups of 6), 4 dt (one a head)",
        "conv1d": "depthwise and causal over the 56 x, B, C together, 3 zeros in front, weight[c, 0, 3] at the token itself, bias added; then silu",
        "dt": "softplus(dt + dt_bias) per head, not convolved; the limits (0, inf) change nothing",
        "A": "-exp(A_log), one a head; the decay of a step is exp(dt A)",
        "B, C": "head h reads group h / 2, rounded down (heads / groups = 2)",
        "rule": "S_t = exp(dt_t A) S_(t-1) + B_t^T (dt_t x_t); o_t = C_t S_t + D_h x_t. That is scalar_decay with q = C, k = B, v = dt x, g = dt A",
        "D": "one a head; times x after convolution and silu, not times dt",
        "norm": "u = o * silu(z) first; then u * rsqrt(mean(u^2) + 1e-5) over each group of 16 neighbouring features (2 heads), then times weight [32]",
        "out_proj": "no bias; features head by head"})


# ---- feature maps --------------------------------------------------------------------------------------------------
def favor(x, projection):
    return torch.exp(x @ projection.T - x.square().sum(-1, keepdim=True) / 2) / len(projection) ** 0.5


def feature_maps(time=9, width=6, t2r_width=5, favor_width=7):
    t2r_module = feature_map.T2RFeatureMap(width, t2r_width, bias=True)

    def t2r(x, weight, bias):
        heads = [torch.func.functional_call(t2r_module, {"layer.weight": weight[h], "layer.bias": bias[h]}, x[:, h]) for h in range(HEADS)]
        return torch.stack(heads, 1)

    x, projection = normal(BATCH, HEADS, time, width), normal(favor_width, width)
    maps = dict(elu=lambda x: F.elu(x) + 1, relu=feature_map.ReLUFeatureMap(), exp=torch.exp, softmax=lambda x: x.softmax(-1), t2r=t2r,
                dpfp=feature_map.DPFPFeatureMap(width, nu=2), taylor=feature_map.TaylorFeatureMap(width), favor=lambda x: favor(x, projection))
    learned = dict(t2r=dict(weight=0.5 * normal(HEADS, t2r_width, width), bias=normal(HEADS, t2r_width)))
    tensors = dict(x=x, favor_projection=projection)
    for name, function in maps.items():
        inputs = dict(x=x) | learned.get(name, {})
        y = function(**inputs)
        weights = dict(y=normal(*y.shape))
        values = learned.get(name, {}) | run(lambda **inputs: dict(y=function(**inputs)), inputs, weights) | dict(w=weights["y"])
        tensors |= {f"{name}_{k}": v for k, v in values.items()}

    dash = x @ projection.T
    for is_query, largest in (True, dash.amax(-1, keepdim=True)), (False, dash.amax((-1, -2), keepdim=True)):
        y = performer.softmax_kernel(x, projection_matrix=projection, is_query=is_query, normalize_data=False, eps=0)
        agree(dict(favor=tensors["favor_y"]), dict(favor=y * largest.exp()))
    q, k = 0.5 * x, 0.5 * x.flip(2)
    taylor = maps["taylor"](q) @ maps["taylor"](k).mT
    dots = q @ k.mT / width ** 0.5
    agree(dict(taylor=1 + dots + dots ** 2 / 2), dict(taylor=taylor))
    save("feature_maps", tensors, {
        "names": "<map>_y, <map>_w, <map>_grad_x of sum(y * w); one x [B, H, T, 6] for all",
        "elu": "elu(x) + 1 (torch)", "relu": "fla ReLUFeatureMap", "exp": "exp(x) (torch)", "softmax": "over the 6 features (torch)",
        "t2r": "fla T2RFeatureMap a head: relu(x W^T + b); t2r_weight [H, output, input], t2r_bias [H, output], with gradients t2r_grad_weight, t2r_grad_bias",
        "dpfp": "fla DPFPFeatureMap, nu 2: r = (relu(x), relu(-x)) of 12; feature 12 (j - 1) + i is r[i] * r[(i - j) mod 12], j = 1, 2: 24 features",
        "taylor": "fla TaylorFeatureMap, 28 features, d = 6: 1; x_i / d^(1/4); x_i^2 / sqrt(2 d); x_i x_j / sqrt(d) for i < j, j running fastest. "
                  "phi(q) phi(k) = 1 + s + s^2 / 2 with s = q k / sqrt(d)",
        "favor": "exp(x P^T - |x|^2 / 2) / sqrt(7), P = favor_projection [7, 6], not learned, x not scaled. Restated; equals performer-pytorch softmax_kernel"
                 "(normalize_data=False, eps=0) times exp(m), m its stabiliser (constant to gradients): the largest x P^T of a row for queries, of a head's rows for keys"})


# ---- window and linear ---------------------------------------------------------------------------------------------
def window_and_linear(time=50, features=10, window=7):
    scale = KEY ** -0.5
    age = torch.arange(time)[:, None] - torch.arange(time)
    near, old = (age >= 0) & (age < window), age >= window

    def quadratic(q, k, v, fq, fk, gamma, detach=False):
        scores = (scale * q @ k.mT).masked_fill(~near, -torch.inf)
        largest = scores.amax(-1, keepdim=True)
        weights = gamma[:, None, None] * torch.exp(scores - (largest.detach() if detach else largest)) + (fq @ fk.mT) * old
        return dict(o=weights @ v / weights.sum(-1, keepdim=True))

    def by_token(q, k, v, fq, fk, gamma):
        kv, z, o = torch.zeros(BATCH, HEADS, features, VALUE), torch.zeros(BATCH, HEADS, features), []
        for t in range(time):
            first = max(0, t + 1 - window)
            if first:
                kv = kv + fk[:, :, first - 1, :, None] * v[:, :, first - 1, None]
                z = z + fk[:, :, first - 1]
            scores = scale * torch.einsum("bhd,bhsd->bhs", q[:, :, t], k[:, :, first:t + 1])
            weights = gamma[:, None] * torch.exp(scores - scores.amax(-1, keepdim=True))
            above = torch.einsum("bhs,bhsv->bhv", weights, v[:, :, first:t + 1]) + torch.einsum("bhf,bhfv->bhv", fq[:, :, t], kv)
            o.append(above / (weights.sum(-1) + (fq[:, :, t] * z).sum(-1))[..., None])
        return dict(o=torch.stack(o, 2))

    shape = (BATCH, HEADS, time)
    inputs = dict(q=normal(*shape, KEY), k=normal(*shape, KEY), v=normal(*shape, VALUE), fq=normal(*shape, features).exp() / features,
                  fk=normal(*shape, features).exp() / features, gamma=torch.sigmoid(normal(HEADS)))
    weights = dict(o=normal(*shape, VALUE))
    result = run(quadratic, inputs, weights)
    agree(result, run(by_token, inputs, weights))
    detached = run(functools.partial(quadratic, detach=True), inputs, weights)
    agree({k: detached[k] for k in ("o", "grad_v", "grad_fq", "grad_fk", "grad_gamma")}, result)
    save("window_and_linear", inputs | with_weights(weights) | result, {
        "reference": "restated in torch from LoLCATs, arXiv 2410.10254, eq. 6", "scale": "8^-1/2",
        "rule": "a_ij = gamma_h exp(scale q_i k_j - c_i) for 0 <= i - j < 7, fq_i fk_j for i - j >= 7, else 0; o_i = sum_j a_ij v_j / sum_j a_ij; no epsilon",
        "c_i": "max over 0 <= i - j < 7 of scale q_i k_j. It does not cancel: grad_* go through it",
        "gamma": "[H], used as stored"})


# ---- cross entropy, layer norm -------------------------------------------------------------------------------------
def cross_entropy(rows=9, classes=23):
    targets = torch.randint(classes, (rows,), generator=reference.generator)
    targets[[2, 7]] = -100
    inputs, weights = dict(logits=3 * normal(rows, classes)), dict(loss=normal(rows))
    result = run(lambda logits: dict(loss=F.cross_entropy(logits, targets, reduction="none")), inputs, weights)
    save("cross_entropy", inputs | dict(targets=targets, w=weights["loss"]) | result, {
        "reference": "torch cross_entropy, reduction none", "targets": "i64; -100: ignored, loss and gradient 0", "grad_logits": "of sum(loss * w)"})


for case in retention_case, scalar_decay, gla_case, delta_rule_case, kda_case, gated_delta_negative:
    for time in TIMES:
        case(time)
mamba2_module()
feature_maps()
window_and_linear()
cross_entropy()
