"""Times in PyTorch what `neva kernels bench --json OURS` timed: the same shapes, cold caches, the median of as many runs.

    python benches/peers/torch_kernels.py OURS.json --json TORCH.json [--device cuda] [--seconds 200] [--smoke]

OURS is the only list of cases; nothing is listed here. Each op has one or more peers: eager PyTorch, torch.compile
(max-autotune, static shapes), and where PyTorch has them its own fused kernels (scaled_dot_product_attention with the FLASH,
CUDNN and EFFICIENT backends, fused AdamW). Backward is timed alone, with the graph kept; but the loss's gradient is part of
our forward pass, so there both passes of the peer are timed against it. Ops without a counterpart of the same meaning have
no peer. Results are written as they come, first the peers that need no compilation, so --seconds or an end by force loses
only the rest. --smoke runs everything once, without compiling, to see that it runs.
"""

import argparse
import json
import re
import statistics
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

FLUSH_BYTES = {"cuda": 256 << 20, "cpu": 128 << 20}
UNTIMED = 3
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "u32": torch.int64}


class Clock:
    """The median time of a call whose inputs are in no cache."""

    def __init__(self, device, runs, smoke):
        self.device, self.runs, self.untimed = device, runs, 0 if smoke else UNTIMED
        self.flush = torch.empty(1 << 12 if smoke else FLUSH_BYTES[device], dtype=torch.uint8, device=device)

    def ms(self, call):
        times = []
        for i in range(self.runs + self.untimed):
            self.flush.zero_()
            if self.device == "cuda":
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                call()
                end.record()
                torch.cuda.synchronize()
                took = start.elapsed_time(end)
            else:
                begin = time.perf_counter()
                call()
                took = (time.perf_counter() - begin) * 1e3
            if i >= self.untimed:
                times.append(took)
        return statistics.median(times)


class Peer:
    """A function and its inputs. `bytes`: what it moves at least, where that is not what ours moves."""

    def __init__(self, name, function, inputs, compiled=False, both_passes=False, bytes=None):
        self.name, self.function, self.inputs = name, function, inputs
        self.compiled, self.both_passes, self.bytes = compiled, both_passes, bytes


def rms_norm(x, w):
    return F.rms_norm(x, w.shape, w, 1e-5)


def layer_norm(x, w, b):
    return F.layer_norm(x, w.shape, w, b, 1e-5)


def add_rms_norm(a, b, w):
    r = a + b
    return F.rms_norm(r, w.shape, w, 1e-5), r


def swiglu(x):
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def cross_entropy(logits, labels):
    return F.cross_entropy(logits.float(), labels)


def rotate(x, cos, sin, heads):
    q = x[..., : heads * cos.shape[-1] * 2].view(*x.shape[:-1], heads, -1)
    low, high = q.chunk(2, -1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)


def number(parameters, field):
    return int(re.search(rf"\b{field}: (\d+)", parameters).group(1))


def peers(row, device):
    """The peers of a row."""
    op, dims, parameters = row["op"], row["inputs"], row["parameters"]
    types = [TYPES[name] for name in row["types"]]
    if not all(0 not in d for d in dims):
        return []

    def both(function, inputs, **more):
        compiled = torch.compile(function, mode="max-autotune-no-cudagraphs", dynamic=False)
        return [Peer("eager", function, inputs, **more), Peer("compiled", compiled, inputs, compiled=True, **more)]

    def normal(d, dtype=types[0], grad=True):
        return torch.randn(d, device=device).to(dtype).requires_grad_(grad)

    def tensors():
        return [normal(d, dtype) for d, dtype in zip(dims, types)]

    def below(bound, n):
        return torch.randint(bound, n, device=device)

    if op == "rms_norm":
        return both(rms_norm, tensors())
    if op == "layer_norm" and "one_plus: true" not in parameters:
        return both(layer_norm, tensors())
    if op == "add_rms_norm":
        return both(add_rms_norm, tensors())
    if op == "gated" and "Silu" in parameters:
        return both(swiglu, tensors())
    if op == "activation" and "GeluErf" in parameters:
        return both(F.gelu, tensors())
    if op == "activation" and "QuickGelu" in parameters:
        return both(quick_gelu, tensors())
    if op == "add" and len(dims[0]) >= len(dims[1]) and dims[0][len(dims[0]) - len(dims[1]) :] == dims[1]:
        return both(torch.add, tensors())
    if op == "scale":
        return both(lambda x: x * 0.5, tensors())
    if op == "cast":
        to = torch.bfloat16 if "Bf16" in parameters else torch.float32
        return both(lambda x: x.to(to), tensors()) if "F64" not in parameters and to != types[0] else []
    if op == "dropout":
        return both(lambda x: F.dropout(x, 0.1), [normal(dims[0])])
    if op == "column_sum":
        return both(lambda x: x.sum(0, dtype=torch.float32), [normal(dims[0])]) if len(dims[0]) == 2 else []
    if op == "sum_squares":
        values = [normal(d, dtype, grad=False) for d, dtype in zip(dims, types)]
        return [Peer("foreach", lambda *x: torch.stack(torch._foreach_norm(x)).norm(), values)]
    if op == "top_k":
        k, columns = number(parameters, "k"), number(parameters, "columns")
        if k == 1:
            return both(lambda x: x[:, :columns].max(-1), [normal(dims[0], grad=False)])
        return both(lambda x: torch.topk(x[:, :columns], k), [normal(dims[0], grad=False)])
    if op == "embedding":
        ids = below(dims[0][0], dims[1])
        return both(lambda table, ids: F.embedding(ids, table), [normal(dims[0]), ids])
    if op == "patchify":
        n, channels, height, width = dims[0]
        p = number(parameters, "patch")
        if height % p or width % p:
            return []
        cut = lambda x: x.view(n, channels, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5).contiguous()
        return both(cut, [normal(dims[0])])
    if op == "cross_entropy":
        return both(cross_entropy, [normal(dims[0]), below(dims[0][-1], dims[0][:1])], both_passes=True)
    if op == "rope":
        heads = number(parameters, "heads") + number(parameters, "kv_heads")
        half = number(parameters, "rotary_dim") // 2
        if 2 * half != number(parameters, "head_dim"):
            return []
        angles = torch.rand(dims[0][0], 1, half, device=device).to(types[0])
        inputs = [normal(dims[0]), angles.cos(), angles.sin()]
        return both(lambda x, cos, sin: rotate(x, cos, sin, heads), inputs)
    if op == "gemm":
        kind = re.search(r"kind: (\w+)", parameters).group(1)
        if len(dims) != 2 or len(dims[0]) != 2 or len(dims[1]) != 2:
            return []
        products = {"NN": lambda a, b: a @ b, "NT": lambda a, b: a @ b.T, "TN": lambda a, b: a.T @ b}
        return [Peer("eager", products[kind], tensors())]
    if op == "attention":
        return attention(row, types[0], device)
    if op == "cached_attention":
        return cached_attention(row, types[0], device)
    if op == "adamw":
        return adamw(row, device)
    return []


def attention(row, dtype, device):
    """Sequences of one length, as PyTorch takes them: [batch, heads, tokens, width], here views of rows."""
    p = row["parameters"]
    heads, kv_heads, width = (number(p, f) for f in ("heads", "kv_heads", "head_dim"))
    length, tokens = number(p, "max_len"), row["inputs"][0][0]
    causal, grouped = "causal: true" in p, heads != kv_heads
    pairs = length * (length + 1) // 2 if causal else length * length
    if tokens % length or number(p, "pairs") != tokens // length * pairs:
        return []
    rows = lambda h: torch.randn(tokens // length, length, h, width, device=device).to(dtype).requires_grad_(True)
    inputs = [rows(h) for h in (heads, kv_heads, kv_heads)]

    def with_backend(backend):
        def run(*qkv):
            with sdpa_kernel(backend):
                q, k, v = (x.transpose(1, 2) for x in qkv)
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)

        return run

    backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    if device == "cpu":
        backends = [SDPBackend.FLASH_ATTENTION]
    return [Peer("sdpa " + b.name.split("_")[0].lower(), with_backend(b), inputs) for b in backends]


def cached_attention(row, dtype, device):
    """One new row per sequence, which sees a whole cache."""
    p = row["parameters"]
    heads, kv_heads, width, capacity = (number(p, f) for f in ("heads", "kv_heads", "head_dim", "max_len"))
    (rows, _), (slots, _, _) = row["inputs"][:2]
    if slots != rows or number(p, "pairs") != rows * capacity:
        return []
    q = torch.randn(rows, heads, 1, width, device=device).to(dtype)
    k, v = (torch.randn(rows, capacity, kv_heads, width, device=device).to(dtype).transpose(1, 2) for _ in "kv")
    run = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=heads != kv_heads)
    return [Peer("sdpa", run, [q, k, v])]


def adamw(row, device):
    """torch.optim.AdamW(fused=True) on f32 parameters moves 28 bytes of each; ours with a narrow weight moves 30."""
    each = 5 if "narrow: true" in row["parameters"] else 4
    parameters = [torch.randn(d, device=device, requires_grad=True) for d in row["inputs"][2::each]]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    optimizer.step()
    return [Peer("fused f32", optimizer.step, [], bytes=28 * sum(p.numel() for p in parameters))]


def timed(row, peer, clock):
    """Milliseconds, or None where this peer has no such pass."""

    def backward():
        outputs = peer.function(*peer.inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        gradients = [torch.randn_like(o) for o in outputs]
        wanted = [x for x in peer.inputs if x.requires_grad]
        return lambda: torch.autograd.grad(outputs, wanted, gradients, retain_graph=True)

    if row["pass"] == "backward":
        return None if peer.both_passes else clock.ms(backward())
    if peer.both_passes:
        return clock.ms(lambda: backward()())
    with torch.no_grad():
        return clock.ms(lambda: peer.function(*peer.inputs))


def ceilings(clock, device, smoke):
    """What PyTorch's own copy and product reach: beside ours in the report, so that neither is taken on trust."""
    n = 1 << 10 if smoke else 1 << 28
    side = 64 if smoke else 8192 if device == "cuda" else 1024
    x, y = torch.randn(n, device=device), torch.empty(n, device=device)
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in "ab")
    copy, product = clock.ms(lambda: y.copy_(x)), clock.ms(lambda: a @ b)
    return {"copy_bytes_per_s": 8 * n / copy * 1e3, "bf16_flops_per_s": 2 * side**3 / product * 1e3}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours")
    parser.add_argument("--json", required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--runs", type=int, help="as many as ours by default")
    parser.add_argument("--seconds", type=float, help="begin no other row after so many")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    end = time.monotonic() + (arguments.seconds or float("inf"))
    torch.manual_seed(0)
    with open(arguments.ours) as file:
        ours = json.load(file)
    device = arguments.device
    clock = Clock(device, 1 if arguments.smoke else arguments.runs or ours["runs"], arguments.smoke)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    rates = ceilings(clock, device, arguments.smoke)
    results, without, failed, left = [], [], [], []

    def save():
        whole = {"torch": torch.__version__, "device": name, "smoke": arguments.smoke, **rates, "rows": results,
                 "without_peer": without, "failed": failed, "not_reached": left}
        with open(arguments.json, "w") as file:
            json.dump(whole, file, indent=1)

    for compiled in [False] if arguments.smoke else [False, True]:
        for row in ours["rows"]:
            key = {k: row[k] for k in ("op", "case", "dtype", "pass")}
            label = " ".join(key.values())
            if time.monotonic() > end:
                left.append(label + (", compiled" if compiled else ""))
                continue
            torch.compiler.reset()
            found = peers(row, device)
            if not found and not compiled:
                without.append(label)
            for peer in (peer for peer in found if peer.compiled == compiled):
                try:
                    ms = timed(row, peer, clock)
                except (RuntimeError, NotImplementedError) as error:  # a backend that does not take this shape or type
                    failed.append(f"{label}: {peer.name}: {str(error).splitlines()[0]}")
                    print(failed[-1], flush=True)
                    continue
                if ms is not None:
                    results.append({**key, "peer": peer.name, "ms": ms, "bytes": peer.bytes or row["bytes"]})
                    print(f"{label}: {peer.name} {ms:.4f} ms, ours {row['ms']:.4f} ms", flush=True)
            save()
    save()
    print(f"{len(results)} times; {len(without)} rows without a peer, {len(failed)} refused, {len(left)} not reached")


if __name__ == "__main__":
    main()
