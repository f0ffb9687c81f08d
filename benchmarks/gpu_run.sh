#!/usr/bin/env bash
# Everything a GPU is needed for, in three commands of at most nine minutes: what tells most comes first.
#
#   benchmarks/gpu_run.sh 1 [FOLDER]    are the kernels right; what do libraries, networks and a kernel of nothing cost
#   benchmarks/gpu_run.sh 2 [FOLDER]    the whole edit, where its time goes, and the tests of the runners
#   benchmarks/gpu_run.sh 3 [FOLDER]    tuned code, several edits at once, SDXL, and diffusers' baselines
#
# FOLDER (default: benchmarks/results) takes records (<device>.jsonl), gpu_run_<n>.log, profiles with traces, and
# compiled code, in files of at most 16 MiB. What 2 compiled 3 need not compile again: on another machine bring
# FOLDER/compiled along. 1 also writes FOLDER/measured.json: as csrc_triton/measured.json it chooses our kernels. What of
# the repository must travel: see benchmarks/README.md.
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

set -uo pipefail
case ${1:-} in
    1 | 2 | 3) command=$1 ;;
    *) echo "usage: benchmarks/gpu_run.sh 1|2|3 [FOLDER]" >&2 && exit 2 ;;
esac
folder=$(mkdir -p "${2:-$(dirname "$0")/results}" && cd "${2:-$(dirname "$0")/results}" && pwd) || exit 2
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
slack=1
[ "${QUICK:-0}" != 0 ] && slack=10 # parts are short, machines without a GPU may be slow
LIMIT=${LIMIT:-$((525 * slack))}
log=$folder/gpu_run_$command.log
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
        summary+=("$(printf '%-32s left out: no time' "$name")")
        return
    fi
    [ "$limit" -gt "$left" ] && limit=$left
    say "" "=== $name (at most $limit s): $*"
    timeout --kill-after=10 "$limit" "$@" < /dev/null 2>&1 | tee -a "$log"
    code=${PIPESTATUS[0]}
    case $code in
        0) verdict=done ;;
        124 | 137) verdict="cut at $limit s" failed=1 ;;
        *) verdict="FAILED ($code)" failed=1 ;;
    esac
    summary+=("$(printf '%-32s %-12s %4d s' "$name" "$verdict" $((SECONDS - started)))")
}

has() { "$PYTHON" -c "import $1" > /dev/null 2>&1; }

# tests NAME SECONDS FOLDER [OPTIONS]: the folder's tests marked gpu, with these options by eight processes.
tests() {
    local name=$1 limit=$2
    shift 2
    if ! has pytest; then
        summary+=("$(printf '%-32s left out: no pytest' "$name")")
        return
    fi
    [ "${QUICK:-0}" = 0 ] && has xdist || set -- "$1"
    part "$name" "$limit" "$PYTHON" -m pytest -m gpu -q -p no:cacheprovider --tb=short "$@"
}

bench() {
    local name=$1 limit=$2
    shift 2
    part "$name" "$limit" "$PYTHON" -m benchmarks "$@" --record "$folder"
}

kept=(--compile-cache "$folder/compiled")
if [ "${QUICK:-0}" != 0 ]; then
    sd15=(--architecture small) sdxl=(--architecture small-xl) once=(--repeats 1 --warmup 1) many=("${once[@]}")
    quick=(--quick --repeats 2) batches=(--batches "1,2") alone=()
    # On a CPU every edit would compile its networks first, for minutes.
    "$PYTHON" -c 'import sys, torch; sys.exit(torch.cuda.is_available())' && alone=(--runner eager)
else
    sd15=(--architecture sd15 --size 512) sdxl=(--architecture sdxl --size 1024) once=(--repeats 5 --warmup 2)
    many=(--repeats 30) quick=(--repeats 30) batches=(--batches "1,4,8,16") alone=()
fi

say "icd_engine on $(uname -n), $(date -u +%FT%TZ), command $command"
"$PYTHON" -c 'import sys, torch; print("python", sys.version.split()[0], "torch", torch.__version__,
"device", torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")' 2>&1 | tee -a "$log"
command -v nvidia-smi > /dev/null && nvidia-smi 2>&1 | head -n 15 | tee -a "$log"

first_command() {
    # Most of their time kernels are compiled, one core each.
    tests "tests: operations" 140 tests/csrc_triton -n 8
    bench "operations" 50 ops "${quick[@]}" --no-compile
    bench "nodes" 20 backends --only node "${quick[@]}"
    bench "unet, sd15" 90 unet "${sd15[@]}" "${many[@]}" "${alone[@]}"
    bench "convolutions" 110 backends --only convolution "${quick[@]}"
    bench "attention" 60 backends --only attention "${quick[@]}"
    bench "vae, sd15" 55 vae "${sd15[@]}" "${many[@]}" "${alone[@]}"
}

second_command() {
    bench "bundle, sd15" 60 bundle "${sd15[@]}"
    bench "edit, sd15" 200 edit "${sd15[@]}" "${many[@]}" "${alone[@]}" "${kept[@]}"
    bench "profile, sd15" 60 profile "${sd15[@]}" "${alone[@]}" "${kept[@]}"
    # The fixture of one module compiles for all of its tests: a module is one process's.
    tests "tests: runners" 120 tests/icd_engine/runners -n 4 --dist loadfile
    bench "edit, sd15, cudnn.benchmark" 90 edit "${sd15[@]}" "${many[@]}" "${alone[@]}" "${kept[@]}" --cudnn-benchmark
    bench "edit, sd15, eager" 45 edit "${sd15[@]}" "${once[@]}" --runner eager
    bench "edit, tiny" 60 edit "${many[@]}" "${alone[@]}" "${kept[@]}"
}

third_command() {
    bench "bundle, sd15" 60 bundle "${sd15[@]}"
    bench "edit, sd15, aten" 150 edit "${sd15[@]}" "${many[@]}" "${alone[@]}" "${kept[@]}" --compile aten
    bench "throughput, sd15" 130 throughput "${sd15[@]}" "${once[@]}" "${batches[@]}" "${alone[@]}" "${kept[@]}"
    bench "bundle, sdxl" 100 bundle "${sdxl[@]}"
    bench "edit, sdxl" 200 edit "${sdxl[@]}" "${once[@]}" "${alone[@]}" "${kept[@]}"
    if has diffusers; then
        bench "baseline: reference, sd15" 60 edit "${sd15[@]}" "${once[@]}" --runner eager --baseline reference
        bench "baseline: lean, sd15" 60 edit "${sd15[@]}" "${once[@]}" --runner eager --baseline lean
    else
        summary+=("$(printf '%-32s left out: no diffusers' "baselines")")
    fi
    # Last, and with what is left: about a thousand kernels for each shape.
    bench "edit, sd15, full" 500 edit "${sd15[@]}" "${once[@]}" "${alone[@]}" "${kept[@]}" --compile full
}

case $command in
    1) first_command ;;
    2) second_command ;;
    3) third_command ;;
esac

say "" "=== results"
results=$(grep -E '^(edit|throughput|ops|backends|bundle|profile|unet|vae): |benchmarks: error|(passed|failed|skipped|error).* in [0-9.]+s' "$log")
say "$results"
say "" "=== summary after $SECONDS s; records and log in $folder"
for line in "${summary[@]}"; do say "$line"; done
exit "$failed"
