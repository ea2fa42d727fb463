from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from autoround import gated
from autoround.events import Event
from autoround.resume.journal import LAYOUT

from ...runs import tensors_of
from .conftest import Command
from .test_quantize import small


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[BaseException]], None]:
    """Let runs end with an error after their first block."""

    def stop(error: type[BaseException]) -> None:
        original = gated.run

        def run(request: object, output: object, *, sink: Callable[[Event], None]) -> object:
            def ending(event: Event) -> None:
                sink(event)
                if type(event).__name__ == "BlockDone":
                    monkeypatch.setattr(gated, "run", original)
                    raise error("stopped")

            return original(request, output, sink=ending)  # type: ignore[arg-type]

        monkeypatch.setattr(gated, "run", run)

    return stop


def test_ctrl_c_prints_the_command_that_goes_on(
    autoround: Command,
    model: Path,
    text: Path,
    tmp_path: Path,
    stopped: Callable[[type[BaseException]], None],
) -> None:
    command = ["quantize", model, *small(text), "-o", tmp_path / "out"]
    stopped(KeyboardInterrupt)
    done = autoround(*command, "--restart")
    assert done.code == 130
    begin = "interrupted: 1 finished block is kept; go on with: "
    line = done.err.splitlines()[-1]
    assert line.startswith(begin)
    words = shlex.split(line.removeprefix(begin))
    assert words == ["autoround", *map(str, command), "--resume"]
    # Without it, the finished block is neither lost nor mixed into another run.
    refused = autoround(*command)
    assert refused.code == 8
    assert "1 finished block of an interrupted run" in refused.err
    assert refused.err.splitlines()[-1].endswith(line.removeprefix(begin))
    again = autoround(*words[1:])
    assert (again.code, again.err) == (0, "")
    assert "resume: 1 of 2 blocks are done" in again.out.splitlines()
    whole = autoround("quantize", model, *small(text), "-o", tmp_path / "whole")
    assert whole.code == 0
    one, other = tmp_path / "out", tmp_path / "whole"
    assert tensors_of(one).keys() == tensors_of(other).keys()
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_a_changed_run_gets_no_hint(
    autoround: Command,
    model: Path,
    text: Path,
    tmp_path: Path,
    stopped: Callable[[type[BaseException]], None],
) -> None:
    command = ["quantize", model, *small(text), "-o", tmp_path / "out"]
    stopped(KeyboardInterrupt)
    assert autoround(*command).code == 130
    done = autoround(*command, "--seed", 9, "--resume")
    assert done.code == 8
    assert "error:   recipe.seed: 42 then, 9 now" in done.err.splitlines()
    assert "go on with" not in done.err


@pytest.mark.parametrize(
    ("header", "resume", "why"),
    [
        ({"layout": 1, "streams": "s"}, ["--resume"], "has layout 1, and this version reads"),
        ({"layout": 1, "streams": "s"}, [], "has layout 1, and this version reads"),
        ({}, ["--resume"], "run.json is damaged"),
        ({}, [], "run.json is damaged"),
        ({"layout": LAYOUT, "streams": "elsewhere"}, ["--resume"], "names elsewhere as its"),
    ],
)
def test_a_journal_that_is_of_no_use_gets_no_hint(
    header: dict[str, object],
    resume: list[str],
    why: str,
    autoround: Command,
    model: Path,
    tmp_path: Path,
) -> None:
    journal = tmp_path / "out.journal"
    (journal / "pass-1").mkdir(parents=True)
    (journal / "pass-1" / "00000.safetensors").touch()
    (journal / "run.json").write_text(json.dumps(header))
    command = ["quantize", model, "--recipe", "rtn", "--group-size", 32, "-o", tmp_path / "out"]
    done = autoround(*command, *resume)
    assert done.code == 8
    assert why in done.err
    assert "begin again with --restart" in done.err
    assert "go on with: " not in done.err


@pytest.mark.parametrize("size", ["8", "8G", "much"])
def test_a_size_that_is_none(autoround: Command, model: Path, size: str) -> None:
    done = autoround("plan", model, "--recipe", "light", "--max-memory", size)
    assert done.code == 2
    assert f"--max-memory {size}: " in done.err


def test_a_plan_says_what_goes_where(
    autoround: Command, model: Path, text: Path, tmp_path: Path
) -> None:
    done = autoround("plan", model, *small(text), "--max-memory", "100MB")
    assert done.code == 2
    assert "about 0.6 GB of memory are needed for one block" in done.err
    done = autoround("plan", model, *small(text))
    lines = done.out.splitlines()
    assert any(line.startswith("memory       about 0.6 GB") for line in lines)
    assert any(line.startswith("journal      ") for line in lines)
