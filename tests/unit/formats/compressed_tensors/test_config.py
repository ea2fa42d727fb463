"""The config of compressed-tensors: layers of one scheme form a group."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from autoround.formats.compressed_tensors.config import config
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


def test_the_head_of_a_model_of_one_scheme_is_a_target_by_name() -> None:
    # vLLM's head is no Linear: it would be loaded as if it were not quantized.
    plan = plan_of([W4, None, W4], head=W4)
    found = config(plan)
    assert groups(found) == [(["Linear", "lm_head"], 4)]
    assert found["ignore"] == ["model.layers.0.mlp.up_proj"]


@pytest.mark.parametrize("head", [W4, W8])
def test_the_head_of_a_model_with_images_is_a_target_by_the_name_of_vllm_too(head: Scheme) -> None:
    plan = plan_of([W4, W4, W4], head=head)
    (block,) = plan.blocks
    path = "model.language_model.layers.0"
    layers = tuple(
        replace(x, name=x.name.replace("model.layers.0", path), files=(x.name,), block=path)
        for x in block.layers
    )
    found = groups(config(replace(plan, blocks=(replace(block, name=path, layers=layers),))))
    ours = ["lm_head", "language_model.lm_head"]
    (targets,) = (targets for targets, bits in found if "lm_head" in targets)
    assert targets == (["Linear", *ours] if head == W4 else ours)


def test_a_head_that_is_kept_is_no_target() -> None:
    found = config(plan_of([W4, W4, W8]))
    assert not any("lm_head" in target for targets, _ in groups(found) for target in targets)
    assert "lm_head" in found["ignore"]


def test_the_head_of_a_mixed_model_is_in_one_group() -> None:
    found = groups(config(plan_of([W4, W4, W8], head=W8)))
    assert [bits for targets, bits in found if "lm_head" in targets] == [8]
    assert not any("Linear" in targets for targets, _ in found)
