"""Machines that lack what others have: no compiler, no home folder, a cache that is read-only.

A run ends with the bytes it has elsewhere, and says what is slower.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autoround_backends import _native

from ..jobs import JOBS, Inputs, make_inputs
from ..runs import content, one_core

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="permissions are of Unix"),
    pytest.mark.skipif(_native.compiler() is None, reason="no C compiler here"),
]
KEPT = "not kept for the next run"

#: Changes of the environment, given a folder of the run's own.
Lack = Callable[[dict[str, str], Path], None]


def _no_compiler(environment: dict[str, str], own: Path) -> None:
    (own / "bin").mkdir()
    environment["PATH"] = str(own / "bin")
    for name in ("CC", "CXX"):
        environment.pop(name, None)


def _home_that_is_not_there(environment: dict[str, str], own: Path) -> None:
    environment["HOME"] = "/proc/none/home"


def _home_of_another(environment: dict[str, str], own: Path) -> None:
    (own / "theirs").mkdir(mode=0o555)
    environment["HOME"] = str(own / "theirs")


def _read_only_cache(environment: dict[str, str], own: Path) -> None:
    cache = own / "home" / ".cache" / "autoround" / "kernels"
    cache.mkdir(parents=True)
    for folder in (cache, *cache.parents[:3]):
        folder.chmod(0o555)
    environment["HOME"] = str(own / "home")


def _nothing_at_all(environment: dict[str, str], own: Path) -> None:
    _no_compiler(environment, own)
    _home_that_is_not_there(environment, own)


#: The lack, and what the run prints of it.
LACKS: dict[str, tuple[Lack, str]] = {
    "no compiler": (_no_compiler, "in plain torch: no C compiler"),
    "home that is not there": (_home_that_is_not_there, KEPT),
    "home of another": (_home_of_another, KEPT),
    "read-only cache": (_read_only_cache, KEPT),
    "nothing at all": (_nothing_at_all, "in plain torch: no C compiler"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    with one_core():
        return make_inputs(tmp_path_factory.mktemp("inputs"))


def _obey_permissions() -> None:
    """Let the superuser write nowhere that another user could not."""
    drop, override = 24, 1
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(drop, override, 0, 0, 0):
        os._exit(77)


def quantize(inputs: Inputs, own: Path, lack: Lack | None) -> subprocess.CompletedProcess[str]:
    """Run the command with something missing."""
    own.mkdir()
    environment = {**os.environ, "HOME": str(own / "home"), "HF_HUB_OFFLINE": "1"}
    environment["TMPDIR"] = str(own / "tmp")
    (own / "tmp").mkdir()
    (own / "home").mkdir()
    if lack is not None:
        lack(environment, own)
    return subprocess.run(
        [sys.executable, "-m", "autoround", *JOBS["auto_round"].words(inputs, own)],
        env=environment,
        cwd=own,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        preexec_fn=_obey_permissions,
    )


@pytest.fixture(scope="module")
def whole(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the command where nothing is missing; return its output."""
    own = tmp_path_factory.mktemp("whole") / "own"
    done = quantize(inputs, own, None)
    if done.returncode == 77:
        pytest.skip("the superuser keeps all rights here")
    assert done.returncode == 0, done.stderr
    assert not any(told in done.stdout for _, told in LACKS.values())
    return own / "out"


@pytest.mark.parametrize("name", LACKS)
def test_a_run_ends_with_the_same_bytes_and_says_what_is_slower(
    name: str, inputs: Inputs, whole: Path, tmp_path: Path
) -> None:
    lack, told = LACKS[name]
    done = quantize(inputs, tmp_path / "own", lack)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert told in done.stdout
    assert content(tmp_path / "own" / "out") == content(whole)
