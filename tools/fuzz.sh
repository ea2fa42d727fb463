#!/usr/bin/env bash
# Feed damaged files to what reads them, for so many minutes: tools/fuzz.sh MINUTES
# Guided by the readers' branches where .venv has atheris (pip install atheris), else at random.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec .venv/bin/python tools/fuzz.py "$@"
