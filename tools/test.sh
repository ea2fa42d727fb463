#!/usr/bin/env bash
# Set up .venv with the development tools and run the tests that take seconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/setup.sh dev
exec .venv/bin/python -m pytest -q -m "not slow" "$@"
