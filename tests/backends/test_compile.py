from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import InvalidCxxCompiler

from autoround_backends import _compile
from autoround_backends._compile import Compiled, private_folder, why_not_compiled


def call(block: Any, tensors: Any, arguments: Any, named: Any) -> Any:
    return tensors["weight"] * arguments[0]


GIVEN = (torch.nn.Identity(), {"weight": torch.ones(2)}, (torch.tensor([2.0, 3.0]),), {})


def test_a_compiler_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", lambda: "g++")
    assert why_not_compiled() == ""
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    assert "No working C++ compiler" in why_not_compiled()


def test_what_cannot_be_compiled_is_called_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def compile_(own: Any, **options: Any) -> Any:
        def fails(*given: Any) -> Any:
            tried.append(own)
            raise TorchDynamoException("no compiler\nand more")

        return fails

    monkeypatch.setattr(_compile.torch, "compile", compile_)
    compiled = Compiled(call)
    with pytest.warns(UserWarning, match="blocks are not compiled: no compiler$"):
        assert compiled(*GIVEN).tolist() == [2.0, 3.0]
    assert compiled(*GIVEN).tolist() == [2.0, 3.0]
    assert len(tried) == 1
    assert tried[0].__code__ is not call.__code__


def test_errors_of_the_block_itself_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compile.torch, "compile", lambda own, **options: own)
    with pytest.raises(KeyError, match="weight"):
        Compiled(call)(GIVEN[0], {}, *GIVEN[2:])


def test_what_is_compiled_is_kept_for_this_process_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of before, which anyone may have filled, is neither read nor written."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    compiled = Compiled(
        lambda block, tensors, arguments, named: call(block, tensors, arguments, named)
    )
    assert compiled(*GIVEN).tolist() == [2.0, 3.0]
    assert list(tmp_path.iterdir()) == []
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
    assert "TRITON_CACHE_DIR" not in os.environ
    with private_folder():
        folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(folder.rglob("*.cpp")), "it was compiled"
    # torch would unpickle these.
    assert [path.name for path in folder.rglob("*") if "fxgraph" in path.name] == []


def test_headers_are_not_kept_where_others_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    compiled = Compiled(lambda block, tensors, arguments, named: tensors["weight"].exp())
    compiled(*GIVEN)
    assert [path for path in tmp_path.rglob("*") if path.name.startswith("torchinductor")] == []


def test_without_a_folder_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any, **named: Any) -> Any:
        raise OSError("No space left on device")

    _compile._folder.cache_clear()
    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", lambda: "g++")
    assert why_not_compiled() == "No space left on device"
    with private_folder():
        pass
    monkeypatch.undo()
    _compile._folder.cache_clear()
