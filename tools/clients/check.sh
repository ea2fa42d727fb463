#!/usr/bin/env bash
# Load our files with the programs that serve them, each in an environment of its own.
#
#   tools/clients/check.sh [CLIENT ...]      by default all:
#       auto-round gptqmodel compressed-tensors llama.cpp xllamacpp mlx transformers peft
#
# Tables: our files read by clients; architectures and tokenizers of GGUF (xllamacpp); files that auto-round and
# GPTQModel quantized, taken through every format and back. peft runs the tests of adapters.
# Makes the environments under out/clients, which takes minutes and gigabytes the first time;
# needs the project's own environment (tools/setup.sh demo).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=out/clients
mkdir -p "$work"
clients=("$@")
all=(auto-round gptqmodel compressed-tensors llama.cpp xllamacpp mlx transformers peft)
if [ ${#clients[@]} -eq 0 ]; then clients=("${all[@]}"); fi

make_env() { # NAME: an environment with torch, and the client on top
    local env="$work/env-$1" pip="$work/env-$1/bin/pip"
    if [ -e "$env/ready" ]; then return; fi
    "${PYTHON:-python3}" -m venv "$env"
    "$pip" install -q torch==2.13.0 ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
    case "$1" in
        # Without its kernels for CPUs it has none for AWQ's packing.
        auto-round) "$pip" install -q auto-round==0.16.1 auto-round-lib ;;
        llama.cpp) "$pip" install -q llama-cpp-python==0.3.36 numpy ;;
        # A wheel with a recent llama.cpp and its server.
        xllamacpp) "$pip" install -q xllamacpp==2026.10.11549 numpy ;;
        mlx) "$pip" install -q "mlx[cpu]==0.32.4" mlx-lm==0.32.2 numpy ;;
        # The tests of adapters run in it, so it has this package and what that needs, too.
        peft) "$pip" install -q peft==0.21.2 transformers==5.23.0 pytest -e . ;;
        transformers) "$pip" install -q transformers==5.23.0 accelerate ;;
        # It builds with the torch that is there, and does not ask for it.
        gptqmodel) "$pip" install -q setuptools wheel numpy packaging ninja
            "$pip" install -q --no-build-isolation gptqmodel==7.6.0 ;;
        compressed-tensors) "$pip" install -q compressed-tensors==0.20.0 transformers==5.23.0 accelerate ;;
        *) echo "check: no client is named $1; legal: auto-round, gptqmodel," \
            "compressed-tensors, llama.cpp, xllamacpp, mlx, transformers, peft" >&2
            exit 2 ;;
    esac
    touch "$env/ready"
}

pythons=()
for client in "${clients[@]}"; do
    make_env "$client"
    if [ "$client" = peft ]; then continue; fi
    pythons+=(--python "$client=$work/env-$client/bin/python")
done
export HF_HUB_OFFLINE=1
failed=0
if [[ " ${clients[*]} " == *" peft "* ]]; then
    "$work/env-peft/bin/python" -m pytest -q tests/unit/inference/test_adapters.py || failed=1
fi
if [ ${#pythons[@]} -gt 0 ]; then
    .venv/bin/python tools/clients/compare.py --work "$work" "${pythons[@]}" || failed=1
fi
if [[ " ${clients[*]} " == *" xllamacpp "* ]]; then
    for script in gguf_archs gguf_tokenizers gguf_activations; do
        .venv/bin/python "tools/clients/$script.py" --work "$work/$script" \
            --python "$work/env-xllamacpp/bin/python" || failed=1
    done
fi
if [[ " ${clients[*]} " == *" auto-round "* || " ${clients[*]} " == *" gptqmodel "* ]]; then
    .venv/bin/python tools/clients/peers.py --work "$work/peers" "${pythons[@]}" || failed=1
fi
exit $failed
