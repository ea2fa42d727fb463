"""The dtype of tensors that are not quantized, and those that stay in float32 beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from autoround.model.probe.float32 import computed_in_float32
from autoround.model.skeleton import Skeleton
from autoround.recipe.schema import Recipe
from autoround.types import Plan


def kept_dtype(recipe: Recipe, skeleton: Skeleton) -> tuple[str, list[str]]:
    """Return the dtype of kept tensors, and what that changes.

    Args:
        recipe: what the user asked for.
        skeleton: the model.

    Returns:
        The dtype's name, and notes for the plan.
    """
    stored = [skeleton.header(name)[1] for name in skeleton.keys]
    floats = [dtype for dtype in stored if dtype.is_floating_point]
    common = max(dict.fromkeys(floats), key=floats.count)
    name = str(common).removeprefix("torch.")
    if recipe.output.dtype != "auto":
        changed = (
            []
            if recipe.output.dtype == name
            else [f"kept tensors: {name} in the model, written as {recipe.output.dtype} as asked"]
        )
        return recipe.output.dtype, changed
    if common in (torch.float16, torch.bfloat16):
        return name, []
    return "bfloat16", [
        f"kept tensors: {name} in the model, written as bfloat16 (set output.dtype to change)"
    ]


def with_float32(plans: Sequence[Plan], skeleton: Skeleton) -> list[Plan]:
    """Say in the plans of all passes which unquantized tensors stay in float32.

    Args:
        plans: of the passes over the blocks.
        skeleton: the model.
    """
    if not skeleton.wide or plans[0].dtype == "float32":
        return list(plans)
    names = skeleton.wide.difference(*({x.tensor for x in p.layers if x.scheme} for p in plans))
    computed = computed_in_float32(skeleton.model, skeleton.blocks, names)
    written, run = tuple(sorted(names)), tuple(sorted(computed))
    return [replace(p, stored_in_float32=written, computed_in_float32=run) for p in plans]
