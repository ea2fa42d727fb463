#!/usr/bin/env bash
# Quantize a model on your accelerator and measure what came out, beside auto-round where it is given.
#
#   tools/bench/on_yours.sh MODEL OUT [PEER_PYTHON]
#
# MODEL is a folder or a hub id. OUT/results.txt can be sent back as it is: machine, seconds, peak
# memory, perplexity, and KL divergence from the 16-bit model. PEER_PYTHON is an interpreter that has
# auto-round: its model is made with its own defaults at 4 bits, and scored by the same program.
# Settings: PYTHON, DEVICE (auto), RECIPES ("default light turbo"), MAX_TOKENS of the scoring (16384).
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: tools/bench/on_yours.sh MODEL OUT [PEER_PYTHON]" >&2; exit 2; }
model=$1
mkdir -p "$2"
out=$(cd "$2" && pwd)
peer=${3:-}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python3}
device=${DEVICE:-auto}
results=$out/results.txt
export PYTHONUNBUFFERED=1
ours() { PYTHONPATH=$here:$here/backends "$python" "$@"; }

say() { echo "$*" | tee -a "$results"; }
score() {
    ours -m autoround eval "$1" --original "$model" --device "$device" \
        --max-tokens "${MAX_TOKENS:-16384}" --json | tee -a "$results"
}

say "== machine, $(date -u +%Y-%m-%dT%H:%M:%SZ)"
ours -m autoround --version | tee -a "$results"
ours -m autoround doctor | tee -a "$results"
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee -a "$results"
fi
say "model: $model"

for recipe in ${RECIPES:-default light turbo}; do
    say "== ours, $recipe"
    if [ -e "$out/$recipe" ]; then
        say "quantized before: its seconds are further up"
    else
        began=$SECONDS
        ours -m autoround quantize "$model" --recipe "$recipe" --device "$device" \
            -o "$out/$recipe" --resume
        say "seconds: $((SECONDS - began)) (from the start of the program)"
    fi
    ours -c '
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1] + "/report.jsonl")]
peak = max(row["peak_bytes"] for row in rows)
print(f"peak of the device (of the process on a CPU): {peak / 1e9:.2f} GB, {len(rows)} blocks")
' "$out/$recipe" | tee -a "$results"
    score "$out/$recipe"
done

if [ -n "$peer" ]; then
    say "== auto-round, its own defaults"
    theirs=$out/auto-round
    if [ -e "$theirs/done" ]; then
        say "quantized before: its seconds are further up"
    else
        began=$SECONDS
        "$peer" -c '
import sys
import auto_round, torch
print("auto-round", auto_round.__version__)
auto_round.AutoRound(sys.argv[1], scheme="W4A16").quantize_and_save(sys.argv[2], format="auto_round")
if torch.accelerator.is_available():
    print(f"peak of the device: {torch.accelerator.max_memory_allocated() / 1e9:.2f} GB")
' "$model" "$theirs" | tee -a "$results"
        say "seconds: $((SECONDS - began)) (from the start of the program)"
        touch "$theirs/done"
    fi
    config=$(find "$theirs" -name config.json | head -n 1)
    [ -n "$config" ] || { say "no model was found in $theirs"; exit 1; }
    score "$(dirname "$config")"
fi
say "== end"
