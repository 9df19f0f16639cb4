"""A training step of neva beside the same step in PyTorch and transformers (train_step.py): one table.

For each case both programs run in turn, several rounds of some steps; what counts is the best step of each. Beside them
stands the least that a step could take on this machine (`neva bench step --floor`): its floating-point operations at the
machine's rate, and 28 bytes per parameter that learns at the rate of a copy, both the best that any round measured.

  steps.py [--neva target/release/neva] [--python PYTHON] [--rounds 5] [--steps 5] [--threads 1] [--only TEXT]

Run it on a machine that does nothing else, with the interpreter that install.sh made as --python (or as this one's own).
"""
import argparse, json, os, platform, subprocess, sys

SMALL = []
LARGE = ["--llm", "1024,12,16,2816", "--vision", "384,8,6,1536", "--image", "224", "--patch", "14"]
# What is asked of each: the ratio torch / neva.
CASES = [
    ("phase 2, f32", ["--train", "llm", "--dtype", "f32"], SMALL, 1.2),
    ("phase 1, f32", ["--train", "projector", "--dtype", "f32"], SMALL, 1.2),
    ("phase 2, bf16", ["--train", "llm", "--dtype", "bf16"], SMALL, 1.3),
    ("phase 1, bf16", ["--train", "projector", "--dtype", "bf16"], SMALL, 1.4),
    ("large, phase 2, f32", ["--train", "llm", "--dtype", "f32"], LARGE, 1.15),
    ("large, phase 2, bf16", ["--train", "llm", "--dtype", "bf16"], LARGE, 1.2),
]


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--neva", default="target/release/neva")
    a.add_argument("--python", default=sys.executable)
    a.add_argument("--rounds", type=int, default=5)
    a.add_argument("--steps", type=int, default=5)
    a.add_argument("--threads", type=int, default=1)
    a.add_argument("--only", default="", help="cases whose name holds this")
    o = a.parse_args()
    peer = os.path.join(os.path.dirname(os.path.abspath(__file__)), "train_step.py")
    rows, device, versions = [], "", ""
    for name, case, sizes, wanted in CASES:
        if o.only not in name:
            continue
        flags = case + sizes + ["--steps", str(o.steps), "--threads", str(o.threads)]
        ours, theirs = [], []
        for _ in range(o.rounds):
            ours.append(run([o.neva, "bench", "step", "--floor"] + flags))
            theirs.append(run([o.python, peer] + flags))
        device, versions = ours[0]["device"], f"{ours[0]['peer']}, {theirs[0]['peer']}"
        best = [min(r["ms_best"] for r in runs) for runs in (ours, theirs)]
        flops, copy = (max(r[key] for r in ours) for key in ("gflop_per_s", "copy_gb_per_s"))
        floor = ours[0]["gflop"] / flops * 1e3 + 28 * ours[0]["learning"] / copy / 1e6
        memory = (max(r["peak_mib"] for r in ours), ours[0]["allowed_mib"])
        rows.append((name, *best, best[1] / best[0], wanted, floor, flops, copy, *memory))
        print(f"{name}: {best[0]:.1f} ms beside {best[1]:.1f} ms", file=sys.stderr, flush=True)
    print(f"{versions}; {device}; {platform.platform()}; {o.rounds} rounds of {o.steps} steps in turn; the best step of each.\n")
    print("| | neva, ms | torch, ms | torch / neva | asked | floor, ms | GFLOP/s | copy, GB/s | peak, MiB | allowed, MiB |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, neva, torch, ratio, wanted, floor, flops, copy, peak, allowed in rows:
        print(f"| {name} | {neva:.1f} | {torch:.1f} | {ratio:.2f} | {wanted:.2f} | {floor:.1f} | {flops:.0f} | {copy:.1f} "
              f"| {peak:.0f} | {allowed:.0f} |")


if __name__ == "__main__":
    main()
