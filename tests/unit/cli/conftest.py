"""Commands run in this process, on tiny models and a quick and even device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ...runs import even_device

__all__ = ["even_device"]


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def autoround(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs the command line with the arguments it is given."""
    from autoround.cli.main import run

    def command(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err)

    return command


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Write a text to calibrate on and to score."""
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog, again and again\n" * 12)
    return path


@pytest.fixture
def model(checkpoint: Callable[[str], Path]) -> Path:
    """Return the folder of a tiny model, to be read only."""
    return checkpoint("llama")
