"""The packages of examples/ as a stranger would have them: built, installed, used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .tiny import write_checkpoint

EXAMPLES = Path(__file__).parents[1] / "examples"


def install_example(name: str, target: Path) -> Path:
    """Install an example into a folder of its own; skips where it cannot be built."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--target", str(target)]
    done = subprocess.run(
        [*command, str(EXAMPLES / name)], capture_output=True, text=True, timeout=300, check=False
    )
    if "No module named pip" in done.stderr or "hatchling" in done.stderr:
        pytest.skip(f"it cannot be built here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return target


def run_beside(
    installed: Path, script: str, folder: Path
) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    """Run a script beside an installed example, with a model, a folder and a text to work on.

    Returns:
        What its last line says in JSON, and the finished process.
    """
    model = write_checkpoint("llama", folder / "model", tokenizer=True)
    text = folder / "text.txt"
    text.write_text("\n".join(f"the number {n} is not {n * 7 % 11}" for n in range(400)))
    path = os.pathsep.join([str(installed), *(p for p in sys.path if p)])
    done = subprocess.run(
        [sys.executable, "-c", script, str(model), str(folder), str(text)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done
