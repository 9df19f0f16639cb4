"""Times in PyTorch what `neva kernels bench --json OURS` timed: the same shapes, cold caches, the median of as many runs.

    python benches/peers/torch_kernels.py OURS.json --json TORCH.json [--device cuda]

Each op has one or more peers: eager PyTorch, torch.compile (max-autotune, static shapes), and where PyTorch has them its
own fused kernels (scaled_dot_product_attention with the FLASH, CUDNN and EFFICIENT backends, fused AdamW). Backward is timed
alone, with the graph kept. Ops without a counterpart of the same meaning are left out, and said so.
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


class Clock:
    """The median time of a call whose inputs are in no cache."""

    def __init__(self, device, runs):
        self.device, self.runs = device, runs
        self.flush = torch.empty(FLUSH_BYTES[device], dtype=torch.uint8, device=device)

    def ms(self, call, prepare=lambda: ()):
        times = []
        for i in range(self.runs + 3):
            inputs = prepare()
            self.flush.zero_()
            if self.device == "cuda":
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                call(*inputs)
                end.record()
                torch.cuda.synchronize()
                took = start.elapsed_time(end)
            else:
                begin = time.perf_counter()
                call(*inputs)
                took = (time.perf_counter() - begin) * 1e3
            if i >= 3:
                times.append(took)
        return statistics.median(times)


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


def cross_entropy(logits, labels):
    return F.cross_entropy(logits.float(), labels)


def rotate(x, cos, sin, heads):
    q = x[..., : heads * cos.shape[-1] * 2].view(*x.shape[:-1], heads, -1)
    low, high = q.chunk(2, -1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)


def number(parameters, field):
    return int(re.search(rf"\b{field}: (\d+)", parameters).group(1))


def normal(dims, dtype, device, grad=True):
    return torch.randn(dims, device=device).to(dtype).requires_grad_(grad)


def peers(row, dtype, device):
    """(name, function, inputs) of each peer of a row, or nothing."""
    op, dims, parameters = row["op"], row["inputs"], row["parameters"]

    def both(function, inputs):
        compiled = torch.compile(function, mode="max-autotune-no-cudagraphs", dynamic=False)
        return [("eager", function, inputs), ("compiled", compiled, inputs)]

    tensors = lambda: [normal(d, dtype, device) for d in dims]
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
    if op == "add" and dims[0] == dims[1]:
        return both(torch.add, tensors())
    if op == "scale":
        return both(lambda x: x * 0.5, tensors())
    if op == "cast":
        return both(lambda x: x.to(torch.bfloat16), tensors())
    if op == "cross_entropy":
        labels = torch.randint(dims[0][-1], dims[0][:1], device=device)
        return both(cross_entropy, [normal(dims[0], dtype, device), labels])
    if op == "rope":
        heads = number(parameters, "heads") + number(parameters, "kv_heads")
        half = number(parameters, "rotary_dim") // 2
        if 2 * half != number(parameters, "head_dim"):
            return []
        angles = torch.rand(dims[0][0], 1, half, device=device).to(dtype)
        inputs = [normal(dims[0], dtype, device), angles.cos(), angles.sin()]
        return both(lambda x, cos, sin: rotate(x, cos, sin, heads), inputs)
    if op == "gemm":
        kind = re.search(r"kind: (\w+)", parameters).group(1)
        if len(dims[0]) != 2 or len(dims) != 2:
            return []
        a, b = normal(dims[0], dtype, device), normal(dims[1], dtype, device)
        products = {"NN": lambda a, b: a @ b, "NT": lambda a, b: a @ b.T, "TN": lambda a, b: a.T @ b}
        return [("eager", products[kind], [a, b])]
    if op == "attention":
        return attention(row, dtype, device)
    if op == "adamw":
        return []  # see adamw()
    return []


def attention(row, dtype, device):
    """Sequences of one length, as PyTorch takes them: [batch, heads, tokens, width]."""
    p = row["parameters"]
    heads, kv_heads, width = (number(p, f) for f in ("heads", "kv_heads", "head_dim"))
    length, tokens = number(p, "max_len"), row["inputs"][0][0]
    if tokens % length:
        return []
    shape = lambda h: [tokens // length, h, length, width]
    inputs = [normal(shape(h), dtype, device) for h in (heads, kv_heads, kv_heads)]
    causal, grouped = "causal: true" in p, heads != kv_heads

    def with_backend(backend):
        def run(q, k, v):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)

        return run

    backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    if device == "cpu":
        backends = [SDPBackend.FLASH_ATTENTION]
    return [("sdpa " + b.name.split("_")[0].lower(), with_backend(b), inputs) for b in backends]


def adamw(row, device, clock):
    """torch.optim.AdamW(fused=True) on f32 parameters: 28 bytes each, as ours with a narrow weight and an f32 gradient is 30."""
    n = max(d[0] for d in row["inputs"])
    parameter = torch.randn(n, device=device, requires_grad=True)
    parameter.grad = torch.randn(n, device=device)
    optimizer = torch.optim.AdamW([parameter], lr=1e-3, fused=True)
    optimizer.step()
    return [("fused f32", clock.ms(optimizer.step))]


def timed(row, device, clock):
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[row["dtype"]]
    if row["op"] == "adamw":
        return adamw(row, device, clock)
    found = []
    for name, function, inputs in peers(row, dtype, device):
        try:
            if row["pass"] == "forward":
                with torch.no_grad():
                    found.append((name, clock.ms(lambda: function(*inputs))))
            else:
                outputs = function(*inputs)
                outputs = outputs if isinstance(outputs, tuple) else (outputs,)
                gradients = [torch.randn_like(o) for o in outputs]
                wanted = [x for x in inputs if x.requires_grad]
                call = lambda: torch.autograd.grad(outputs, wanted, gradients, retain_graph=True)
                found.append((name, clock.ms(call)))
        except RuntimeError as error:  # a backend that does not take this shape or type
            print(f"{row['op']} {row['case']} {row['dtype']} {row['pass']}: {name}: {str(error).splitlines()[0]}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours")
    parser.add_argument("--json", required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--runs", type=int, default=30)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    clock = Clock(arguments.device, arguments.runs)
    with open(arguments.ours) as file:
        rows = json.load(file)["rows"]
    results = []
    for row in rows:
        torch.compiler.reset()
        for name, ms in timed(row, arguments.device, clock):
            key = {k: row[k] for k in ("op", "case", "dtype", "pass")}
            results.append({**key, "peer": name, "ms": ms})
            print(f"{row['op']} {row['pass']} {row['dtype']} {row['case']}: {name} {ms:.4f} ms, ours {row['ms']:.4f} ms")
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    with open(arguments.json, "w") as file:
        json.dump({"torch": torch.__version__, "device": name, "rows": results}, file, indent=1)


if __name__ == "__main__":
    main()
