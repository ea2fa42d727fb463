"""The command as a user meets it: a process of its own, started from anywhere."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoround._version import __version__

RECIPES = Path(__file__).parents[2] / "recipes"
RUN = [sys.executable, "-c", "from autoround.cli.main import run; raise SystemExit(run())"]
#: Seconds; several times what it takes on a slow machine, far less than importing torch there.
HELP_LIMIT = 2.0


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


def imported_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import autoround", "import autoround.cli.main"])
def test_importing_it_is_light(statement: str) -> None:
    heavy = {"torch", "transformers", "datasets", "accelerate", "numpy"}
    assert not imported_by(statement) & heavy


def test_help_is_quick(tmp_path: Path) -> None:
    fastest = float("inf")
    # The fastest of three: a busy machine can slow down one run, it cannot speed one up.
    for _ in range(3):
        start = time.perf_counter()
        done = run("--help", cwd=tmp_path)
        fastest = min(fastest, time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert "quantize" in done.stdout
    assert fastest < HELP_LIMIT


def test_version(tmp_path: Path) -> None:
    done = run("--version", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert __version__ in done.stdout.split()


def test_unknown_option_is_a_usage_error(tmp_path: Path) -> None:
    done = run("quantize", "--no-such-option", cwd=tmp_path)
    assert done.returncode == 2
    assert "--no-such-option" in done.stderr
    assert "Traceback" not in done.stderr


def test_built_in_recipes_are_found_from_anywhere(tmp_path: Path) -> None:
    done = run("recipes", "list", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    built_in = {path.stem for path in RECIPES.glob("*.yaml")}
    assert built_in
    assert built_in <= set(done.stdout.split())
