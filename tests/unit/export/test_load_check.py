"""What is written is loaded and run before it is published: what that finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoround.errors import FormatError, VerificationError
from autoround.export.load_check import Batch, check_loads
from autoround.export.staging import MARKER

IDS = torch.arange(6)[None]


class Answer:
    """What a model of transformers returns."""


class Toy(nn.Module):
    """A model with one block, which returns what it is told to."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.block = Block(output)
        self.runs = 0

    def forward(self, input_ids: Tensor, use_cache: bool) -> Answer:
        assert torch.equal(input_ids, IDS)
        assert not use_cache
        self.block()
        return Answer()


class Block(nn.Module):
    """Returns a tensor or a tuple, or raises an error."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self) -> Any:
        if isinstance(self.output, Exception):
            raise self.output
        return self.output


EXPECTED = torch.linspace(-1.0, 1.0, 24).reshape(1, 6, 4)


def check(tmp_path: Path, output: Any, expected: Tensor | None = EXPECTED) -> list[Path]:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / MARKER).touch()
    seen: list[Path] = []

    def load(folder: Path, blocks: Sequence[str]) -> nn.Module:
        seen.extend(folder.iterdir())
        return Toy(output)

    check_loads(tmp_path, load, Batch(IDS, ("block", "block"), None, expected))
    return seen


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: (t, None), lambda t: [t]])
def test_the_same_output_passes_and_the_mark_of_the_unfinished_is_not_seen(
    wrap: Any, tmp_path: Path
) -> None:
    seen = check(tmp_path, wrap(EXPECTED + 1e-4))
    assert [path.name for path in seen] == ["config.json"]


def test_another_output_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="loaded again, the last block's output"):
        check(tmp_path, EXPECTED * 1.2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_output_that_is_not_finite_is_an_error(value: float, tmp_path: Path) -> None:
    bad = EXPECTED.clone()
    bad[0, 2, 1] = value
    with pytest.raises(VerificationError):
        check(tmp_path, bad)
    with pytest.raises(VerificationError, match="NaN or infinity"):
        check(tmp_path, bad, expected=None)
    check(tmp_path, EXPECTED, expected=None)


def test_what_cannot_be_run_is_an_error(tmp_path: Path) -> None:
    error = AttributeError("'QuantLinear' object has no attribute 'weight'")
    with pytest.raises(VerificationError, match="cannot be run: 'QuantLinear' object"):
        check(tmp_path, error)


def test_what_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    def load(folder: Path, blocks: Sequence[str]) -> nn.Module:
        raise FormatError("tensor x is missing")

    with pytest.raises(VerificationError, match="cannot be loaded: tensor x is missing"):
        check_loads(tmp_path, load, Batch(IDS, ("block", "block")))


@pytest.mark.parametrize("named", [False, True])
def test_the_first_block_gets_the_input_that_is_given(named: bool, tmp_path: Path) -> None:
    class Passing(nn.Module):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return hidden_states

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Passing()

        def forward(self, input_ids: Tensor, use_cache: bool) -> Answer:
            coarse = torch.zeros(1, 6, 4)
            self.block(**{"hidden_states": coarse}) if named else self.block(coarse)
            return Answer()

    batch = Batch(IDS, ("block", "block"), EXPECTED, EXPECTED)
    check_loads(tmp_path, lambda folder, blocks: Model(), batch)
