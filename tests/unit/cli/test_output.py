"""What commands print, and a terminal that has no columns."""

from __future__ import annotations

import errno
import io

import pytest

from autoround.cli import _output
from autoround.cli._output import COLUMNS, echo, make_console, raise_unwritable
from autoround.errors import OutputError


def test_lines_are_printed_without_what_steers_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    echo("a\x1b[0m\tb")
    echo("one\ntwo", end="", keep="\n")
    echo("three", err=True)
    assert capsys.readouterr() == ("a\\x1b[0m\tb\none\ntwo", "three\n")


def test_errors_of_writing_are_told_apart() -> None:
    with pytest.raises(OutputError, match="cannot be written: no room"):
        raise_unwritable(OSError(errno.ENOSPC, "no room"))
    with pytest.raises(BrokenPipeError):
        raise_unwritable(BrokenPipeError(errno.EPIPE, "gone"))


def test_a_stream_that_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self) -> None:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("sys.stdout", Full())
    with pytest.raises(OutputError, match="No space left"):
        echo("text")
    with pytest.raises(OutputError, match="Input/output"):
        _output.flush()


def test_a_terminal_without_columns_gets_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    console = make_console()
    assert console.width >= COLUMNS
