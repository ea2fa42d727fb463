#!/usr/bin/env bash
# What is worth running on an accelerator, the most valuable first; half an hour in all.
#
#   tools/bench/card.sh OUT [PEER_PYTHON]
#
# Runs its pieces in order, each with a limit of its own, and adds their rows to files in OUT. What is
# done is not done again: call it anew after an interruption, or with more time. PEER_PYTHON has
# auto-round. Settings: PYTHON (the interpreter of this package), DEVICE (auto), SECONDS_LEFT (1700;
# pieces that would begin after that are left for the next call), WORK (a folder on the disk that is
# meant), TINY=1 (small shapes: does the script itself work, on a processor too?).
# Ends with 1 where a piece failed, with 3 where time ran out before all were begun.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ $# -ge 1 ] || { echo "usage: tools/bench/card.sh OUT [PEER_PYTHON]" >&2; exit 2; }

mkdir -p "$1"
out=$(cd "$1" && pwd)
peer=()
[ -n "${2:-}" ] && peer=(--peer "$2")
python=${PYTHON:-python3}
device=${DEVICE:-auto}
left=${SECONDS_LEFT:-1700}
work=${WORK:-$out/work}
mkdir -p "$work" "$out/log" "$out/done"
export PYTHONPATH=$PWD:$PWD/backends PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

shape=llama-3.1-8b mixture=qwen3-30b-a3b hybrid=qwen3-next-dense blocks=4
quick=()
recipes=(default light turbo)
if [ "${TINY:-}" = 1 ]; then
    shape=tiny mixture=tiny-mixture hybrid=tiny-hybrid blocks=3
    quick=(--steps 2)
    recipes=(rtn)
fi
gpu=("$python" tools/bench/gpu.py --device "$device" --work "$work" --rows "$out/gpu.jsonl")
gpu+=("${quick[@]}")
phases=("$python" tools/bench/phases.py --device "$device" --shape "$shape" --work "$work")

began=$SECONDS failed=() late=()
# piece NAME SECONDS COMMAND...: run a command within a limit, once.
piece() {
    local name=$1 limit=$2 spent=$((SECONDS - began)) code
    shift 2
    if [ -e "$out/done/$name" ]; then
        echo "== $name: done before"
        return
    fi
    if [ $((spent + 20)) -gt "$left" ]; then
        late+=("$name")
        return
    fi
    [ $((left - spent)) -lt "$limit" ] && limit=$((left - spent))
    echo "== $name: at most $limit s, $spent s spent"
    timeout -k 10 "$limit" "$@" >"$out/log/$name.txt" 2>&1
    code=$?
    tail -n 3 "$out/log/$name.txt" | cut -c1-400
    printf '{"piece": "%s", "code": %d, "seconds": %d, "limit": %d}\n' \
        "$name" "$code" $((SECONDS - began - spent)) "$limit" >>"$out/pieces.jsonl"
    if [ $code -eq 0 ]; then
        touch "$out/done/$name"
    else
        failed+=("$name ($code)")
    fi
}

# (1) Is it all there, and right? Then each phase alone.
piece machine 90 bash -c '
    set -e
    "$1" -m autoround --version
    "$1" -m autoround doctor --json
    df -h "$2"
    if command -v nvidia-smi; then
        nvidia-smi --format=csv \
            --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit
    fi' machine "$python" "$work"
piece tests 420 "$python" -m pytest -q tests/backends -m "not slow" -p no:cacheprovider
piece phases 240 "${phases[@]}" --rows "$out/phases.jsonl" --only \
    "disk,launch,stream,batch,products,factor,search,columns,quantize,sign,codes,packed,deq,step"
# (2) The whole, beside auto-round as it is installed and uncompiled.
piece default 420 "${gpu[@]}" --shape "$shape" --blocks "$blocks" "${peer[@]}"
piece parts 120 "${gpu[@]}" --shape "$shape" --blocks 3 --parts
# (3) Fewer steps.
for recipe in light turbo flash; do
    piece "$recipe" 120 "${gpu[@]}" --shape "$shape" --blocks 3 --recipe "$recipe"
done
# (4) A trained model whole on the device, its packed products there and on the processor.
for recipe in "${recipes[@]}"; do
    piece "small-$recipe" 150 bash -c '
        set -e
        original=$("$1" -c "
from autoround.model.files.embedded import embedded_model
print(embedded_model())")
        rm -rf "$4"
        "$1" -m autoround quantize "$original" --recipe "$3" --device "$2" -o "$4"
        for where in "$2" cpu; do
            "$1" -m autoround eval "$4" --original "$original" --device "$where" --json
            "$1" -m autoround generate "$4" "Once upon a time" --device "$where"
        done' small "$python" "$device" "$recipe" "$work/small-$recipe"
done
# (5) A mixture of experts, and a hybrid of linear attention.
piece mixture 240 "${gpu[@]}" --shape "$mixture" --blocks 3 "${peer[@]}"
piece hybrid 150 "${gpu[@]}" --shape "$hybrid" --blocks 4 "${peer[@]}"
# (6) Products in 8-bit floats are not written yet: there is nothing to run.
# (7) What little memory takes.
piece low-memory 240 "${gpu[@]}" --shape "$shape" --blocks 3 --low-memory
# (8) Packed products, ours and those of installed packages, beside the dequantized weight.
piece products 240 "${phases[@]}" --rows "$out/phases.jsonl" --only "product,"

[ ${#late[@]} -eq 0 ] || echo "card: no time was left for: ${late[*]}" >&2
if [ ${#failed[@]} -gt 0 ]; then
    echo "card: failed: ${failed[*]}; what they said is in $out/log" >&2
    exit 1
fi
[ ${#late[@]} -eq 0 ] || exit 3
echo "card: all done; rows are in $out"
