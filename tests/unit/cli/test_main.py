from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def failing(error: BaseException) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("a\nbug \x1b[31m"),
        MemoryError(),
        RecursionError("deep"),
        OSError(28, "full"),
    ],
)
def test_an_error_that_nobody_foresaw_has_no_traceback(
    error: Exception, autoround: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "app", failing(error))
    done = autoround()
    assert done.code == 1
    assert done.out == ""
    first, *others = done.err.splitlines()
    assert first.startswith(f"error: {type(error).__name__}")
    assert "\x1b" not in done.err
    assert "test_main.py" in first
    assert "Traceback" not in done.err
    assert "--debug" in others[-1]


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), AutoRoundError("no")])
def test_debug_shows_where_an_error_comes_from(
    error: Exception, autoround: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "app", failing(error))
    with pytest.raises(type(error), match=str(error)):
        autoround("--debug")


def test_names_in_errors_do_not_steer_the_terminal(
    autoround: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "app", failing(AutoRoundError("layer \x1b]0;x\x07 \u202e \x9b1m")))
    assert autoround().err == "error: layer \\x1b]0;x\\x07 \\u202e \\x9b1m\n"


RUN = [sys.executable, "-c", "from autoround.cli.main import run; raise SystemExit(run())"]


def start(words: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*RUN, *words], stderr=subprocess.PIPE, timeout=120, **options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_the_output_is_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        done = start(["recipes", "list"], stdout=full, check=False)
    assert done.returncode == 8
    assert done.stderr.decode().startswith("error: what this prints cannot be written")
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    done = start(["recipes", "list"], stdout=write, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_any_encoding_of_the_terminal_will_do(encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    code = (
        "from autoround.cli.main import run, write_nearest; import sys; "
        "write_nearest(sys.stdout); print('269 MB', chr(0x2192), '8', chr(0xd7), '4', chr(0xd800))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
    )
    text = done.stdout.decode(encoding)
    assert text in (
        "269 MB -> 8 x 4 ?\n",
        "269 MB \u2192 8 \u00d7 4 ?\n",
        "269 MB -> 8 \u00d7 4 ?\n",
    )


def test_python_m_runs_it_and_an_early_ctrl_c_is_a_sentence() -> None:
    module = [sys.executable, "-m", "autoround"]
    done = subprocess.run([*module, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"autoround {__version__}\n"
    code = (
        "import sys, runpy; "
        "sys.modules['autoround.cli.main'] = type('M', (), {'__getattr__': "
        "lambda s, n: (_ for _ in ()).throw(KeyboardInterrupt)})(); "
        "runpy.run_module('autoround', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted: nothing half-written is left\n")


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (
            ["--model", "m", "--tasks", "piqa"],
            "--tasks is a flag of auto-round's; here: 'autoround eval",
        ),
        (["quantize", "m", "--act_bits", "8"], "activations, keys and values stay in 16 bit"),
        (["o/m", "--disable_opt_rtn"], "write --recipe rtn"),
    ],
)
def test_a_flag_of_auto_rounds_that_is_none_names_our_word(
    words: list[str], word: str, autoround: Command
) -> None:
    done = autoround(*words)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert word in line


def test_words_without_a_command_are_quantizes(autoround: Command, tmp_path: Path) -> None:
    done = autoround("--model", tmp_path / "nothing", "--bits", 4)
    assert (done.code, "does not exist" in done.err) == (4, True)
    assert autoround(tmp_path / "nothing", "--bits", 4).err == done.err
    assert autoround("quantise").code == 2


def test_a_shell_is_told_completions(autoround: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_AUTOROUND_COMPLETE", "complete_bash")
    for typed, completed in (("qu", "quantize"), ("quantize --recipe li", "light")):
        words = f"autoround {typed}"
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        done = autoround()
        assert (done.code, done.out.strip()) == (0, completed)
