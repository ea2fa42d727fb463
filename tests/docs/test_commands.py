"""Every ``autoround`` command that the documents show is one that the program understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from autoround.cli.main import app, run

from .pages import PAGES, code_blocks

SHELLS = ("", "sh", "bash", "console")


def commands(page: Path) -> list[str]:
    """Return the command lines of a page, with those joined that go on in the next line."""
    lines: list[str] = []
    for language, text in code_blocks(page):
        if language in SHELLS:
            lines += re.sub(r"\\\n\s*", "", text).splitlines()
    shown = [line.strip().removeprefix("$ ") for line in lines]
    return [line for line in shown if line.startswith("autoround ")]


def parse(line: str) -> None:
    """Parse a command line as the program would, and do nothing.

    Raises:
        Exception: the program's own complaint.
    """
    command: Any = typer.main.get_command(app)
    words = shlex.split(line, comments=True)[1:]
    context = command.make_context("autoround", list(words))
    while hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(context, list(words))
        context = command.make_context(name, list(words), parent=context)


SHOWN = [(page, line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize(("page", "line"), SHOWN, ids=[f"{p.name}: {c}"[:80] for p, c in SHOWN])
def test_commands_of_the_documents_can_be_parsed(page: Path, line: str) -> None:
    parse(line)


def test_the_documents_show_commands() -> None:
    assert len({line.split()[1] for _, line in SHOWN}) >= 9


@pytest.mark.parametrize("line", ["autoround quantize MODEL --no-such-option 1", "autoround no"])
def test_commands_that_do_not_exist_are_found(line: str) -> None:
    with pytest.raises(Exception, match="No such"):
        parse(line)


@pytest.mark.parametrize(
    "line", [line for _, line in SHOWN if re.match(r"autoround recipes (list|show)", line)]
)
def test_quick_commands_of_the_documents_run(line: str) -> None:
    assert run(shlex.split(line, comments=True)[1:]) == 0
