from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import InvalidCxxCompiler

from autoround_backends import _compile
from autoround_backends._compile import Compiled, can_compile


def call(block: Any, tensors: Any, arguments: Any, named: Any) -> Any:
    return tensors["weight"] * arguments[0]


GIVEN = (torch.nn.Identity(), {"weight": torch.ones(2)}, (torch.tensor([2.0, 3.0]),), {})


def test_a_compiler_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", lambda: "g++")
    assert can_compile()
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    assert not can_compile()


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
