"""Triton's kernels are kept in a folder of ours, and what is damaged there is built again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoround_backends._kernel_cache import DIGEST
from autoround_backends._triton_cache import checking_manager, keep_kernels, open_folder

knobs = pytest.importorskip("triton.knobs")


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the cache of one kernel, a group of two files in it."""
    monkeypatch.setitem(knobs.cache.__dict__, "dir", str(tmp_path))
    made = checking_manager()("key")
    paths = {name: made.put(b"code" * 100, name) for name in ("k.cubin", "k.json")}
    made.put_group("k.json", paths)
    return made


def test_what_is_put_is_found(manager: Any) -> None:
    group = manager.get_group("k.json")
    assert set(group) == {"k.cubin", "k.json"}
    assert Path(group["k.cubin"]).read_bytes() == b"code" * 100
    assert manager.get_file("k.cubin") == group["k.cubin"]
    assert manager.get_file("other") is None
    assert manager.get_group("other") is None


@pytest.mark.parametrize("name", ["k.cubin", "k.json", "__grp__k.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "gone", "without digest", "open"])
def test_what_is_damaged_is_not_found(damage: str, name: str, manager: Any) -> None:
    path = Path(manager.cache_dir) / name
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[:-1])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "changed":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "gone":
        path.unlink()
    elif damage == "without digest":
        path.with_name(name + DIGEST).unlink()
    else:
        path.chmod(0o666)
    assert manager.get_group("k.json") is None
    assert manager.get_file(name) is None


def test_a_group_names_its_own_files_alone(manager: Any, tmp_path: Path) -> None:
    elsewhere = checking_manager()("other").put(b"code", "k.cubin")
    manager.put_group("k.json", {"k.cubin": elsewhere})
    assert manager.get_group("k.json") is None


def test_files_are_private_and_nothing_is_left_beside_them(manager: Any) -> None:
    files = list(Path(manager.cache_dir).iterdir())
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert len(files) == 6


def test_a_folder_that_others_can_write_is_replaced_for_one_process(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    kept = open_folder(tmp_path / "open")
    assert "can be written by other users" in kept.reason
    assert kept.folder != tmp_path / "open"
    assert kept.folder.stat().st_mode & 0o777 == 0o700
    assert open_folder(tmp_path / "own") == (tmp_path / "own", "", None)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    from autoround_backends import _triton_cache

    monkeypatch.setattr(_triton_cache, "default_cache", lambda: tmp_path / "triton")
    before = dict(knobs.cache.__dict__)
    for cached in (_triton_cache.keep_kernels, _triton_cache._folder):
        cached.cache_clear()
    yield
    for cached in (_triton_cache.keep_kernels, _triton_cache._folder):
        cached.cache_clear()
    knobs.cache.__dict__.clear()
    knobs.cache.__dict__.update(before)


def test_triton_is_told_and_the_environment_is_not(settings: None, tmp_path: Path) -> None:
    before = dict(os.environ)
    assert keep_kernels() == ""
    assert knobs.cache.dir == str(tmp_path / "triton")
    assert knobs.cache.manager_class.__name__ == "CheckingManager"
    assert dict(os.environ) == before
    assert knobs.propagate_env is True


COMPILE = """
import json, sys
from pathlib import Path
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from autoround_backends import _triton_cache
from autoround_backends import _triton_tuning as kernels
_triton_cache.default_cache = lambda: Path(sys.argv[1])
assert _triton_cache.keep_kernels() == ""
function = kernels.sign_step
names = function.arg_names
types = {"table": "*i64", "count": "i32", "upstream": "*i64", "lr": "fp32"}
types |= dict.fromkeys(("grad_offset", "grad_lo", "grad_hi"), "*fp32")
constants = {"QUEUED": False, "BLOCK": 2048, "ALIGNED": True}
signature = {each: types.get(each, "constexpr") for each in names}
values = {(names.index(each),): value for each, value in constants.items()}
made = triton.compile(ASTSource(function, signature=signature, constexprs=values),
                      target=GPUTarget("cuda", 90, 32))
print(json.dumps(len(made.asm["cubin"])))
"""


@pytest.mark.slow
def test_a_damaged_kernel_is_compiled_again(tmp_path: Path) -> None:
    def compile_() -> int:
        done = subprocess.run(
            [sys.executable, "-c", COMPILE, str(tmp_path / "kernels")],
            env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return int(json.loads(done.stdout))

    size = compile_()
    (cubin,) = (tmp_path / "kernels").rglob("*.cubin")
    whole, written = cubin.read_bytes(), cubin.stat().st_mtime_ns
    assert compile_() == size
    assert cubin.stat().st_mtime_ns == written, "what is whole is used"
    cubin.write_bytes(whole[: size // 2])
    assert compile_() == size
    assert cubin.read_bytes() == whole
