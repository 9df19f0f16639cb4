#!/usr/bin/env bash
# Everything that is to be learnt from a machine with an NVIDIA GPU, in two calls of at most ten minutes each. It needs this
# tree and a neva binary; no cargo, no network, no CUDA toolkit. What the machine has beside its driver is used if it is there
# (compute-sanitizer, ncu, a Python with PyTorch), and what is not there is said to be missing, never passed.
#
#   strip -o data/neva target/release/neva          # before: under 60 MB, so that it travels
#   benches/gpu_day.sh check                        # facts, every kernel against the CPU, the sanitizers, the quickstart
#   benches/gpu_day.sh bench                        # facts, times beside PyTorch, training steps, a profiler on the top kernels
#   benches/gpu_day.sh all                          # both, in twice the time
#
# Each step has a time limit and goes on after the failure of another. The results are $OUT/summary.md, the JSON of the benches,
# and logs.tar.gz with all that was printed. Exit status: 0 if every step that could run passed, 1 if one failed or ran out
# of time, 2 if nothing could be tried. Clocks are read, never set.
#
# Environment, all of it optional:
#   NEVA       the binary                                  (data/neva)
#   OUT        where results go                            (data/gpu_day)
#   PYTHON     a Python with PyTorch                       (python3)
#   COMMIT     what is measured, for the summary           (what git says)
#   SECONDS_A_PART  what check or bench may take           (570)
#   OPS        the ops that are checked                    (all)
#   STEPS      the steps to do, by the first word of each  (all): facts card binary check sanitize quickstart bench torch ratios step profile
#   SMOKE=1    small sizes, single runs and ten times the limit of each step, to try this script itself where a GPU is only simulated
set -u
cd "$(dirname "$0")/.." || exit 2

part=${1:-}
case $part in
check | bench | all) ;;
*)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
    ;;
esac

neva=${NEVA:-data/neva} python=${PYTHON:-python3} smoke=${SMOKE:-} steps=${STEPS:-} ops=${OPS:-}
out=${OUT:-data/gpu_day} commit=${COMMIT:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}
part_seconds=${SECONDS_A_PART:-570}
case $neva in
*/*) neva=$(realpath -m "$neva") ;;
*) neva=$(command -v "$neva") ;;
esac
[ -x "$neva" ] || { echo "$0: ${NEVA:-data/neva} is no program: see the first lines of this file" >&2; exit 2; }
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
logs=$(mktemp -d) work=$(mktemp -d)
trap 'rm -rf "$logs" "$work"' EXIT
# Chosen algorithms of products and whatever is compiled: nothing of a former day, nothing in anybody's home.
export NEVA_CACHE_DIR=${NEVA_CACHE_DIR:-$work/cache} PYTHONUNBUFFERED=1

began=$SECONDS failures=0 rows=()
left() { echo $((part_seconds - (SECONDS - began))); }
there() { command -v "$1" >/dev/null 2>&1; }

# verdict NAME TEXT SECONDS [LOG]
verdict() {
    rows+=("| $1 | $2 | $3 | ${4:-} |")
    printf '%-44s %s (%s s)\n' "$1" "$2" "$3"
}

# wanted NAME: whether STEPS asks for it.
wanted() {
    [ -z "$steps" ] && return 0
    case " $steps " in *" ${1%% *} "*) return 0 ;; esac
    return 1
}

# absent NAME WHAT: a step that this machine cannot do.
absent() { wanted "$1" && verdict "$1" "not there: $2" 0; }

# step NAME LIMIT COMMAND...: runs it for at most LIMIT seconds, or what is left of the part; says how it ended, and fails if it failed.
step() {
    local name=$1 limit=$2 start=$SECONDS code log rest
    shift 2
    wanted "$name" || return 1
    rest=$(left)
    [ -z "$smoke" ] || limit=$((limit * 10)) # a simulated GPU, maybe on a busy machine
    [ "$rest" -lt "$limit" ] && limit=$rest
    if [ "$limit" -lt 1 ]; then
        failures=$((failures + 1))
        verdict "$name" "not reached: no time left" 0
        return 1
    fi
    log=${name//[^a-zA-Z0-9]/-}.log
    timeout -k 5 "$limit" "$@" >"$logs/$log" 2>&1 </dev/null
    code=$?
    case $code in
    0) verdict "$name" ok $((SECONDS - start)) "$log" ;;
    124 | 137) verdict "$name" "**timed out** after $limit s" $((SECONDS - start)) "$log" ;;
    *) verdict "$name" "**failed** ($code): $(tail -n 1 "$logs/$log" | tr '|' '/' | cut -c 1-160)" $((SECONDS - start)) "$log" ;;
    esac
    [ $code = 0 ] || { failures=$((failures + 1)); return 1; }
}

facts() {
    uname -srm
    nproc
    "$neva" --version
    "$python" --version
}

card() {
    nvidia-smi
    nvidia-smi --format=csv --query-gpu=name,driver_version,memory.total,power.limit,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,temperature.gpu
}

binary() {
    local bytes
    bytes=$(stat -c %s "$neva")
    echo "$bytes bytes"
    sha256sum "$neva"
    [ "$bytes" -lt 60000000 ] || { echo "the binary has $bytes bytes, 60,000,000 or more: strip it"; return 1; }
}

# The names of the ops, of the catalogue itself: "rms_norm: y = ..." at the beginning of a line.
all_ops() { "$neva" kernels list | sed -n 's/^\([a-z_]*\): .*/\1/p'; }

# What finds mistakes soonest comes first; each tool looks at what it is made for, and at more while there is time.
sanitize() {
    local tool op order=()
    if ! there compute-sanitizer; then
        for tool in memcheck racecheck synccheck initcheck; do absent "sanitize $tool" compute-sanitizer; done
        return
    fi
    for op in attention cached_attention cross_entropy layer_norm rms_norm add_rms_norm embedding $checked; do
        case " $checked " in *" $op "*) ;; *) continue ;; esac
        case " ${order[*]-} " in *" $op "*) ;; *) order+=("$op") ;; esac
    done
    for tool in memcheck racecheck synccheck initcheck; do
        [ "$tool" = memcheck ] || [ -n "$ops" ] || order=("${order[@]:0:7}")
        for op in "${order[@]}"; do
            step "sanitize $tool $op" 45 compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 \
                "$neva" kernels check "$op" --device cuda
        done
    done
}

part_check() {
    local op
    checked=${ops:-$(all_ops)}
    step "check conformance" 60 "$neva" kernels check conformance --device cuda
    for op in $checked; do
        [ "$op" = conformance ] || step "check $op" 60 "$neva" kernels check "$op" --device cuda
        [ "$op" != attention ] || step "check $op, any order" 60 "$neva" kernels check "$op" --any-order --device cuda
    done
    step quickstart 150 "$neva" quickstart --device cuda --out "$work/quickstart" &&
        tail -n 1 "$logs/quickstart.log" >"$out/quickstart.json"
    sanitize
}

# One launch each of what takes most of a step.
profile() {
    if ! there ncu; then
        absent profile ncu
        return
    fi
    local line op pass case_name
    while IFS='/' read -r op pass case_name; do
        line="profile $op $pass"
        step "$line" 60 ncu --profile-from-start off --clock-control none --section SpeedOfLight --section MemoryWorkloadAnalysis \
            --section Occupancy --section LaunchStats --section WarpStateStats \
            "$neva" kernels profile "$op" --pass "$pass" --case "$case_name" --device cuda ${smoke:+--smoke}
    done <<'CASES'
attention/forward/causal d128, 4 x 4096
attention/backward/causal d128, 4 x 4096
cross_entropy/forward/8192x32000
rms_norm/backward/8192x4096
add_rms_norm/forward/8192x4096
gated/backward/swiglu 8192x11008
adamw/forward/64 M, narrow weight
cached_attention/forward/decode 1 x 4096 keys, 32 heads of 128
CASES
}

# Four of the 32 layers of NeVA-7B with all of its tower, beside transformers; and a size for a simulated GPU.
train_steps() {
    local sizes phase peer=transformers
    sizes=(--dtype bf16 --batch 8 --text 512 --steps 10 --image 336 --patch 14 --vision '1024,24,16,4096' --llm '4096,4,32,11008' --vocab 32000)
    [ -z "$smoke" ] || sizes=(--dtype bf16 --batch 2 --text 4 --steps 1 --image 16 --patch 8 --vision '32,2,2,64' --llm '32,2,2,64' --vocab 64)
    for phase in llm projector; do
        step "step $phase" 60 "$neva" bench step --device cuda "${sizes[@]}" --train $phase --trace &&
            tail -n 1 "$logs/step-$phase.log" >"$out/step-$phase.json"
        if [ -n "$has_transformers" ]; then
            step "step $phase, $peer" 90 "$python" benches/peers/train_step.py --device "$torch_device" "${sizes[@]}" --train $phase &&
                tail -n 1 "$logs/step-$phase--$peer.log" >"$out/step-$phase-$peer.json"
        else
            absent "step $phase, $peer" "PyTorch with transformers"
        fi
    done
}

part_bench() {
    local torch_device=cuda has_torch='' has_transformers=''
    [ -z "$smoke" ] || torch_device=cpu
    "$python" -c 'import torch' 2>/dev/null && has_torch=1
    "$python" -c 'import torch, transformers' 2>/dev/null && has_transformers=1
    step bench 200 "$neva" kernels bench --device cuda --json "$out/ours.json" ${smoke:+--smoke}
    step "bench any order" 40 "$neva" kernels bench attention --pass backward --any-order --device cuda \
        --json "$out/any_order.json" ${smoke:+--smoke}
    train_steps
    if [ -n "$has_torch" ]; then
        # A row that has begun is not broken off by its own limit; so that comes earlier than ours.
        step torch 230 "$python" benches/peers/torch_kernels.py "$out/ours.json" --json "$out/torch.json" --device "$torch_device" \
            --seconds $(($(left) < 320 ? $(left) - 120 : 200)) ${smoke:+--smoke}
    else
        absent torch "PyTorch"
    fi
    local peers=("$out/ours.json")
    [ ! -s "$out/torch.json" ] || peers+=("$out/torch.json")
    [ ! -s "$out/any_order.json" ] || peers+=(--any-order "$out/any_order.json")
    step ratios 20 "$python" benches/peers/ratios.py "${peers[@]}" && cp "$logs/ratios.log" "$out/ratios.md"
    profile
}

# The last line of a result, if it is there.
result() { [ ! -s "$out/$1" ] || printf '%s\n\n    %s\n\n' "$1:" "$(tail -n 1 "$out/$1")"; }

rm -f "$out"/{ours,any_order,torch,quickstart,step-llm,step-projector,step-llm-transformers,step-projector-transformers}.json "$out/ratios.md"
export -f facts card binary # timeout runs programs, not functions
export neva python
step facts 30 bash -c facts
if there nvidia-smi; then step card 30 bash -c card; else absent card nvidia-smi; fi
step binary 30 bash -c binary
[ "$part" = bench ] || part_check
[ "$part" != all ] || began=$SECONDS
[ "$part" = check ] || part_bench

{
    echo "# GPU day: $part"
    echo
    [ -z "$smoke" ] || printf '%s\n\n' '**A smoke run of the script: no time in it means anything.**'
    echo "- date: $(date -u '+%Y-%m-%d %H:%M UTC')"
    echo "- commit: $commit"
    echo "- card: $(nvidia-smi --format=csv,noheader --query-gpu=name,memory.total 2>/dev/null || echo 'nvidia-smi is not there')"
    echo "- driver: $(nvidia-smi --format=csv,noheader --query-gpu=driver_version 2>/dev/null || echo unknown)"
    echo "- clocks (SM, memory) at the end: $(nvidia-smi --format=csv,noheader --query-gpu=clocks.sm,clocks.mem 2>/dev/null || echo unknown)"
    echo "- failed or out of time: $failures"
    printf '\n%s\n%s\n' '| step | verdict | seconds | log |' '|---|---|---:|---|'
    printf '%s\n' "${rows[@]-}"
    echo
    for file in quickstart step-llm step-llm-transformers step-projector step-projector-transformers; do result "$file.json"; done
    [ ! -s "$out/ratios.md" ] || cat "$out/ratios.md"
} >"$out/summary.md"
tar -C "$logs" -czf "$out/logs.tar.gz" .
echo "$out/summary.md: $failures failed or out of time"
[ "$failures" = 0 ]
