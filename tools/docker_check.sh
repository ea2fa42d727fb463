#!/usr/bin/env bash
# Run the installing steps of docker/cpu.Dockerfile in a clean environment, outside any container.
#
# PYTHON       the interpreter to make the environment with (python3)
# TORCH_INDEX  taken in place of the Dockerfile's own index of torch
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH PYTHONHOME
# What the image copies, and nothing else: the steps run as they would there.
"${PYTHON:-python3}" tools/docker_steps.py docker/cpu.Dockerfile >"$work/steps.sh"
if [ -n "${TORCH_INDEX:-}" ]; then
    sed -i "s#--index-url https://[^ ]*#--index-url $TORCH_INDEX#" "$work/steps.sh"
fi
mkdir "$work/src"
grep '^!' .dockerignore | cut -c2- | while read -r name; do cp -r "$name" "$work/src/"; done
"${PYTHON:-python3}" -m venv "$work/venv"
(cd "$work/src" && PATH="$work/venv/bin:$PATH" bash "$work/steps.sh")
echo "docker_check: the steps of docker/cpu.Dockerfile work"
