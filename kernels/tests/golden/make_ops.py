"""Writes the golden vectors of kernels/tests/golden.rs: one JSON file per op, beside this script.

Every number comes from torch.nn.functional, torch.optim or transformers, computed in float64 unless a case says
otherwise, so that an equation that is wrong in forward and backward alike cannot pass. Inputs are multiples of 1/64:
they are exact in every type and short to write. Made with torch 2.15 and transformers 5.23:

    python kernels/tests/golden/make_ops.py
"""

import json
import pathlib

import torch
import torch.nn.functional as F
from transformers.activations import ACT2FN
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

HERE = pathlib.Path(__file__).parent
IGNORED = 2**32 - 1
generator = torch.Generator().manual_seed(0)
files = {}


def values(*dims):
    """Normal values, rounded to multiples of 1/64."""
    return (torch.randn(dims, generator=generator, dtype=torch.float64) * 64).round() / 64


def ids(*numbers):
    return torch.tensor(numbers, dtype=torch.int64)


def numbers(tensor):
    flat = tensor.detach().flatten().tolist()
    return [int(v) if float(v).is_integer() else v for v in flat]


def tensor(t, kind):
    return {"kind": kind, "dims": list(t.shape), "values": numbers(t)}


def case(op, name, function, inputs, params=None, dtype="f64"):
    """One case: `inputs` are (tensor, kind), the kind T, acc or u32, with a quote behind it if it has a gradient;
    `function` takes the tensors and returns the outputs."""
    tensors, differentiable = [], []
    for t, kind in inputs:
        if kind.endswith("'"):
            t = t.clone().requires_grad_()
            differentiable.append(t)
        tensors.append(t)
    outs = function(*tensors)
    outs = list(outs) if isinstance(outs, (tuple, list)) else [outs]
    record = {"name": name, "dtype": dtype, "params": params or {}}
    record["inputs"] = [tensor(t, kind.rstrip("'")) for t, (_, kind) in zip(tensors, inputs)]
    record["outs"] = [numbers(out) for out in outs]
    if differentiable:
        douts = [values(*out.shape) for out in outs]
        record["douts"] = [numbers(d) for d in douts]
        gradients = iter(torch.autograd.grad(outs, differentiable, douts))
        record["grads"] = [numbers(next(gradients)) if kind.endswith("'") else None for _, kind in inputs]
    files.setdefault(op, []).append(record)


# Elementwise

case("add", "same shape", torch.add, [(values(3, 4), "T'"), (values(3, 4), "T'")])
case("add", "bias", torch.add, [(values(5, 3), "T'"), (values(3), "T'")])
case("scale", "by 0.3", lambda x: x * 0.3, [(values(2, 5), "T'")], {"factor": 0.3})
case("column_sum", "7x3", lambda x: x.sum(0), [(values(7, 3), "T'")])
case("sum_squares", "7x3", lambda x: x.square().sum().reshape(1), [(values(7, 3), "T")])

# 1 + 2^-8 lies halfway between two bfloat16 numbers, and so do its neighbours: ties go to even.
ties = torch.tensor([1.00390625, 1.01171875, -1.00390625, 1.0039063, 3.0e38, 1e-40, 0.1, 65504.0])
case("cast", "f32 to bf16", lambda x: x.bfloat16(), [(ties, "T")], {"to": "bf16"}, "f32")
case("cast", "bf16 to f32", lambda x: x.float(), [(ties.bfloat16(), "T")], {"to": "f32"}, "bf16")

for name in ["gelu", "gelu_pytorch_tanh", "quick_gelu", "relu2", "relu", "silu"]:
    x = torch.cat([values(9), torch.tensor([-6.0, -0.015625, 0.015625, 3.0, 5.5], dtype=torch.float64)])
    case("activation", name, ACT2FN[name], [(x, "T'")], {"act": name})
for name in ["silu", "gelu", "gelu_pytorch_tanh", "relu"]:

    def gated(packed, act=ACT2FN[name]):
        gate, up = packed.chunk(2, dim=-1)
        return act(gate) * up

    case("gated", name, gated, [(values(3, 8), "T'")], {"act": name})

# Normalisation

EPS = 1e-5
case(
    "rms_norm",
    "3x8",
    lambda x, w: F.rms_norm(x, (8,), w, EPS),
    [(values(3, 8), "T'"), (values(8), "T'")],
    {"eps": EPS},
)


def add_rms_norm(x, residual, w):
    r = x + residual
    return F.rms_norm(r, (8,), w, EPS), r


case(
    "add_rms_norm",
    "3x8",
    add_rms_norm,
    [(values(3, 8), "T'"), (values(3, 8), "T'"), (values(8), "T'")],
    {"eps": EPS},
)
for one_plus in [False, True]:
    case(
        "layer_norm",
        f"one_plus {one_plus}",
        lambda x, w, b: F.layer_norm(x, (8,), w + 1 if one_plus else w, b, EPS),
        [(values(3, 8), "T'"), (values(8), "T'"), (values(8), "T'")],
        {"eps": EPS, "one_plus": one_plus},
    )

# Products

product = {
    "NN": lambda a, b: a @ b,
    "NT": F.linear,
    "TN": lambda a, b: a.mT @ b,
}
stored = {"NN": ((3, 4), (4, 5)), "NT": ((3, 4), (5, 4)), "TN": ((4, 3), (4, 5))}
for kind, function in product.items():
    a, b = stored[kind]
    params = {"kind": kind, "bias": False, "accumulate": False}
    case("gemm", f"{kind}", function, [(values(*a), "T'"), (values(*b), "T'")], params)
case(
    "gemm",
    "linear with bias onto c",
    lambda x, w, b, c: c + F.linear(x, w, b),
    [(values(2, 3, 4), "T'"), (values(5, 4), "T'"), (values(5), "T'"), (values(2, 3, 5), "T'")],
    {"kind": "NT", "bias": True, "accumulate": True},
)
case(
    "gemm",
    "batch",
    torch.bmm,
    [(values(2, 3, 4), "T'"), (values(2, 4, 2), "T'")],
    {"kind": "NN", "bias": False, "accumulate": False},
)

# Attention over packed rows of [q heads | k heads | v heads]


def heads_of(qkv, heads, kv_heads, head_dim):
    q, k, v = qkv.split([heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], dim=-1)
    return [t.reshape(len(qkv), -1, head_dim).transpose(0, 1)[None] for t in (q, k, v)]


def rope_table(positions, head_dim, rotary_fraction, theta):
    config = LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )
    config.head_dim = int(head_dim * rotary_fraction)
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1, dtype=torch.float32), positions[None])
    return cos[0], sin[0]


def rope(x, table, heads, kv_heads, head_dim):
    half = table.shape[1] // 2
    cos, sin = [torch.cat([t, t], dim=-1)[None] for t in table.split(half, dim=-1)]
    q, k, v = heads_of(x, heads, kv_heads, head_dim)
    rotated = apply_rotary_pos_emb(q[..., : 2 * half], k[..., : 2 * half], cos, sin)
    q, k = [torch.cat([r, t[..., 2 * half :]], dim=-1) for r, t in zip(rotated, (q, k))]
    return torch.cat([t[0].transpose(0, 1).flatten(1) for t in (q, k, v)], dim=-1)


for name, shape, rotary_dim in [("grouped", (4, 2, 6), 6), ("half rotated", (2, 1, 8), 4)]:
    heads, kv_heads, head_dim = shape
    positions = ids(0, 1, 700)
    cos, sin = rope_table(positions, head_dim, rotary_dim / head_dim, 10000.0)
    table = torch.cat([cos[:, : rotary_dim // 2], sin[:, : rotary_dim // 2]], dim=-1).double()
    case(
        "rope",
        name,
        lambda x, table: rope(x, table, *shape),
        [(values(3, (heads + 2 * kv_heads) * head_dim), "T'"), (table, "acc")],
        {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "rotary_dim": rotary_dim,
         "positions": positions.tolist(), "theta": 10000.0},
    )


def attention(qkv, ends, shape, causal):
    outs = []
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist()):
        q, k, v = heads_of(qkv[start:end], *shape)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
        outs.append(out[0].transpose(0, 1).flatten(1))
    return torch.cat(outs)


for causal in [False, True]:
    shape = (2, 1, 8)
    case(
        "attention",
        f"grouped heads, two sequences, causal {causal}",
        lambda qkv, ends: attention(qkv, ends, shape, causal),
        [(values(5, 32), "T'"), (ids(0, 2, 5), "u32")],
        {"heads": 2, "kv_heads": 1, "head_dim": 8, "causal": causal, "max_len": 3},
    )


def append(cache, qkv, rows):
    width = cache.shape[-1]
    return cache.flatten(0, 1).index_copy(0, rows, qkv[:, -width:]).reshape(cache.shape)


case(
    "kv_cache",
    "two slots",
    append,
    [(values(2, 3, 8), "T"), (values(3, 16), "T"), (ids(1, 2, 3), "u32")],
    {"kv_heads": 1, "head_dim": 4},
)


def cached(qkv, cache, slots, positions):
    outs = []
    for row, slot, position in zip(qkv, slots.tolist(), positions.tolist()):
        q = row[:16].reshape(1, 2, 1, 8)
        k, v = [t[None, None] for t in cache[slot, : position + 1].split(8, dim=-1)]
        outs.append(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).flatten())
    return torch.stack(outs)


case(
    "cached_attention",
    "two slots",
    cached,
    [(values(3, 32), "T"), (values(2, 4, 16), "T"), (ids(0, 0, 1), "u32"), (ids(1, 2, 3), "u32")],
    {"heads": 2, "kv_heads": 1, "head_dim": 8, "max_len": 4},
)

# Rows

case("embedding", "repeated ids", lambda table, i: F.embedding(i, table), [(values(5, 3), "T'"), (ids(4, 0, 4, 2), "u32")])
case(
    "splice",
    "two of four rows",
    lambda x, features, rows: x.index_copy(0, rows, features),
    [(values(4, 3), "T'"), (values(2, 3), "T'"), (ids(3, 1), "u32")],
)


def patchify(pixels, patch):
    # A convolution whose filters are the unit vectors returns each pixel of a patch as a channel of its own, in the
    # order in which the filters flatten.
    n = pixels.shape[1] * patch * patch
    filters = torch.eye(n, dtype=pixels.dtype).reshape(n, pixels.shape[1], patch, patch)
    return F.conv2d(pixels, filters, stride=patch).flatten(2).transpose(1, 2).flatten(0, 1)


for name, patch, dims in [("2x3 patches", 2, (2, 3, 4, 6)), ("cut edges", 3, (1, 2, 4, 8))]:
    case("patchify", name, lambda pixels: patchify(pixels, patch), [(values(*dims), "T'")], {"patch": patch})

# Loss and optimiser


def cross_entropy(logits, labels, w):
    terms = F.cross_entropy(logits, labels.where(labels != IGNORED, -100), reduction="none", ignore_index=-100)
    return (terms * w).sum().reshape(1)


case(
    "cross_entropy",
    "weights and an ignored row",
    cross_entropy,
    [(values(4, 6) * 3, "T'"), (ids(2, IGNORED, 5, 0), "u32"), (values(4).abs(), "acc")],
)


def adamw(states, params):
    """One step of torch.optim.AdamW on tensors with these states (master, gradient, moments), after clipping in f64."""
    weights = [torch.nn.Parameter(master.double()) for master, *_ in states]
    for w, (_, grad, *_) in zip(weights, states):
        w.grad = grad.double().clone()  # clipped in place
    torch.nn.utils.clip_grad_norm_(weights, params["clip"])
    clipped = [w.grad for w in weights]
    weights = [torch.nn.Parameter(master.clone()) for master, *_ in states]
    for w, grad in zip(weights, clipped):
        w.grad = grad.to(w.dtype)
    optimizer = torch.optim.AdamW(
        weights,
        lr=params["lr"],
        betas=(params["beta1"], params["beta2"]),
        eps=params["eps"],
        weight_decay=params["weight_decay"],
        foreach=False,
    )
    step = torch.tensor(float(params["step"] - 1))
    for w, (_, _, m, v) in zip(weights, states):
        optimizer.state[w] = {"step": step.clone(), "exp_avg": m.clone(), "exp_avg_sq": v.clone()}
    optimizer.step()
    return [(w.detach(), optimizer.state[w]["exp_avg"], optimizer.state[w]["exp_avg_sq"]) for w in weights]


for dtype, torch_dtype in [("f64", torch.float64), ("f32", torch.float32), ("bf16", torch.float32)]:
    for step, clip in [(1, 0.625), (37, 1.5), (38, 100.0)]:
        narrow = dtype == "bf16"  # then the step also writes the weights that the model computes with
        params = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
        params |= {"lr": 0.001, "step": step, "clip": clip, "narrow": narrow}
        states = []
        for n in [12, 5]:
            m, v = (values(n), values(n).abs()) if step > 1 else (torch.zeros(n), torch.zeros(n))
            states.append([t.to(torch_dtype) for t in (values(n), values(n), m, v)])
        squares = sum(grad.square().sum() for _, grad, _, _ in states).reshape(1)
        inputs = [(squares, "acc")]
        for state in states:
            inputs += [(t, "acc") for t in state] + [(torch.zeros(state[0].shape), "T")] * narrow

        def run(*_):
            outs = []
            for master, m, v in adamw(states, params):
                outs += [master, m, v] + [master.bfloat16()] * narrow
            return outs

        case("adamw", f"step {step} of two tensors in {dtype}, clipped at {clip}", run, inputs, params, dtype)

case(
    "sum_squares",
    "three tensors",
    lambda *tensors: sum(t.square().sum() for t in tensors).reshape(1),
    [(values(7), "T"), (values(2, 3), "T"), (values(1), "T")],
)

# No two values are equal, so that the order of ids is not PyTorch's to choose.
distinct = torch.randperm(3 * 40, generator=generator, dtype=torch.float64).view(3, 40) / 16 - 3
for k, columns in [(1, 40), (7, 40), (31, 31)]:
    top = lambda x: torch.topk(x[:, :columns], k)
    case("top_k", f"{k} of {columns}", lambda x: list(top(x)), [(distinct, "T")], {"k": k, "columns": columns})
case(
    "top_k",
    "the first of equal values",
    lambda x: [x.max(-1, keepdim=True).values, x.argmax(-1, keepdim=True)],
    [(torch.tensor([[1.0, 4, 4, 0], [-1, -2, -1, -3]]), "T")],
    {"k": 1, "columns": 4},
)

for op, cases in files.items():
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    (HERE / f"{op}.json").write_text(f"[\n{lines}\n]\n")
