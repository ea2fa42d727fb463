"""The config of compressed-tensors: layers of one scheme form a group."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from autoround.formats.compressed_tensors.config import config, notes
from autoround.types import LayerPlan, Scheme

from .._plans import plan_of

W4, W8 = Scheme(4, 32, True), Scheme(8, -1, True)


def stacked(name: str, scheme: Scheme | None) -> LayerPlan:
    block = "model.layers.0"
    files = (f"{block}.mlp.experts.{{}}.{name}",)
    return LayerPlan(
        f"{block}.mlp.experts.{name}", (8, 32), scheme, experts=2, files=files, block=block
    )


def groups(found: dict[str, Any]) -> list[tuple[list[str], int]]:
    return [(g["targets"], g["weights"]["num_bits"]) for g in found["config_groups"].values()]


def test_a_model_of_one_scheme_targets_the_class_and_lists_what_it_keeps() -> None:
    found = config(plan_of([W4, None, W4]))
    assert groups(found) == [(["Linear"], 4)]
    assert found["ignore"] == ["model.layers.0.mlp.up_proj", "lm_head"]


@pytest.mark.parametrize(
    ("scheme", "strategy", "size"),
    [(W4, "group", 32), (W8, "channel", None), (Scheme(8, 0, False), "channel", None)],
)
def test_a_scheme_is_in_the_words_of_the_library(
    scheme: Scheme, strategy: str, size: int | None
) -> None:
    (group,) = config(plan_of([scheme] * 3))["config_groups"].values()
    weights = group["weights"]
    assert (weights["strategy"], weights["group_size"]) == (strategy, size)
    assert (weights["num_bits"], weights["symmetric"]) == (scheme.bits, scheme.sym)
    assert group["input_activations"] is group["output_activations"] is None


def test_every_layer_of_a_mixed_model_is_in_one_group_by_name() -> None:
    plan = plan_of([W4, W8, None], [W8, W4, W4])
    found = groups(config(plan))
    named = {name: bits for targets, bits in found for name in targets}
    assert sum(len(targets) for targets, _ in found) == len(named) == 5
    assert named == {x.name: x.scheme.bits for x in plan.layers if x.scheme is not None}


def test_experts_that_are_alike_are_one_regex_of_a_mixed_model() -> None:
    plan = plan_of([W8, W8, W8])
    block = plan.blocks[0]
    alike = replace(block, layers=(*block.layers, stacked("up", W4), stacked("down", W4)))
    found = groups(config(replace(plan, blocks=(alike,))))
    (target,) = next(targets for targets, bits in found if bits == 4)
    assert re.match(target.removeprefix("re:"), "model.layers.0.mlp.experts.1.up")
    assert not re.match(target.removeprefix("re:"), "model.layers.0.mlp.up_proj")
    mixed = replace(block, layers=(*block.layers, stacked("up", W4), stacked("down", W8)))
    targets = [t for own, _ in groups(config(replace(plan, blocks=(mixed,)))) for t in own]
    assert not any(t.startswith("re:") for t in targets)


def test_what_transformers_does_not_load_is_noted() -> None:
    def layers(*schemes: Scheme) -> list[LayerPlan]:
        return [LayerPlan(f"{i}", (8, 32), scheme) for i, scheme in enumerate(schemes)]

    asym = Scheme(4, 32, False)
    assert notes(layers(W4, W8)) == []
    assert "CompressedTensorsConfig(dequantize=True)" in notes(layers(asym))[0]
    assert "make all symmetric" in notes(layers(asym, W8))[0]
    assert "whose experts have several" in notes([stacked("up", W4), stacked("down", W8)])[0]
