#!/usr/bin/env bash
# Build the package, install the wheel away from the checkout, and use it as a stranger would.
#
# wheel_check.sh          reuses the dependencies of the development environment
# wheel_check.sh --full   installs the dependencies too, into a truly clean environment
#
# CHECK_PYTHON names the interpreter that has the development tools (.venv/bin/python);
# TORCH_INDEX as in tools/setup.sh, with --full only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

full=no
case ${1:-} in
    "") ;;
    --full) full=yes ;;
    *)
        echo "wheel_check: unknown argument '$1'; the only one is --full" >&2
        exit 2
        ;;
esac
CHECK_PYTHON=${CHECK_PYTHON:-.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH PYTHONHOME

# The wheel is built from the source distribution, so what that one lacks shows here.
"$CHECK_PYTHON" -m build --no-isolation --outdir "$work/dist" . >"$work/build.log" 2>&1 || {
    cat "$work/build.log" >&2
    exit 1
}
wheel=$(ls "$work"/dist/*.whl)
tar -tzf "$work"/dist/*.tar.gz >"$work/sdist.txt"
for path in tests/conftest.py tools/setup.sh recipes/ docs/ constraints.txt constraints-oldest.txt Makefile LICENSE; do
    grep -q "^[^/]*/$path" "$work/sdist.txt" || {
        echo "wheel_check: the source distribution lacks $path" >&2
        exit 1
    }
done

"$CHECK_PYTHON" -m venv "$work/venv"
clean=$work/venv/bin/python
pip_install() {
    "$clean" -m pip install -qq --disable-pip-version-check "$@"
}
if [ $full = yes ]; then
    if [ -n "${TORCH_INDEX:-}" ]; then
        pip_install -c constraints.txt --index-url "$TORCH_INDEX" torch
    else
        pip_install -c constraints.txt torch
    fi
    pip_install -c constraints.txt "$wheel"
    "$clean" -m pip check
else
    pip_install --no-deps --no-index "$wheel"
    # Python adds a path named in a .pth file after the environment's own packages, and does not
    # read the .pth files found there; so the development environment's dependencies are seen
    # while its editable install of this project is not.
    shared=$("$CHECK_PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    own=$("$clean" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$shared" >"$own/shared-dependencies.pth"
fi

version=$("$CHECK_PYTHON" -c 'import runpy; print(runpy.run_path("autoround/_version.py")["__version__"])')
recipes=$(ls recipes/*.yaml)
mkdir "$work/elsewhere"
cd "$work/elsewhere"

"$clean" - "$work/venv" <<'PYTHON'
import sys
from pathlib import Path

import autoround

environment = Path(sys.argv[1]).resolve()
if environment not in Path(autoround.__file__).resolve().parents:
    sys.exit(f"wheel_check: autoround came from {autoround.__file__}, not from the wheel")
if "torch" in sys.modules:
    sys.exit("wheel_check: importing autoround imports torch")
PYTHON

command=$work/venv/bin/autoround
"$command" --help >/dev/null
"$command" --version | grep -qF "$version" || {
    echo "wheel_check: 'autoround --version' does not say $version" >&2
    exit 1
}
"$command" recipes list >"$work/recipes.txt"
for recipe in $recipes; do
    name=$(basename "$recipe" .yaml)
    grep -qw -- "$name" "$work/recipes.txt" || {
        echo "wheel_check: 'autoround recipes list' lacks $name" >&2
        exit 1
    }
done
# Entry points that load prove that the backends are in the wheel.
"$clean" - <<'PYTHON'
from importlib.metadata import entry_points

names = sorted(entry.name for entry in entry_points(group="autoround.backends") if entry.load())
assert names == ["cpu", "cuda", "null", "xpu"], names
from autoround_backends import _native

assert _native.SOURCE.is_file(), "the wheel lacks the C kernels"
PYTHON
echo "wheel_check: $(basename "$wheel") works from a clean environment"
