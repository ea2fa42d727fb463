"""The command as a user meets it: a process of its own, started from anywhere."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autoround._version import __version__
from autoround.types import Scheme

from ..tiny_quantized import write_quantized

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


#: Commands that read little, and what they have no use for.
LIGHT = {
    ("recipes", "list"): {"torch", "transformers", "datasets", "numpy"},
    ("recipes", "show", "light"): {"torch", "transformers", "datasets", "numpy"},
    ("recipes", "validate", str(RECIPES / "light.yaml")): {"torch", "transformers", "numpy"},
    ("inspect", "OUT", "--no-check"): {"transformers", "accelerate", "datasets"},
}


@pytest.mark.parametrize("command", LIGHT, ids=lambda words: " ".join(words[:2]))
def test_commands_import_what_they_need(
    command: tuple[str, ...], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    if "OUT" in command:
        write_quantized(checkpoint("llama"), out, lambda name: Scheme(4, 32, True))
    words = [word.replace("OUT", str(out)) for word in command]
    code = f"from autoround.cli.main import run; assert run({words!r}) == 0"
    names = imported_by(
        f"import contextlib, os\nwith open(os.devnull, 'w') as f, "
        f"contextlib.redirect_stdout(f):\n    exec({code!r})"
    )
    assert "autoround" in names
    assert not names & LIGHT[command]


def cpu_seconds(*arguments: str, cwd: Path) -> float:
    """Return the least processor time of three runs of a command."""
    least = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run(*arguments, cwd=cwd).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return least


@pytest.mark.slow
@pytest.mark.parametrize("command", [words for words in LIGHT if words[0] == "recipes"])
def test_commands_on_recipes_take_three_times_the_help_at_most(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    assert cpu_seconds(*command, cwd=tmp_path) <= 3 * cpu_seconds("--help", cwd=tmp_path)
