#!/usr/bin/env bash
# Everything a GPU is needed for, in one command and within nine minutes: the tests that need one, then all benchmarks.
#
#   benchmarks/gpu_run.sh [FOLDER]      records (FOLDER/<device>.jsonl) and gpu_run.log; default benchmarks/results
#
# Needs no network, and no more than torch, triton, numpy, pillow, safetensors, transformers and tokenizers; tests run
# where pytest is there, baselines where diffusers is. Every part has its own time limit, and the whole has one: what
# hangs or fails costs its part, not the rest. Exits 1 if a part failed. Environment:
#
#   PYTHON      the interpreter (default: .venv/bin/python, else python3)
#   LIMIT       seconds for the whole (default 525)
#   ONLY        an extended regular expression: only the parts whose names it fits, say ONLY='edit|throughput'
#   QUICK=1     small shapes and one repeat, to see on any machine, without a GPU too, that it runs to its end
#   ICD_COMMIT  what to record as commit where the checkout has no history
#
# Compiled kernels are kept in $TORCHINDUCTOR_CACHE_DIR (default: torch's own): a second run on a machine starts warm.

set -uo pipefail
folder=$(mkdir -p "${1:-$(dirname "$0")/results}" && cd "${1:-$(dirname "$0")/results}" && pwd) || exit 2
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
slack=1
[ "${QUICK:-0}" != 0 ] && slack=10 # parts are short, machines without a GPU may be slow
LIMIT=${LIMIT:-$((525 * slack))}
log=$folder/gpu_run.log
: > "$log"
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1
summary=()
failed=0

say() { printf '%s\n' "$@" | tee -a "$log"; }

# part NAME SECONDS COMMAND...: runs a command for at most so long, and at most for what is left of the whole.
part() {
    local name=$1 limit=$(($2 * slack)) started=$SECONDS left=$((LIMIT - SECONDS)) code verdict
    shift 2
    [[ $name =~ ${ONLY:-} ]] || return 0
    if [ "$left" -lt 10 ]; then
        summary+=("$(printf '%-28s left out: no time' "$name")")
        return
    fi
    [ "$limit" -gt "$left" ] && limit=$left
    say "" "=== $name (at most $limit s): $*"
    timeout --kill-after=5 "$limit" "$@" < /dev/null 2>&1 | tee -a "$log"
    code=${PIPESTATUS[0]}
    case $code in
        0) verdict=done ;;
        124 | 137) verdict="cut at $limit s" failed=1 ;;
        *) verdict="FAILED ($code)" failed=1 ;;
    esac
    summary+=("$(printf '%-28s %-12s %4d s' "$name" "$verdict" $((SECONDS - started)))")
}

has() { "$PYTHON" -c "import $1" > /dev/null 2>&1; }

# tests NAME SECONDS ARGUMENTS...: the tests marked gpu; files that need what is not installed are named and passed over.
tests() {
    local name=$1 limit=$2
    shift 2
    if ! has pytest; then
        summary+=("$(printf '%-28s left out: no pytest' "$name")")
        return
    fi
    # Most of the time kernels are compiled, one core each.
    [ "${QUICK:-0}" = 0 ] && has xdist && set -- "$@" -n 8
    part "$name" "$limit" "$PYTHON" -m pytest -m gpu -q -p no:cacheprovider --continue-on-collection-errors "$@"
}

bench() {
    local name=$1 limit=$2
    shift 2
    part "$name" "$limit" "$PYTHON" -m benchmarks "$@" --record "$folder"
}

say "icd_engine on $(uname -n), $(date -u +%FT%TZ)"
"$PYTHON" -c 'import sys, torch; print("python", sys.version.split()[0], "torch", torch.__version__,
"device", torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")' 2>&1 | tee -a "$log"
command -v nvidia-smi > /dev/null && nvidia-smi 2>&1 | head -n 15 | tee -a "$log"

if [ "${QUICK:-0}" != 0 ]; then
    sd15=(--architecture small --repeats 1 --warmup 1) sdxl=(--architecture small-xl --repeats 1 --warmup 1)
    tiny=(--repeats 1 --warmup 1) ops=(--quick --no-compile --repeats 2) few=(--repeats 1 --warmup 1)
    alone=(--runner eager) batches=(--batches "1,2") train=(--architecture small --repeats 1)
    # On a CPU every edit would compile its networks first, for minutes.
    "$PYTHON" -c 'import sys, torch; sys.exit(torch.cuda.is_available())' &&
        sd15+=("${alone[@]}") sdxl+=("${alone[@]}") tiny+=("${alone[@]}")
else
    sd15=(--architecture sd15 --size 512 --repeats 30) sdxl=(--architecture sdxl --size 1024 --repeats 20)
    tiny=(--repeats 50) ops=(--repeats 30) few=(--repeats 5 --warmup 2)
    alone=() batches=(--batches "1,2,4,8,16") train=(--architecture sd15 --repeats 5)
fi

tests "tests: operations" 140 tests/csrc_triton
tests "tests: everything else" 60 tests --ignore=tests/csrc_triton
bench "operations" 80 ops "${ops[@]}"
bench "edit, sd15, eager" 45 edit "${sd15[@]}" "${few[@]}" --runner eager
bench "edit, sd15" 200 edit "${sd15[@]}"
bench "throughput, sd15" 100 throughput "${sd15[@]}" "${few[@]}" "${batches[@]}"
bench "unet, sd15" 50 unet "${sd15[@]}" "${alone[@]}"
bench "vae, sd15" 30 vae "${sd15[@]}" "${alone[@]}"
bench "unet, sdxl" 50 unet "${sdxl[@]}" "${alone[@]}"
bench "vae, sdxl" 30 vae "${sdxl[@]}" "${alone[@]}"
bench "edit, tiny" 60 edit "${tiny[@]}"
bench "edit, sdxl" 150 edit "${sdxl[@]}" "${few[@]}"
if has diffusers; then
    bench "baseline: reference, tiny" 60 edit "${tiny[@]}" --baseline reference
    bench "baseline: reference, sd15" 60 edit "${sd15[@]}" "${few[@]}" --baseline reference
    bench "baseline: lean, sd15" 60 edit "${sd15[@]}" "${few[@]}" --baseline lean
    [ "${QUICK:-0}" = 0 ] && bench "baseline: compiled, sd15" 300 edit "${sd15[@]}" "${few[@]}" --baseline compiled
else
    summary+=("$(printf '%-28s left out: no diffusers' "baselines")")
fi
if has diffusers && has peft && has accelerate; then
    bench "distil, sd15" 240 distil "${train[@]}" --only icd
else
    summary+=("$(printf '%-28s left out: no diffusers, peft or accelerate' "distil, sd15")")
fi

say "" "=== results"
results=$(grep -E '^(edit|throughput|ops|unet|vae|distil): |benchmarks: error|(passed|failed|skipped|error).* in [0-9.]+s' "$log")
say "$results"
say "" "=== summary after $SECONDS s; records and log in $folder"
for line in "${summary[@]}"; do say "$line"; done
exit "$failed"
