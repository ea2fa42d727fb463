#!/usr/bin/env bash
# Feed damaged files to what reads them, for so many minutes: tools/fuzz.sh MINUTES
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec .venv/bin/python tools/fuzz.py "$@"
