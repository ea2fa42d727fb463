#!/usr/bin/env bash
# Build the source distribution and the wheel, and hold them to what PyPI asks: twine check, contents.
#
# dist_check.sh                           as the checkout is
# dist_check.sh --release v0.2.0          the version, the changelog and CITATION.cff must say 0.2.0, too
# dist_check.sh --into FOLDER             keep the files
#
# CHECK_PYTHON names the interpreter that has the development tools (.venv/bin/python), TWINE the command
# of twine; without one it is installed into an environment that is removed afterwards.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CHECK_PYTHON=${CHECK_PYTHON:-.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
into=$work/dist release=
while [ $# -gt 0 ]; do
    case $1 in
        --into) into=$2 && shift 2 ;;
        --release) release=$2 && shift 2 ;;
        *)
            echo "dist_check: unknown argument '$1'; the arguments are --release TAG and --into FOLDER" >&2
            exit 2
            ;;
    esac
done

if [ -n "$release" ]; then
    "$CHECK_PYTHON" tools/release_ready.py "$release"
fi
if [ -z "${TWINE:-}" ]; then
    "$CHECK_PYTHON" -m venv "$work/twine"
    "$work/twine/bin/python" -m pip install -qq --disable-pip-version-check twine
    TWINE=$work/twine/bin/twine
fi
"$CHECK_PYTHON" -m build --no-isolation --outdir "$into" . >"$work/build.log" 2>&1 || {
    cat "$work/build.log" >&2
    exit 1
}
"$TWINE" check --strict "$into"/*
# All that is tracked is in the source distribution, but what only this repository's host reads.
tar -tzf "$into"/*.tar.gz | cut -d/ -f2- | sort >"$work/inside"
git ls-files | grep -vE '^(\.github/|\.ci/|\.gitignore$)' | sort >"$work/tracked"
comm -13 "$work/inside" "$work/tracked" >"$work/missing"
if [ -s "$work/missing" ]; then
    echo "dist_check: the source distribution lacks:" >&2
    cat "$work/missing" >&2
    exit 1
fi
echo "dist_check: $(cd "$into" && echo *)"
