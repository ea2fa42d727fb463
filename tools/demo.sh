#!/usr/bin/env bash
# Set up .venv, quantize the embedded model, score it and let the reloaded result speak.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/setup.sh demo
rm -rf out/demo
exec .venv/bin/autoround quantize --eval --prompt "The capital of France is" \
    --output-dir out/demo "$@"
