"""The dtype of tensors that are not quantized, and those that stay in float32 beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from autoround.formats.registry import format_of
from autoround.model.probe.float32 import computed_in_float32
from autoround.model.skeleton import Skeleton
from autoround.recipe.schema import Recipe
from autoround.types import OutputPlan, Plan


def kept_dtype(recipe: Recipe, skeleton: Skeleton) -> str:
    """Return the dtype of kept tensors, where a format has no wish of its own.

    Args:
        recipe: what the user asked for.
        skeleton: the model.
    """
    if recipe.output.dtype != "auto":
        return recipe.output.dtype
    stored = stored_dtype(skeleton)
    return stored if stored in ("float16", "bfloat16") else "bfloat16"


def dtype_of_run(dtype: str, skeleton: Skeleton, outputs: Iterable[OutputPlan]) -> str:
    """Return the dtype that a run gives kept tensors before any format does.

    A model of wider tensors is not brought to one 16-bit dtype on the way to another.

    Args:
        dtype: of kept tensors, where a format has no wish of its own.
        skeleton: the model.
        outputs: the formats with the dtype that each is written in.
    """
    if stored_dtype(skeleton) in ("float16", "bfloat16"):
        return dtype
    written = {output.dtype for output in outputs}
    return written.pop() if len(written) == 1 else "float32"


def stored_dtype(skeleton: Skeleton) -> str:
    """Return the dtype of most of a model's tensors.

    Args:
        skeleton: the model.
    """
    stored = [skeleton.header(name)[1] for name in skeleton.keys]
    floats = [dtype for dtype in stored if dtype.is_floating_point]
    return str(max(dict.fromkeys(floats), key=floats.count)).removeprefix("torch.")


def dtype_notes(recipe: Recipe, skeleton: Skeleton, outputs: Iterable[OutputPlan]) -> list[str]:
    """Say in which formats kept tensors get another dtype than the model has.

    Args:
        recipe: what the user asked for.
        skeleton: the model.
        outputs: the formats with the dtype that each is written in.
    """
    stored = stored_dtype(skeleton)
    why = " (set output.dtype to change)" if recipe.output.dtype == "auto" else " as asked"
    formats: dict[str, list[str]] = {}
    for output in outputs:
        # A file of types of its own says of each tensor what it is held in.
        if output.dtype != stored and not format_of(output).gguf_types:
            formats.setdefault(output.dtype, []).append(output.format)
    return [
        f"{', '.join(names)}: kept tensors are {stored} in the model, written as {dtype}{why}"
        for dtype, names in formats.items()
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
