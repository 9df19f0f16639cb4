"""Puts `neva kernels bench --json OURS` and torch_kernels.py's TORCH side by side, as Markdown: rows, and which goals are reached.

    python benches/peers/ratios.py OURS.json [TORCH.json] [--any-order OURS_ANY_ORDER.json]

A ratio to a peer is its time over ours, per byte where it moves other bytes: above 1 we are faster. A ratio to the copy is
our bytes per second over those of a copy that moves about as many bytes, measured in the same run. A goal is reached if the
geometric mean over its cases is; the worst case stands beside it. Without TORCH, goals that need a peer are not measured;
nor, without the JSON of a run with --any-order, is what kernels reach that may add in any order.
"""

import json
import math
import sys

NORMS = {"rms_norm", "layer_norm", "add_rms_norm"}
POINTWISE = NORMS | {"gated", "activation"}


def attention(row):
    return row["op"] == "attention" and row["dtype"] == "bf16"


def ordered(row):
    """Whether sums were in a fixed order, as they are unless told otherwise."""
    return not row.get("any_order")


# What is to be reached: name, which rows, against whom ("copy", or the name of a peer), how much.
GOALS = [
    ("attention forward", lambda r: attention(r) and r["pass"] == "forward", "sdpa flash", 1.05),
    ("attention forward, to cuDNN", lambda r: attention(r) and r["pass"] == "forward", "sdpa cudnn", 1.00),
    ("attention backward, deterministic", lambda r: attention(r) and r["pass"] == "backward" and ordered(r), "sdpa flash", 0.90),
    ("attention backward, any order", lambda r: attention(r) and r["pass"] == "backward" and not ordered(r), "sdpa flash", 1.05),
    ("norms and activations forward", lambda r: r["op"] in POINTWISE and r["pass"] == "forward", "copy", 0.95),
    ("norms and activations forward, to torch.compile", lambda r: r["op"] in POINTWISE and r["pass"] == "forward", "compiled", 1.00),
    ("norms backward", lambda r: r["op"] in NORMS and r["pass"] == "backward", "copy", 0.85),
    ("norms backward, to torch.compile", lambda r: r["op"] in NORMS and r["pass"] == "backward", "compiled", 1.50),
    ("cross entropy with its gradient", lambda r: r["op"] == "cross_entropy" and r["pass"] == "forward", "copy", 0.90),
    ("cross entropy with its gradient, to torch.compile", lambda r: r["op"] == "cross_entropy" and r["pass"] == "forward", "compiled", 1.50),
    ("AdamW", lambda r: r["op"] == "adamw", "copy", 0.95),
    ("AdamW, to fused AdamW", lambda r: r["op"] == "adamw", "fused f32", 1.00),
    ("products", lambda r: r["op"] == "gemm", "eager", 0.99),
]


def to_copy(row, ours):
    """Our rate over that of the measured copy whose size is nearest."""
    bytes_moved = row["bytes"]
    if not bytes_moved:
        return None
    _, rate = min(ours["copies"], key=lambda copy: abs(math.log(copy[0] / bytes_moved)))
    return bytes_moved / (row["ms"] / 1e3) / rate


def to_peer(row, peer):
    per_byte = row["bytes"] / peer["bytes"] if row["bytes"] and peer.get("bytes") else 1
    return peer["ms"] / row["ms"] * per_byte


def mean(ratios):
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def goals(ours, found):
    """A row per goal: what it is, and what was measured."""
    lines = ["| goal | against | at least | mean | worst | cases | |", "|---|---|---:|---:|---|---:|---|"]
    for name, holds, against, least in GOALS:
        ratios = []
        for row in filter(holds, ours["rows"]):
            if against == "copy":
                values = [to_copy(row, ours)]
            else:
                values = [to_peer(row, peer) for peer in found(row) if peer["peer"] == against]
            ratios += [(value, row["case"]) for value in values if value]
        if not ratios:
            lines.append(f"| {name} | {against} | {least:.2f} | | | 0 | not measured |")
            continue
        whole, (worst, case) = mean([value for value, _ in ratios]), min(ratios)
        verdict = "reached" if whole >= least else "missed"
        verdict = "smoke: means nothing" if ours.get("smoke") else verdict
        lines.append(f"| {name} | {against} | {least:.2f} | {whole:.2f} | {worst:.2f} ({case}) | {len(ratios)} | {verdict} |")
    return lines


def main():
    names, free = sys.argv[1:], None
    if "--any-order" in names[-2:-1]:
        names, free = names[:-2], json.load(open(names[-1]))
    if len(names) not in (1, 2):
        sys.exit(__doc__)
    ours, *torch = (json.load(open(name)) for name in names)
    torch = torch[0] if torch else None
    if free:
        ours["rows"] += [{**row, "any_order": True} for row in free["rows"]]
    key = lambda row: tuple(row[k] for k in ("op", "case", "dtype", "pass"))
    peers = {}
    for row in torch["rows"] if torch else []:
        peers.setdefault(key(row), []).append(row)
    found = lambda row: peers.get(key(row), [])

    rates = lambda r: f"a large copy moved {r['copy_bytes_per_s'] / 1e9:.0f} GB/s, a large product in bf16 made {r['bf16_flops_per_s'] / 1e12:.2f} TFLOP/s"
    print(f"{ours['device']}: {rates(ours)}.")
    print(f"PyTorch {torch['torch']} on {torch['device']}: {rates(torch)}.\n" if torch else "No peer was timed.\n")
    if ours.get("smoke"):
        print("**A smoke run: every case ran once at a small size, and no time here means anything.**\n")
    print("\n".join(goals(ours, found)))
    print("\n| op | case | type | pass | ms | spread | TFLOP/s | GB/s | % of the floor | of the copy | ratio to PyTorch |")
    print("|---|---|---|---|---:|---:|---:|---:|---:|---:|---|")
    logs = {}
    for row in ours["rows"]:
        seconds, copy = row["ms"] / 1e3, to_copy(row, ours)
        for peer in found(row):
            logs.setdefault(peer["peer"], []).append(to_peer(row, peer))
        ratios = ", ".join(f"{p['peer']} {to_peer(row, p):.2f}" for p in found(row)) or "no peer"
        print(f"| {row['op']} | {row['case']}{'' if ordered(row) else ', any order'} | {row['dtype']} | {row['pass']} | {row['ms']:.4f} | {row['spread'] * 100:.0f} % "
              f"| {row['flops'] / seconds / 1e12:.2f} | {row['bytes'] / seconds / 1e9:.0f} | {row['floor_ms'] / row['ms'] * 100:.0f} "
              f"| {f'{copy:.2f}' if copy else ''} | {ratios} |")
    means = "; ".join(f"{name} {mean(ratios):.2f} over {len(ratios)}" for name, ratios in sorted(logs.items()))
    print(f"\nGeometric mean of the ratios: {means}." if means else "")
    for name in ("failed", "not_reached"):
        if torch and torch.get(name):
            print(f"\nPeers that {name.replace('_', ' ')}: " + "; ".join(torch[name]))


if __name__ == "__main__":
    main()
