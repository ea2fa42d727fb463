"""The plan: a recipe resolved against a model, before anything is done."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable

import torch

from autoround.device.protocol import Runtime
from autoround.errors import ModelError, RecipeError
from autoround.formats import registry
from autoround.model.blocks import Matrix, matrices
from autoround.model.skeleton import Skeleton
from autoround.recipe.schema import Recipe
from autoround.types import BlockPlan, LayerPlan, OutputPlan, Plan, Scheme

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}


def needs_data(recipe: Recipe) -> bool:
    """Tell whether a recipe looks at activations: pure round-to-nearest does not."""
    return recipe.tuning.iters > 0 or recipe.tuning.init == "search"


def make_plan(
    recipe: Recipe, skeleton: Skeleton, *, runtime: Runtime, calibration: str, model: str
) -> Plan:
    """Resolve a recipe against a model: every matrix gets a scheme or a reason.

    calibration: what the calibration tokens are, for the reader of the plan.
    model: the name the user knows the model by.

    Raises:
        RecipeError: a pattern of ``ignore`` matches no layer.
        ModelError: no layer is left to quantize, or the group size divides none.
    """
    scheme = recipe.scheme.as_scheme()
    found = {block: matrices(skeleton.model, block) for block in skeleton.blocks}
    outside = _outside(skeleton)
    every = [matrix for block in found.values() for matrix in block]
    _check_patterns(recipe.ignore, [m.name for m in [*every, *outside]])
    _check_group(scheme, every)
    dtype, notes = _kept_dtype(recipe, skeleton)
    outputs = plan_outputs(recipe, dtype)
    packings = [output.packing for output in outputs]
    blocks = tuple(
        BlockPlan(i, name, tuple(_resolve(m, scheme, recipe.ignore, packings) for m in found[name]))
        for i, name in enumerate(skeleton.blocks)
    )
    quantized = [layer for block in blocks for layer in block.quantized]
    if not quantized:
        reasons = sorted({layer.reason for block in blocks for layer in block.layers})
        raise ModelError(
            f"nothing to quantize in {model}: every layer of its blocks is kept "
            f"({'; '.join(reasons)})"
        )
    return Plan(
        model=model,
        architecture=type(skeleton.model).__name__,
        blocks=blocks,
        kept=tuple(
            LayerPlan(m.name, m.shape, None, "outside the decoder blocks", m.transposed, m.bias)
            for m in outside
        ),
        recipe=recipe.to_dict(),
        outputs=outputs,
        dtype=dtype,
        device=str(runtime.device),
        compute_dtype=str(compute_dtype(recipe, runtime)).removeprefix("torch."),
        calibration=calibration,
        tensors=len(skeleton.keys) + len(skeleton.extras),
        notes=(
            *notes,
            *_group_notes(scheme, quantized),
            *registry.notes([layer for block in blocks for layer in block.layers], outputs),
            *_extra_notes(skeleton),
        ),
    )


def plan_outputs(recipe: Recipe, dtype: str) -> tuple[OutputPlan, ...]:
    """Resolve the formats of a recipe.

    dtype: of kept tensors, where a format has no wish of its own.

    Raises:
        FormatError: a format cannot hold the recipe's scheme.
    """
    names = recipe.output.formats
    return tuple(
        registry.plan_output(
            name,
            recipe.scheme.as_scheme(),
            dtype=dtype,
            chosen=recipe.output.dtype != "auto",
            folder=name.replace(":", "-") if len(names) > 1 else "",
        )
        for name in names
    )


def compute_dtype(recipe: Recipe, runtime: Runtime) -> torch.dtype:
    """Return the dtype to run blocks in: the recipe's, or the one measured fastest."""
    if recipe.tuning.compute_dtype == "auto":
        return runtime.speeds()[0].dtype
    return DTYPES[recipe.tuning.compute_dtype]


def _outside(skeleton: Skeleton) -> list[Matrix]:
    prefixes = tuple(block + "." for block in skeleton.blocks)
    return [m for m in matrices(skeleton.model, "") if not m.name.startswith(prefixes)]


def _resolve(
    matrix: Matrix, scheme: Scheme, ignore: Iterable[str], packings: list[str]
) -> LayerPlan:
    reason = matrix.why_kept or next(
        (f"ignored by the recipe ({p!r})" for p in ignore if matches(p, matrix.name)), ""
    )
    reason = reason or registry.why_not(matrix.shape, scheme, packings)
    return LayerPlan(
        matrix.name,
        matrix.shape,
        None if reason else scheme,
        reason,
        matrix.transposed,
        matrix.bias,
    )


def matches(pattern: str, name: str) -> bool:
    """Tell whether a pattern names a layer: whole name, glob, or ``re:`` and a regex.

    A name or glob also matches the end of a path, so ``down_proj`` means every one.
    """
    if pattern.startswith("re:"):
        return re.search(pattern[3:], name) is not None
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, "*." + pattern)


def _check_patterns(patterns: Iterable[str], names: list[str]) -> None:
    errors = []
    for pattern in patterns:
        if not any(matches(pattern, name) for name in names):
            ends = sorted({name.rpartition(".")[2] for name in names})
            close = difflib.get_close_matches(pattern, [*ends, *names], n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            errors.append(f"ignore: {pattern!r} matches no layer of this model{hint}")
    if errors:
        raise RecipeError("\n".join(errors))


def _check_group(scheme: Scheme, every: list[Matrix]) -> None:
    """Refuse a group size that divides the input width of no layer."""
    size = scheme.group_size
    if size <= 0 or not every:
        return
    widths = sorted({m.shape[1] for m in every})
    if any(width % size == 0 for width in widths):
        return
    fitting = [g for g in (256, 128, 64, 32, 16) if all(w % g == 0 for w in widths)]
    shown = ", ".join(map(str, widths[:6])) + (", …" if len(widths) > 6 else "")
    raise ModelError(
        f"group size {size} divides the input width of no layer (widths: {shown}); use "
        f"{' or '.join([*map(str, fitting[:2]), '-1 (one group per channel)'])}"
    )


def _group_notes(scheme: Scheme, layers: list[LayerPlan]) -> list[str]:
    if scheme.group_size <= 0:
        return []
    short = sorted({x.shape[1] for x in layers if x.shape[1] % scheme.group_size})
    if not short:
        return []
    return [
        f"group size {scheme.group_size} does not divide input widths "
        f"{', '.join(map(str, short))}: the last group of such a row is shorter, which "
        "some serving engines refuse"
    ]


def _kept_dtype(recipe: Recipe, skeleton: Skeleton) -> tuple[str, list[str]]:
    """Return the dtype of kept tensors, and what that changes."""
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


def _extra_notes(skeleton: Skeleton) -> list[str]:
    if not skeleton.extras:
        return []
    return [
        f"{len(skeleton.extras)} tensors that the model class does not know, such as "
        f"{skeleton.extras[0]}, are copied unchanged"
    ]
