"""Writes mixers/*.safetensors: outputs and gradients of token mixers, from public reference implementations.

    pip install -r requirements.txt
    python make_mixers.py                    # rewrites mixers/ beside this file

Everything is f32 and in the layout [B, H, T, D] (module files: [B, T, N]). Gradients are those of
sum(o * w_o), plus sum(final_* * w_final_*) where a final state is returned; the weights w_* stand in the files.
`grad_x` belongs to the input `x`. Each file's metadata entry `conventions` states its own.

References: transformers' `torch_chunk_gated_delta_rule`, `torch_recurrent_gated_delta_rule`, `Qwen3_5GatedDeltaNet` and
`GraniteMoeHybridMambaLayer`; the naive.py files of flash-linear-attention (fla-core); torch's scaled_dot_product_attention.
"""
import functools
import torch, torch.nn.functional as F
import reference
from reference import agree, naive, normal, run, swap, with_weights    # in front of transformers
from transformers import DynamicCache
from transformers.models.granitemoehybrid.configuration_granitemoehybrid import GraniteMoeHybridConfig
from transformers.models.granitemoehybrid.modeling_granitemoehybrid import GraniteMoeHybridMambaLayer
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet, l2norm, torch_chunk_gated_delta_rule, torch_recurrent_gated_delta_rule

BATCH, HEADS = 1, 2
save = functools.partial(reference.save, "mixers")
fla_delta, fla_linear = naive("gated_delta_rule"), naive("linear_attn")


# ---- gated delta rule ----------------------------------------------------------------------------------------------
def delta_rule(rule):
    """`rule` on raw q and k: the functions of transformers bring them to unit length and scale q."""
    def function(q, k, v, g, beta, initial_state):
        o, state = rule(*swap(q, k, v, g, beta), initial_state=initial_state, output_final_state=True, use_qk_l2norm_in_kernel=True)
        return dict(o=o.transpose(1, 2), final_state=state)
    return function


def fla_rule(rule):
    """`rule` of fla, which expects q and k of unit length."""
    def function(q, k, v, g, beta, use_qk_l2norm_in_kernel, **rest):
        return rule(q=l2norm(q), k=l2norm(k), v=v, g=g, beta=beta, **rest)
    return delta_rule(function)


def gated_delta_rule(time, width=8, value=12):
    shape = (BATCH, HEADS, time)
    inputs = dict(q=normal(*shape, width), k=normal(*shape, width), v=normal(*shape, value), g=-torch.exp(1.5 * normal(*shape) - 2),
                  beta=torch.sigmoid(2 * normal(*shape)), initial_state=normal(BATCH, HEADS, width, value))
    weights = dict(o=normal(*shape, value), final_state=normal(BATCH, HEADS, width, value))
    result = run(delta_rule(torch_recurrent_gated_delta_rule), inputs, weights)
    for other in (delta_rule(torch_chunk_gated_delta_rule), fla_rule(fla_delta.naive_recurrent_gated_delta_rule), fla_rule(fla_delta.naive_chunk_gated_delta_rule)):
        agree(result, run(other, inputs, weights))
    save(f"gated_delta_rule_T{time}", inputs | with_weights(weights) | result, {
        "reference": "transformers torch_recurrent_gated_delta_rule, use_qk_l2norm_in_kernel=True",
        "rule": "S_t = exp(g_t) S_(t-1) + k_t (beta_t (v_t - k_t exp(g_t) S_(t-1))); o_t = q_t S_t",
        "q, k": "stored raw; used as x * rsqrt(sum(x^2) + 1e-6), q then times 8^-1/2 (1/sqrt of the key width)"})


# ---- normalised linear attention -----------------------------------------------------------------------------------
def linear_rule(q, k, v):
    o, (kv, z) = fla_linear.naive_recurrent_linear_attn(*swap(q, k, v), scale=1.0, normalize=True, output_final_state=True)
    return dict(o=o.transpose(1, 2), final_kv=kv, final_z=z[:, 0])


def linear_attention(time, width=8, value=12):
    shape = (BATCH, HEADS, time)
    inputs = dict(q=normal(*shape, width).exp(), k=normal(*shape, width).exp(), v=normal(*shape, value))
    weights = dict(o=normal(*shape, value), final_kv=normal(BATCH, HEADS, width, value), final_z=normal(BATCH, HEADS, width))
    result = run(linear_rule, inputs, weights)
    initial_kv, initial_z = normal(BATCH, HEADS, width, value), normal(BATCH, HEADS, width).exp()
    o, (kv, z) = fla_linear.naive_recurrent_linear_attn(*swap(*inputs.values()), scale=1.0, normalize=True, output_final_state=True,
                                                        initial_state=(initial_kv, initial_z[:, None]))
    continued = dict(initial_kv=initial_kv, initial_z=initial_z, continued_o=o.transpose(1, 2), continued_final_kv=kv, continued_final_z=z[:, 0])
    save(f"linear_attention_T{time}", inputs | with_weights(weights) | result | continued, {
        "reference": "fla naive_recurrent_linear_attn, normalize=True, scale=1",
        "rule": "o_t = q_t KV_t / (q_t z_t + 1e-10); KV_t = sum_(s<=t) k_s v_s; z_t = sum_(s<=t) k_s; q and k are positive features, unscaled",
        "states": "o, final_* and grad_* start from zero; continued_* are the same inputs from initial_kv, initial_z"})


# ---- sublayers: gated delta, Mamba-2 -------------------------------------------------------------------------------
@torch.no_grad()
def randomise(module):
    for name, weight in module.named_parameters():
        noise = normal(*weight.shape)
        weight.copy_(1 + 0.3 * noise if name in ("norm.weight", "D") else noise - 1 if name == "dt_bias" else 0.4 * noise)


def sublayer(module, config, hidden, time=37, pad=11, prefill=30):
    """A module with random weights: outputs of a whole pass with gradients, behind left padding, and through the cache."""
    randomise(module)
    x, w_y = normal(2, time, hidden).requires_grad_(), normal(2, time, hidden)
    y = module(x)
    (y * w_y).sum().backward()
    parameters = dict(module.named_parameters())
    gradients = {f"grad_{k}": v.grad for k, v in parameters.items()} | dict(grad_x=x.grad)

    with torch.no_grad():
        mask = torch.ones(2, time)
        mask[1, :pad] = 0
        x_left = x.clone()
        x_left[1, :pad], x_left[1, pad:] = 0, x[1, :time - pad]
        y_left = module(x_left, attention_mask=mask) * mask[..., None]
        torch.testing.assert_close(y_left[1, pad:], y[1, :time - pad], rtol=1e-4, atol=1e-5)

        cache = DynamicCache(config=config)
        pieces = [module(x[:, :prefill], cache_params=cache)]
        state = cache.get_recurrent_state(0, state_idx=0).clone()
        pieces += [module(x[:, t:t + 1], cache_params=cache) for t in range(prefill, time)]
        y_cached = torch.cat(pieces, 1)
        torch.testing.assert_close(y_cached, y, rtol=1e-4, atol=1e-5)
    return parameters | dict(x=x, y=y, w_y=w_y) | gradients | dict(mask=mask, x_left=x_left, y_left=y_left, y_cached=y_cached, state_after_prefill=state)


def calls(state):
    return {
        "mask": "1 token, 0 left padding; x_left row 1 is 11 zeros and the first 26 rows of x; y_left is zero where the mask is",
        "y_cached": f"30 tokens at once, then 7 single tokens through the cache; state_after_prefill {state} is the state in front of those"}


def gated_delta_module(name, value_heads, value_dim, hidden=24):
    config = Qwen3_5TextConfig(hidden_size=hidden, num_hidden_layers=1, layer_types=["linear_attention"], rms_norm_eps=1e-6, linear_conv_kernel_dim=4,
                               linear_num_key_heads=2, linear_num_value_heads=value_heads, linear_key_head_dim=6, linear_value_head_dim=value_dim)
    save(name, sublayer(Qwen3_5GatedDeltaNet(config, layer_idx=0), config, hidden), {
        "reference": "transformers Qwen3_5GatedDeltaNet; parameters under its names",
        "in_proj_qkv": "rows: queries of all key heads, keys of all key heads, values of all value heads; value head h reads key head h / (value heads / key heads)",
        "norm": "weight * o * rsqrt(mean(o^2) + 1e-6) over a head's values, then times silu(z)"} | calls("[B, H, D, V]"))


def mamba2_module(name, hidden=24, heads=4, state=10):
    config = GraniteMoeHybridConfig(hidden_size=hidden, num_hidden_layers=1, layer_types=["linear_attention"], num_attention_heads=heads, rms_norm_eps=1e-6,
                                    mamba_n_heads=heads, mamba_n_groups=heads, mamba_d_head=hidden // heads, mamba_d_state=state, mamba_d_conv=4, mamba_expand=1,
                                    mamba_chunk_size=16)
    save(name, sublayer(GraniteMoeHybridMambaLayer(config, layer_idx=0).eval(), config, hidden), {
        "reference": "transformers GraniteMoeHybridMambaLayer, groups = heads; parameters under its names",
        "in_proj": "no bias; rows: 24 gate z, 104 to the convolution (24 x, 40 B, 40 C, each head by head), 4 dt",
        "norm": "u = (o + D x) * silu(z); weight * u * rsqrt(mean(u^2) + 1e-6), the mean over each head's 6 features"} | calls("[B, H, P, N], transposed to ours,"))


# ---- sliding window and sinks --------------------------------------------------------------------------------------
def sliding_window_sinks(time=50, width=8, window=7, sinks=2):
    query, key = torch.arange(time)[:, None], torch.arange(time)[None]
    visible = (key <= query) & ((query - key < window) | (key < sinks))
    inputs = {name: normal(BATCH, HEADS, time, width) for name in "qkv"}
    weights = dict(o=normal(BATCH, HEADS, time, width))
    result = run(lambda q, k, v: dict(o=F.scaled_dot_product_attention(q, k, v, attn_mask=visible)), inputs, weights)
    save("sliding_window_sinks", inputs | with_weights(weights) | result, {
        "reference": "torch scaled_dot_product_attention with the mask written out", "scale": "8^-1/2",
        "visible": "query i sees key j if j <= i and (i - j < 7 or j < 2)"})


# ---- Hedgehog ------------------------------------------------------------------------------------------------------
def hedgehog(time=33, width=8):
    def features(x, weight):
        y = x @ weight.mT
        return torch.cat([y.softmax(-1), (-y).softmax(-1)], -1)

    inputs = {name: normal(BATCH, HEADS, time, width) for name in "qkv"} | dict(weight=0.5 * normal(HEADS, width, width))
    weights = dict(o=normal(BATCH, HEADS, time, width))
    result = run(lambda q, k, v, weight: dict(o=linear_rule(features(q, weight), features(k, weight), v)["o"]), inputs, weights)
    save("hedgehog", inputs | with_weights(weights) | result, {
        "reference": "fla naive_recurrent_linear_attn, normalize=True, scale=1, on the features",
        "features": "concat(softmax(x W^T), softmax(-x W^T)); weight is [H, output, input], shared by q and k", "eps": "1e-10, added to the normaliser"})


for time in (1, 63, 64, 65, 100, 257):
    gated_delta_rule(time)
for time in (1, 65, 100):
    linear_attention(time)
gated_delta_module("gated_delta_module", value_heads=2, value_dim=6)
gated_delta_module("gated_delta_module_grouped", value_heads=4, value_dim=10)
sliding_window_sinks()
hedgehog()
mamba2_module("mamba2_module")
