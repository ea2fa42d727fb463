from __future__ import annotations

import sys

import pytest
import typer

from autoround._version import __version__
from autoround.cli import main
from autoround.errors import AutoRoundError

from .conftest import Command

COMMANDS = ("quantize", "plan", "eval", "generate", "recipes")


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS), ("recipes", "show")])
def test_help_has_examples_and_every_option_is_described(
    command: tuple[str, ...], autoround: Command
) -> None:
    done = autoround(*command, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.lstrip().startswith(f"Usage: autoround {' '.join(command)}".rstrip())
    if command != ("recipes", "show"):
        assert "Examples:" in done.out or command == ("recipes",)
    # Paragraph marks of the help's source are no part of it.
    assert "\\b" not in done.out
    assert "\b" not in done.out


def test_help_lists_every_command(autoround: Command) -> None:
    out = autoround("--help").out
    assert all(f"\n  {name} " in out for name in COMMANDS)


def test_help_comes_without_torch() -> None:
    import subprocess

    code = (
        "import sys; from autoround.cli.main import run; code = run(['quantize', '--help']);"
        "sys.exit(code or any(m in sys.modules for m in ('torch', 'transformers', 'datasets')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_command_shows_the_help(autoround: Command) -> None:
    done = autoround()
    assert done.code == 0
    assert "Usage: autoround" in done.out + done.err


def test_the_version(autoround: Command) -> None:
    assert autoround("--version").out == f"autoround {__version__}\n"


def test_an_unknown_command(autoround: Command) -> None:
    done = autoround("quantise")
    assert done.code == 2
    assert "quantise" in done.err


@pytest.mark.parametrize("kind", [AutoRoundError, *AutoRoundError.__subclasses__()])
def test_every_error_ends_with_its_code_and_its_lines(
    kind: type[AutoRoundError], autoround: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise kind("one\ntwo")

    app = typer.Typer()
    app.command()(fail)
    monkeypatch.setattr(main, "app", app)
    done = autoround()
    assert done.code == kind.exit_code
    assert (done.out, done.err) == ("", "error: one\nerror: two\n")


def test_a_bug_is_not_hidden(autoround: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    app = typer.Typer()
    app.command()(fail)
    monkeypatch.setattr(main, "app", app)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        autoround()
