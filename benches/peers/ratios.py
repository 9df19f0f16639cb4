"""Puts `neva kernels bench --json OURS` and torch_kernels.py's TORCH side by side, as a Markdown table.

    python benches/peers/ratios.py OURS.json TORCH.json

A ratio is the peer's time over ours: above 1 we are faster.
"""

import json
import math
import sys


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    ours, torch = (json.load(open(name)) for name in sys.argv[1:])
    peers = {}
    for row in torch["rows"]:
        peers.setdefault(tuple(row[k] for k in ("op", "case", "dtype", "pass")), []).append(row)
    copy, f32, bf16 = (ours[k] for k in ("copy_bytes_per_s", "f32_flops_per_s", "bf16_flops_per_s"))
    print(f"{ours['device']}; PyTorch {torch['torch']} on {torch['device']}. In this run a large copy moved {copy / 1e9:.0f} GB/s, a large "
          f"product made {f32 / 1e12:.2f} TFLOP/s in f32 and {bf16 / 1e12:.2f} in bf16.\n")
    print("| op | case | type | pass | ms | TFLOP/s | GB/s | % of the floor | ratio to PyTorch |")
    print("|---|---|---|---|---:|---:|---:|---:|---|")
    logs = {}
    for row in ours["rows"]:
        seconds = row["ms"] / 1e3
        found = peers.get(tuple(row[k] for k in ("op", "case", "dtype", "pass")), [])
        for peer in found:
            logs.setdefault(peer["peer"], []).append(math.log(peer["ms"] / row["ms"]))
        ratios = ", ".join(f"{p['peer']} {p['ms'] / row['ms']:.2f}" for p in found) or "no peer"
        print(f"| {row['op']} | {row['case']} | {row['dtype']} | {row['pass']} | {row['ms']:.4f} | {row['flops'] / seconds / 1e12:.2f} "
              f"| {row['bytes'] / seconds / 1e9:.0f} | {row['floor_ms'] / row['ms'] * 100:.0f} | {ratios} |")
    print("\nGeometric mean of the ratios: "
          + "; ".join(f"{name} {math.exp(sum(l) / len(l)):.2f} over {len(l)}" for name, l in sorted(logs.items())) + ".")


if __name__ == "__main__":
    main()
