"""The help of each command ends with two examples, and all of them run, one after another.

They run as one reads them: the embedded model, and what an earlier example wrote. Here that model
is a tiny one, and the built-in recipes do less; the slow test takes the real ones.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from autoround.cli.main import app, run
from autoround.model.files import embedded
from autoround.recipe import find

from ..quick import write_quick_recipes, write_wide_model
from ..runs import even_device

__all__ = ["even_device"]
#: Whoever needs what others write comes after them.
ORDER = ("", "quantize", "plan", "recipes list", "recipes copy", "recipes show", "recipes validate")


def helps() -> Iterator[tuple[str, str]]:
    """Yield each command with its help."""
    pending = [("", typer.main.get_command(app))]
    while pending:
        name, command = pending.pop()
        yield name, command.help or ""
        inside = getattr(command, "commands", {})
        pending += [(f"{name} {key}".strip(), one) for key, one in inside.items()]


def examples(text: str) -> list[str]:
    """Return the commands at the end of a help, without their remarks."""
    lines = text.partition("Examples:\n")[2].rstrip().splitlines()
    return [re.sub(r" +# .*", "", line.strip()) for line in lines]


def in_order() -> list[str]:
    """Return all examples, those first that write what others read."""
    by_name = {name: examples(text) for name, text in helps()}
    names = [*ORDER, *(name for name in by_name if name not in ORDER)]
    return [line for name in names for line in by_name[name]]


@pytest.mark.parametrize(("name", "text"), list(helps()), ids=lambda value: str(value)[:20])
def test_help_ends_with_two_examples(name: str, text: str) -> None:
    lines = examples(text)
    assert len(lines) == 2, f"autoround {name}"
    assert all(line.startswith("autoround ") for line in lines)
    assert "\n\n" not in text.partition("Examples:\n")[2].rstrip()


def test_all_examples_run(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_wide_model(tmp_path_factory.mktemp("embedded") / "model")
    recipes = write_quick_recipes(tmp_path_factory.mktemp("recipes"))
    monkeypatch.setattr(find, "_builtin_folder", lambda: recipes)
    monkeypatch.setattr("autoround.request.embedded_model", lambda: model)
    monkeypatch.setattr(embedded, "embedded_model", lambda: model)
    monkeypatch.chdir(tmp_path)
    lines = in_order()
    assert len(lines) >= 30
    for line in lines:
        command, _, target = line.partition(" > ")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = run(shlex.split(command)[1:])
        assert code == 0, line
        assert printed.getvalue(), line
        if target:
            (tmp_path / target).write_text(printed.getvalue())


@pytest.mark.slow
@pytest.mark.skipif(find_spec(embedded.MODULE) is None, reason="the embedded model is not here")
def test_all_examples_run_in_a_shell(tmp_path: Path) -> None:
    python = shlex.quote(sys.executable)
    for line in in_order():
        command = re.sub(r"^autoround", f"{python} -m autoround", line)
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
