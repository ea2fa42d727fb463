"""What torch compiled is there for the next process, and what is damaged is compiled again."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoround_backends import _compiled_libraries
from autoround_backends._compiled_libraries import (
    LibraryCache,
    keep_libraries,
    open_libraries,
    restore_libraries,
)
from autoround_backends._kernel_cache import DIGEST
from autoround_backends._native import compiler

NAME = "cabcdefghijklmnopqrstuvwxyz234567.so"
pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")


def build(folder: Path, name: str = NAME, *, load: bool = True) -> Path:
    """Build a library where torch would, and load it as torch does."""
    path = folder / name[1:3] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [str(compiler()), "-shared", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=b"int answer(void) { return 42; }", check=True)
    if load:
        ctypes.CDLL(str(path))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> LibraryCache:
    """Return a cache that keeps one library."""
    opened = open_libraries("g++", tmp_path / "cache")
    build(tmp_path / "first")
    keep_libraries(opened, tmp_path / "first")
    return opened


def restored(cache: LibraryCache, folder: Path) -> list[str]:
    folder.mkdir()
    restore_libraries(cache, folder)
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*.so")]


def test_a_library_that_was_kept_comes_back(cache: LibraryCache, tmp_path: Path) -> None:
    assert restored(cache, tmp_path / "second") == [f"ab/{NAME}"]
    path = tmp_path / "second" / "ab" / NAME
    assert path.read_bytes() == (tmp_path / "first" / "ab" / NAME).read_bytes()
    assert ctypes.CDLL(str(path)).answer() == 42
    assert cache.folder is not None
    assert {p.name for p in cache.folder.iterdir()} == {NAME, NAME + DIGEST}


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "without digest", "open", "renamed"])
def test_what_is_damaged_does_not(damage: str, cache: LibraryCache, tmp_path: Path) -> None:
    assert cache.folder is not None
    path = cache.folder / NAME
    data = path.read_bytes()
    if damage == "without digest":
        path.with_name(NAME + DIGEST).unlink()
    elif damage == "open":
        path.chmod(0o666)
    elif damage == "renamed":
        for suffix in ("", DIGEST):
            path.with_name(NAME + suffix).rename(path.with_name("evil.so" + suffix))
    else:
        kept = {"cut": data[:-1], "empty": b"", "changed": data[:-1] + bytes([data[-1] ^ 1])}
        path.write_bytes(kept[damage])
    assert restored(cache, tmp_path / "second") == []


@pytest.mark.parametrize("part", [0, 10, 4096, -1])
def test_what_a_compiler_left_half_done_is_not_kept(part: int, tmp_path: Path) -> None:
    cache = open_libraries("g++", tmp_path / "cache")
    whole = build(tmp_path / "first", load=False)
    whole.write_bytes(whole.read_bytes()[:part])
    keep_libraries(cache, tmp_path / "first")
    assert restored(cache, tmp_path / "second") == []


@pytest.mark.skipif(sys.platform != "linux", reason="files of another form")
def test_what_another_process_tried_out_is_kept(tmp_path: Path) -> None:
    cache = open_libraries("g++", tmp_path / "cache")
    build(tmp_path / "first", load=False)
    keep_libraries(cache, tmp_path / "first")
    assert restored(cache, tmp_path / "second") == [f"ab/{NAME}"]


def test_another_compiler_or_torch_starts_anew(
    cache: LibraryCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_libraries("g++", tmp_path / "cache") == cache
    others = [open_libraries("clang++-1", tmp_path / "cache")]
    monkeypatch.setattr(_compiled_libraries.torch, "__version__", "9.9")
    others.append(open_libraries("g++", tmp_path / "cache"))
    assert len({cache.folder, *(other.folder for other in others)}) == 3
    assert restored(others[1], tmp_path / "second") == []


def test_a_folder_that_others_write_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    cache = open_libraries("g++", folder)
    assert cache.folder is None
    assert "can be written by other users" in cache.reason
    build(tmp_path / "first")
    keep_libraries(cache, tmp_path / "first")
    assert list(folder.iterdir()) == []
    assert restored(cache, tmp_path / "second") == []


def test_the_oldest_go(
    cache: LibraryCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache.folder is not None
    os.utime(cache.folder / NAME, (1, 1))
    newer = NAME.replace("ca", "cb")
    build(tmp_path / "next", newer)
    size = (cache.folder / NAME).stat().st_size
    monkeypatch.setattr(_compiled_libraries, "MOST_BYTES", size + 1)
    keep_libraries(cache, tmp_path / "next")
    assert restored(cache, tmp_path / "second") == [f"bb/{newer}"]
    assert {p.name for p in cache.folder.iterdir()} == {newer, newer + DIGEST}


SCRIPT = """
import torch
from autoround_backends._compile import Compiled, private_folder
def call(block, tensors, arguments, named):
    return (tensors["weight"] * arguments[0]).exp().sum(-1)
weight = torch.linspace(0, 1, 64).reshape(8, 8).requires_grad_()
with private_folder():
    out = Compiled(call)(torch.nn.Identity(), {"weight": weight}, (torch.ones(8),), {})
    out.sum().backward()
print(weight.grad.sum().item())
"""


@pytest.mark.slow
def test_the_next_process_compiles_nothing(tmp_path: Path) -> None:
    """Counted by a compiler that writes down what it is called for."""
    wrapper, log = tmp_path / "bin" / "g++", tmp_path / "calls.txt"
    wrapper.parent.mkdir()
    real = subprocess.run(["which", "g++"], capture_output=True, text=True, check=False)
    if real.returncode:
        pytest.skip("no g++")
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {real.stdout.strip()} "$@"\n')
    wrapper.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{wrapper.parent}:{os.environ['PATH']}",
    }
    built, printed = [], []
    for _ in range(2):
        log.write_text("")
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        printed.append(done.stdout)
        # torch tries the compiler out, whether or not it then builds anything.
        lines = log.read_text().splitlines()
        built.append(sum("autoround-compiled-" in line and ".so" in line for line in lines))
    assert built[0] > 0
    assert built[1] == 0
    assert printed[0] == printed[1] != ""
