#!/usr/bin/env bash
# All checks of the project, or only those named: check.sh [lint types imports size tests wheel docs]
# All of them run even when one fails; the exit code says whether every one passed. Only `docs` has to
# be named: it needs the extra of that name.
# CHECK_PYTHON names the interpreter that has the development tools (.venv/bin/python).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CHECK_PYTHON=${CHECK_PYTHON:-.venv/bin/python}
export CHECK_PYTHON
if ! [ -x "$(command -v "$CHECK_PYTHON")" ]; then
    echo "check: no '$CHECK_PYTHON'; run 'make setup', or name an interpreter with CHECK_PYTHON=..." >&2
    exit 2
fi
sources=(autoround backends examples tools)
[ $# -gt 0 ] || set -- lint types imports size tests wheel

run_check() {
    case $1 in
        lint)
            "$CHECK_PYTHON" -m ruff check "${sources[@]}" tests &&
                "$CHECK_PYTHON" -m ruff format --check "${sources[@]}" tests &&
                "$CHECK_PYTHON" tools/check_devices.py autoround examples tools &&
                "$CHECK_PYTHON" tools/check_files.py autoround backends &&
                "$CHECK_PYTHON" tools/check_words.py &&
                "$CHECK_PYTHON" tools/check_mirror.py
            ;;
        types) "$CHECK_PYTHON" -m mypy autoround backends/autoround_backends examples/backend examples/format tools ;;
        imports) PYTHONPATH=.:backends "$CHECK_PYTHON" -c \
            'import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())' ;;
        size) "$CHECK_PYTHON" tools/check_size.py "${sources[@]}" tests ;;
        tests) "$CHECK_PYTHON" -m pytest -q -m "not slow" ;;
        wheel) tools/wheel_check.sh ;;
        docs) PYTHONPATH=.:backends "$CHECK_PYTHON" -m tools.site.build ;;
        *)
            echo "unknown check '$1'; the checks are: lint types imports size tests wheel docs" >&2
            return 2
            ;;
    esac
}

failed=()
for name in "$@"; do
    echo "== $name"
    run_check "$name" || failed+=("$name")
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "check: failed: ${failed[*]}" >&2
    exit 1
fi
echo "check: all passed"
