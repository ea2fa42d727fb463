"""Signals at random times, and two commands at once: codes that are documented, nothing in between.

Commands run in processes of their own: interpreters that are started, as a shell would, and forks
of this one, which has loaded its libraries already, so that signals meet the work itself.
"""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from ..jobs import JOBS, Ended, Inputs, Job, command, make_inputs
from ..runs import even_device, one_core
from .test_faults import go_on, look_at

__all__ = ["even_device"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="signals are of Unix"),
]

#: What a shell reports of each, whether the command or the system ended the process.
SIGNALS = {
    signal.SIGTERM: 143,
    signal.SIGHUP: 129,
    signal.SIGINT: 130,
    signal.SIGKILL: 137,
}
READERS: dict[str, Callable[[Inputs, Path], list[str]]] = {
    "plan": lambda inputs, folder: [
        *("plan", str(inputs.model), "--dataset", str(inputs.text)),
        *("--seqlen", "16", "--nsamples", "4", "--group-size", "32", "--device", "cpu"),
    ],
    "eval": lambda inputs, folder: [
        *("eval", str(inputs.quantized), "--text", str(inputs.text), "--seqlen", "16"),
        *("--max-tokens", "256", "--device", "cpu"),
    ],
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    with one_core():
        return make_inputs(tmp_path_factory.mktemp("inputs"))


class Forked:
    """A command in a fork of this process; what it prints goes to files."""

    def __init__(self, words: list[str], beside: Path) -> None:
        self._out, self._err = beside / "printed", beside / "errors"
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                out, err = (os.open(p, os.O_CREAT | os.O_RDWR) for p in (self._out, self._err))
                os.dup2(out, 1)
                os.dup2(err, 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                from autoround.__main__ import main

                sys.argv = ["autoround", *words]
                code = main()
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def wait(self) -> Ended:
        _, status = os.waitpid(self.pid, 0)
        code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        texts = [path.read_text() if path.exists() else "" for path in (self._out, self._err)]
        return Ended(code, *texts)


def expected_of(job: Job, inputs: Inputs, folder: Path) -> tuple[dict[str, bytes], float]:
    """Return what a command writes undisturbed, and its seconds."""
    folder.mkdir()
    started = time.perf_counter()
    assert command(job.words(inputs, folder)).code == 0
    return job.result(folder), time.perf_counter() - started


def after_signal(
    job: Job, inputs: Inputs, place: Path, expected: dict[str, bytes], ended: Ended, where: str
) -> None:
    """Check what a command left that got a signal, and repeat it."""
    if ended.code in (0, 8):
        look_at(job, place, expected, code=ended.code, err=ended.err, where=where)
    else:
        look_at(job, place, expected, code=8, err=ended.err + "error: \n", where=where)
    go_on(job, inputs, place, expected, where)


@pytest.mark.parametrize("name", ["auto_round", "two formats", "convert", "allocate"])
def test_signals_at_random_times_of_the_work(name: str, inputs: Inputs, tmp_path: Path) -> None:
    job, rng, codes = JOBS[name], random.Random(name), Counter[int]()
    expected, seconds = expected_of(job, inputs, tmp_path / "whole")
    for number, sent in enumerate(list(SIGNALS) * 4):
        place, beside = tmp_path / f"{number}", tmp_path / f"{number}-printed"
        place.mkdir()
        beside.mkdir()
        running = Forked(job.words(inputs, place), beside)
        delay = rng.uniform(0, seconds)
        time.sleep(delay)
        os.kill(running.pid, sent)
        ended = running.wait()
        where = f"{sent.name} after {delay:.2f} s of {seconds:.2f}: {ended}"
        assert ended.code in (0, SIGNALS[sent]), where
        codes[ended.code] += 1
        after_signal(job, inputs, place, expected, ended, where)
    print(f"{name}: {dict(codes)}")
    assert sum(codes.values()) == 16
    assert codes.keys() - {0}


@pytest.mark.parametrize("name", ["auto_round", "convert", "plan", "eval"])
def test_signals_to_commands_of_a_shell(name: str, inputs: Inputs, tmp_path: Path) -> None:
    rng, codes = random.Random(name), Counter[int]()
    job = JOBS.get(name) or Job(READERS[name])
    expected: dict[str, bytes] = {}
    started = time.perf_counter()
    whole = start(job.words(inputs, tmp_path / "whole"))
    assert finish(whole).code == 0
    seconds = time.perf_counter() - started
    if name in JOBS:
        expected = job.result(tmp_path / "whole")
    for number, sent in enumerate([signal.SIGTERM, signal.SIGHUP, signal.SIGINT] * 2):
        place = tmp_path / f"{number}"
        place.mkdir()
        process = start(job.words(inputs, place))
        # The first three in the first second, while libraries are loaded.
        delay = rng.uniform(0, 1 if number < 3 else seconds)
        time.sleep(delay)
        process.send_signal(sent)
        ended = finish(process)
        where = f"{sent.name} after {delay:.2f} s of {seconds:.2f}: {ended}"
        assert ended.code in (0, SIGNALS[sent]), where
        codes[ended.code] += 1
        if name in JOBS:
            after_signal(job, inputs, place, expected, ended, where)
        else:
            assert list(place.iterdir()) == []
    print(f"{name}: {dict(codes)}")


def start(words: list[str], **others: object) -> subprocess.Popen[str]:
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **others}
    program = [sys.executable, "-m", "autoround", *words]
    # A shell's own signals: those that a test runner ignores are not.
    return subprocess.Popen(program, text=True, restore_signals=True, **given)  # type: ignore[call-overload, no-any-return]


def finish(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=300)
    code = process.returncode
    return Ended(128 - code if code < 0 else code, out or "", err or "")


@pytest.mark.parametrize("name", ["auto_round", "convert", "plan", "eval"])
def test_a_reader_that_goes_away(name: str, inputs: Inputs, tmp_path: Path) -> None:
    job = JOBS.get(name) or Job(READERS[name])
    process = start(job.words(inputs, tmp_path))
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    ended = finish(process)
    assert ended.code == 141, ended
    assert "Traceback" not in ended.err
    if name in JOBS:
        expected, _ = expected_of(job, inputs, tmp_path / "whole")
        shown = tmp_path / "out"
        assert not shown.exists() or job.result(tmp_path) == expected


def test_nohup_goes_on_when_the_terminal_goes_away(inputs: Inputs, tmp_path: Path) -> None:
    words = JOBS["auto_round"].words(inputs, tmp_path)
    line = f"exec nohup {shlex.join([sys.executable, '-m', 'autoround', *words])}"
    process = subprocess.Popen(["sh", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(1.0)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize(
    ("one", "other"),
    [("auto_round", "auto_round"), ("auto_round", "convert"), ("convert", "convert")],
)
def test_two_commands_into_one_folder(
    one: str, other: str, turn: int, inputs: Inputs, tmp_path: Path
) -> None:
    jobs = (JOBS[one], JOBS[other])
    expected = [expected_of(job, inputs, tmp_path / f"w{n}")[0] for n, job in enumerate(jobs)]
    seconds = max(expected_of(job, inputs, tmp_path / f"t{n}")[1] for n, job in enumerate(jobs))
    place = tmp_path / "place"
    place.mkdir()
    running = []
    for number, job in enumerate(jobs):
        beside = tmp_path / f"printed-{number}"
        beside.mkdir()
        running.append(Forked(job.words(inputs, place), beside))
        time.sleep(random.Random(turn).uniform(0, seconds / 2) if turn else 0)
    ended = [process.wait() for process in running]
    where = str(ended)
    assert sorted(e.code for e in ended) == [0, 8], where
    first = [e.code for e in ended].index(0)
    assert JOBS[one].result(place) == expected[first], where
    told = ended[1 - first].err
    assert "Traceback" not in told, where
    sentences = ("another run", "is not empty", "of an interrupted run")
    assert any(sentence in told for sentence in sentences), where
    # Blocks that the second had finished are kept.
    assert {path.name for path in place.iterdir()} - {"out.journal"} == {"out"}, where
