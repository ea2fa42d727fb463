"""What is expected is what comes, in its order: so every tensor is written once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from autoround import api
from autoround.export.expected_tensors import expected_tensors
from autoround.export.safetensors_writer import SafetensorsWriter
from autoround.export.shards import ShardWriter
from autoround.export.writer import add_outside_blocks

from ...runs import NEAREST, even_device, make_session, run_pass, small
from ...tiny import token_ids
from ...zoo import FAMILIES, make_model

__all__ = ["even_device"]

#: Name, type and shape of a tensor.
Told = tuple[str, str, tuple[int, ...]]
ALL = "auto_round,auto_gptq,compressed-tensors,mlx,fake"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "all formats": ("llama", {"output.format": ALL}),
    "experts": ("mixtral", {"output.format": ALL}),
    "awq": ("llama", {"output.format": "auto_awq", "scheme.sym": False}),
    "stored transposed": ("gpt2", {"output.format": "auto_round,fake"}),
    "one scale a row": ("llama", {"scheme.group_size": -1, "scheme.sym": False}),
    "one scale a tensor": ("mixtral", {"scheme.group_size": 0}),
    "another dtype": ("gemma2", {"output.dtype": "float16"}),
    "widths that differ": (
        "llama",
        {"layers": [{"match": "*.down_proj", "bits": 3}, {"kind": "attention", "bits": 16}]},
    ),
    "a head": ("llama", {"layers": [{"match": "lm_head", "bits": 8}]}),
}


def describe(tensors: Iterable[tuple[str, Tensor]]) -> list[Told]:
    return [(name, str(t.dtype), tuple(t.shape)) for name, t in tensors]


@pytest.mark.parametrize(("kind", "values"), CASES.values(), ids=CASES)
def test_what_is_expected_comes(
    kind: str,
    values: dict[str, Any],
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected: dict[ShardWriter, list[Told]] = {}
    came: dict[ShardWriter, list[Told]] = {}
    expect, add = ShardWriter.expect, ShardWriter.add

    def expecting(self: ShardWriter, tensors: Iterable[tuple[str, Tensor]]) -> None:
        made = list(tensors)
        assert all(tensor.device.type == "meta" for _, tensor in made)
        expected[self] = describe(made)
        expect(self, made)

    def adding(self: ShardWriter, tensors: Mapping[str, Tensor]) -> None:
        came.setdefault(self, []).extend(describe(tensors.items()))
        add(self, tensors)

    monkeypatch.setattr(ShardWriter, "expect", expecting)
    monkeypatch.setattr(ShardWriter, "add", adding)
    monkeypatch.setattr("autoround.export.shards.Spool", None)
    recipe = small({**NEAREST, **values})
    out = tmp_path / "out"
    api.quantize(checkpoint(kind), recipe, output_dir=out, data=token_ids(4, 16), device="cpu")
    assert len(came) == len(str(values.get("output.format", "one")).split(","))
    assert expected == came


class Shards:
    """Notes what comes, and writes nothing."""

    def __init__(self) -> None:
        self.came: list[Told] = []

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        self.came += describe(tensors.items())


class NoCheck:
    def add(self, *args: object) -> None:
        """Run nothing."""


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["auto_round", "fake"])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_expected_comes_in_every_family(name: str, format_name: str) -> None:
    session = make_session(make_model(name), {**NEAREST, "output.format": format_name})
    (part,) = session.plan.outputs
    expected = describe(expected_tensors(session, part))
    shards: Any = Shards()
    check: Any = NoCheck()
    writer = SafetensorsWriter(
        shards, session.plan, part=part, skeleton=session.skeleton, check=check
    )
    for output in run_pass(session):
        writer.add(output)
    add_outside_blocks(session.skeleton, [writer])
    assert shards.came == expected
