#!/usr/bin/env bash
# Set up .venv with the development tools and run the tests that take seconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/setup.sh dev
# A process a core, each with one thread: several threads each would wait for one another.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec .venv/bin/python -m pytest -q -m "not slow" -n auto --maxprocesses 8 "$@"
