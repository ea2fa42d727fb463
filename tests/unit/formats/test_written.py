"""Layers of a plan under the names that files have for them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autoround.formats.written import (
    among_blocks,
    block_lists,
    described,
    is_head,
    part_shape,
    split,
    written_layers,
)
from autoround.types import BlockPlan, LayerPlan, Plan, QuantizedTensor, Scheme

from ...tiny_quantized import make_plan

W4 = Scheme(4, 16, False)
PLAIN = LayerPlan("m.layers.0.q", (8, 32), W4, block="m.layers.0")
RENAMED = replace(PLAIN, name="m.layers.0.gate", files=("m.blocks.0.router",))
STACKED = LayerPlan(
    "m.layers.0.experts.gate_up",
    (2 * 8, 32),
    W4,
    experts=2,
    files=("m.blocks.0.experts.{}.w1", "m.blocks.0.experts.{}.w3"),
    block="m.layers.0",
)


def plan_of(*layers: LayerPlan, kept: tuple[LayerPlan, ...] = ()) -> Plan:
    return replace(make_plan((BlockPlan(0, "m.layers.0", layers),)), kept=kept)


def test_experts_are_written_one_by_one_and_others_under_their_own_name_in_files() -> None:
    found = written_layers([PLAIN, RENAMED, STACKED])
    assert [layer.name for layer in found] == [
        "m.layers.0.q",
        "m.blocks.0.router",
        *(f"m.blocks.0.experts.{expert}.{part}" for expert in (0, 1) for part in ("w1", "w3")),
    ]
    assert {layer.shape for layer in found[2:]} == {(4, 32)}
    assert {layer.scheme for layer in found} == {W4}
    kept = written_layers([replace(STACKED, scheme=None, reason="why")])
    assert {layer.reason for layer in kept} == {"why"}


def test_the_shape_of_a_part_is_that_of_one_expert() -> None:
    assert part_shape(PLAIN) == (8, 32)
    assert part_shape(STACKED) == (4, 32)
    assert part_shape(replace(STACKED, files=STACKED.files[:1])) == (8, 32)


def test_configs_speak_of_a_layer_under_both_of_its_names() -> None:
    head = LayerPlan("lm_head", (8, 32), None, "outside")
    inside, outside = described(plan_of(PLAIN, RENAMED, STACKED, kept=(head,)))
    names = [layer.name for layer in inside]
    assert names[:3] == ["m.layers.0.q", "m.blocks.0.router", "m.layers.0.gate"]
    assert len(names) == 3 + 4
    assert all(not layer.files for layer in inside)
    assert outside == [head]


def test_blocks_are_listed_as_in_files_and_as_in_the_class() -> None:
    assert block_lists(plan_of(PLAIN)) == ["m.layers"]
    renamed = plan_of(RENAMED, PLAIN)
    assert block_lists(renamed) == ["m.blocks", "m.layers"]
    assert among_blocks(renamed, "m.blocks.7.x")
    assert among_blocks(renamed, "m.layers.7.x")
    assert not among_blocks(renamed, "m.layersnorm.x")
    assert not among_blocks(renamed, "m.blocks")


@pytest.mark.parametrize("group", [16, 0])
@pytest.mark.parametrize("interleaved", [False, True])
def test_a_stacked_weight_is_cut_into_its_matrices(group: int, interleaved: bool) -> None:
    layer = replace(STACKED, scheme=Scheme(4, group, False), interleaved=interleaved)
    assert layer.scheme is not None
    rows = torch.arange(16, dtype=torch.uint8)
    groups = (1, 1) if group == 0 else (16, 2)
    scale = torch.arange(groups[0] * groups[1]).reshape(groups).half()
    zero = torch.arange(groups[0] * groups[1]).reshape(groups).byte()
    whole = QuantizedTensor(rows[:, None].expand(16, 32), scale, zero, layer.scheme)
    found = dict(split(layer, whole))
    assert list(found) == [one.name for one in written_layers([layer])]
    for expert in (0, 1):
        for part, name in enumerate(("w1", "w3")):
            own = found[f"m.blocks.0.experts.{expert}.{name}"]
            wanted = range(8 * expert, 8 * expert + 8)
            wanted = wanted[part::2] if interleaved else wanted[4 * part : 4 * part + 4]
            assert own.codes[:, 0].tolist() == list(wanted)
            assert own.scheme == layer.scheme
            if group:
                assert torch.equal(own.scale, scale[list(wanted)])
                assert torch.equal(own.zero, zero[list(wanted)])
            else:
                assert torch.equal(own.scale.expand(4, 1), scale.expand(4, 1))


def test_a_single_weight_is_itself_under_its_name_in_files() -> None:
    ones = torch.ones(8, 2)
    whole = QuantizedTensor(torch.zeros(8, 32).byte(), ones.half(), ones.byte(), W4)
    assert list(split(RENAMED, whole)) == [("m.blocks.0.router", whole)]
    assert list(split(PLAIN, whole)) == [("m.layers.0.q", whole)]


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("lm_head", True),
        ("transformer.output_layer", True),
        ("model.layers.61.shared_head.head", False),
        ("mtp.fc", False),
        ("model.mtp_layers.fc", False),
        ("visual.blocks.0.attn.qkv", False),
    ],
)
def test_a_head_is_told_from_other_layers_outside_the_blocks(name: str, head: bool) -> None:
    assert is_head(name) == head
