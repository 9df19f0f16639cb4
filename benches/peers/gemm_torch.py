"""One product of torch per line of input, `DTYPE KIND MxNxK`, answered by its seconds; one thread. Started by gemm.rs."""

import sys
import time

import torch

torch.set_num_threads(1)
torch.set_grad_enabled(False)
kept = {}
for line in sys.stdin:
    if line not in kept:
        dtype, kind, sizes = line.split()
        m, n, k = map(int, sizes.split("x"))
        kept = {key: value for key, value in kept.items() if key.split()[1:] == [kind, sizes]}
        a = torch.randn(*((k, m) if kind == "TN" else (m, k))).to(getattr(torch, dtype))
        b = torch.randn(*((n, k) if kind == "NT" else (k, n))).to(getattr(torch, dtype))
        out = torch.empty(m, n, dtype=a.dtype)
        kept[line] = (a.T if kind == "TN" else a, b.T if kind == "NT" else b, out)
    a, b, out = kept[line]
    start = time.perf_counter()
    torch.mm(a, b, out=out)
    print(time.perf_counter() - start, flush=True)
