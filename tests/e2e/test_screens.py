"""Commands on terminals: what stands on the screen, how wide, and what is kept of a killed run."""

from __future__ import annotations

import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

if sys.platform == "win32":
    pytest.skip("terminals of Unix", allow_module_level=True)

import fcntl
import pty
import struct
import termios

#: Anything that a terminal obeys.
CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
ROWS = 40


class Shown(NamedTuple):
    """What a terminal was sent, how the command ended, and seconds to the first byte."""

    sent: bytes
    code: int
    first: float

    @property
    def lines(self) -> list[str]:
        """The lines that were sent, without what a terminal obeys."""
        return re.split(r"[\r\n]+", CONTROL.sub(b"", self.sent).decode())


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog, again and again\n" * 12)
    return path


def command(model: Path, text: Path, out: Path, *more: str, iters: int = 20) -> list[str]:
    return [
        *(sys.executable, "-m", "autoround", "quantize", str(model), "--group-size", "32"),
        *("--iters", str(iters), "--nsamples", "4", "--seqlen", "16", "--batch-size", "2"),
        *("--device", "cpu", "--dataset", str(text), "-o", str(out), *more),
    ]


def environment(**changes: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "TERM")}
    return {**kept, **changes}


def show(words: list[str], columns: int, **changes: str) -> Shown:
    """Run a command on a terminal, and read all that it is sent."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    began, first, sent = time.monotonic(), 0.0, b""
    process = subprocess.Popen(
        words, stdin=slave, stdout=slave, stderr=slave, env=environment(**changes)
    )
    os.close(slave)
    while True:
        ready, _, _ = select.select([master], [], [], 0.1)
        try:
            piece = os.read(master, 1 << 16) if ready else b""
        except OSError:  # how Linux tells that nobody writes any more
            piece = b""
        first = first or (time.monotonic() - began if piece else 0.0)
        sent += piece
        if not piece and process.poll() is not None:
            break
    os.close(master)
    return Shown(sent, process.returncode, first)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_terminal_has_a_bar_a_step_and_whole_words(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, columns: int
) -> None:
    model = checkpoint("llama")
    words = command(model, text, tmp_path / "out", iters=300)
    shown = show(words, columns, TERM="xterm-256color")
    assert shown.code == 0
    lines = shown.lines
    assert any("0/2 blocks" in line and "━" in line for line in lines)
    assert any(re.match(r"block 1/2  step \d+/300", line) for line in lines)
    # One line is kept of each block.
    for number in (1, 2):
        assert any(line.startswith(f"block {number}/2  loss ") for line in lines)
    # Commands and paths are for copying; all else fits, so the terminal breaks no word.
    exempt = re.compile(r"(generate|load|serve) |.*(" + f"{tmp_path}|{model})")
    prose = [line for line in lines if not exempt.match(line)]
    assert [line for line in prose if len(line) > columns] == []
    # The cursor comes back, and the region is gone.
    assert shown.sent.rindex(b"\x1b[?25h") > shown.sent.rindex(b"\x1b[?25l")
    assert "ETA" not in lines[-2]


def test_there_is_something_on_the_screen_at_once(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    idle = time.monotonic()
    subprocess.run([sys.executable, "-c", "import typer"], check=True)
    start = time.monotonic() - idle
    words = command(checkpoint("llama"), text, tmp_path / "out", iters=0)
    shown = show(words, 80, TERM="xterm-256color")
    # A busy machine starts Python itself slowly; the rest of half a second is ours.
    assert shown.first < 3 * start + 0.5
    assert shown.lines[0].startswith("autoround ")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="seconds of a running process")
@pytest.mark.parametrize(
    "words", [("plan", "."), ("plan", ".", "--json"), ("quantize", ".", "--dry-run"), ("eval", ".")]
)
def test_commands_that_show_no_bar_have_begun_at_once_too(words: tuple[str, ...]) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "autoround", *words], stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    try:
        assert select.select([master], [], [], 60)[0]
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        sent = os.read(master, 1 << 16)
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert sent.startswith(b"autoround ")
    # Of the processor, so that it does not matter who else runs: torch alone takes 2 s here.
    spent = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    assert spent < 1


def test_colours_are_taken_away(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    words = command(checkpoint("llama"), text, tmp_path / "out")
    shown = show(words, 80, TERM="xterm-256color", NO_COLOR="1")
    assert shown.code == 0
    assert not re.search(rb"\x1b\[[0-9;]*3[0-9][0-9;]*m", shown.sent)


@pytest.mark.parametrize("changes", [{"TERM": "dumb"}, {"TERM": "dumb", "COLUMNS": "0"}])
def test_a_dumb_terminal_gets_lines_alone(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, changes: dict[str, str]
) -> None:
    shown = show(command(checkpoint("llama"), text, tmp_path / "out"), 80, **changes)
    assert shown.code == 0
    assert b"\x1b" not in shown.sent
    assert b"\r" not in shown.sent.replace(b"\r\n", b"\n")
    assert any(line.startswith("block 2/2  loss ") for line in shown.lines)


@pytest.mark.parametrize("changes", [{}, {"FORCE_COLOR": "1", "TERM": "xterm-256color"}])
def test_a_pipe_gets_lines_that_are_whole(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, changes: dict[str, str]
) -> None:
    words = command(checkpoint("llama"), text, tmp_path / "out")
    ended = subprocess.run(words, capture_output=True, env=environment(**changes), check=True)
    assert b"\x1b[?25l" not in ended.stdout
    assert b"\r" not in ended.stdout
    if not changes:
        assert b"\x1b" not in ended.stdout + ended.stderr
        # Not broken at any width: a log is searched by line.
        assert max(map(len, ended.stdout.decode().splitlines())) > 80


def test_json_is_all_that_is_on_stdout(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = command(checkpoint("llama"), text, out, "--json")
    ended = subprocess.run(words, capture_output=True, env=environment(), check=True)
    result = json.loads(ended.stdout)
    assert result["output_dir"] == str(out)
    assert (result["blocks"], result["gate"]) == (2, [])
    assert b"block 2/2  loss " in ended.stderr


def test_what_was_told_is_kept_of_a_run_that_is_killed(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run.jsonl"
    words = command(
        checkpoint("llama"), text, tmp_path / "out", "--events", str(path), iters=100_000
    )
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_text().count("step_done") >= 3:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    content = path.read_text()
    assert content.endswith("\n")
    told = [json.loads(line) for line in content.splitlines()]
    names = [one["event"] for one in told]
    assert names[:3] == ["log_started", "planned", "stage_started"]
    assert names.count("step_done") >= 3
    # A few a second, of thousands of steps.
    times = [one["time"] for one in told if one["event"] == "step_done"]
    assert all(later - earlier > 0.2 for earlier, later in itertools.pairwise(times))
