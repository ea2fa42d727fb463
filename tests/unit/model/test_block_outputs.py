"""Outputs of blocks are seen while a model runs, and no hook stays behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoround.model.block_outputs import watch_outputs


class Block(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(x + 1)


class Toy(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(wrap) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            out = layer(x)
            x = out if isinstance(out, Tensor) else out[0]
        return x


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: (t, None), lambda t: [t]])
def test_hidden_states_are_handed_over_by_path(wrap: Callable[[Tensor], Any]) -> None:
    model, seen = Toy(wrap), {}
    with watch_outputs(model, ["layers.0", "layers.1"], lambda path, t: seen.update({path: t})):
        model(torch.zeros(3))
    assert {path: float(t[0]) for path, t in seen.items()} == {"layers.0": 1.0, "layers.1": 2.0}


def test_no_hook_stays_behind_whatever_happens() -> None:
    model, seen = Toy(lambda t: t), []
    with pytest.raises(RuntimeError), watch_outputs(model, ["layers.0"], lambda *a: seen.append(a)):
        raise RuntimeError
    model(torch.zeros(1))
    assert seen == []


def test_blocks_that_put_out_no_tensor_are_passed_over() -> None:
    model, seen = Toy(lambda t: (t,)), []
    model.layers[1].wrap = lambda t: ({"hidden": t},)  # type: ignore[assignment]
    with watch_outputs(model, ["layers.1"], lambda *a: seen.append(a)):
        model(torch.zeros(1))
    assert seen == []
