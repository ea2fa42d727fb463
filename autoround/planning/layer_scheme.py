"""One matrix of a model under a recipe: its scheme and its names in files, or why it is kept."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from autoround.errors import RecipeError
from autoround.formats.registry import format_of, why_not
from autoround.formats.written import part_shape
from autoround.model.blocks import Matrix
from autoround.model.names import files_of
from autoround.model.skeleton import Skeleton
from autoround.patterns import PatternError
from autoround.patterns import matches as matches_pattern
from autoround.planning.gguf_tensors import IGNORED
from autoround.types import BlockPlan, LayerPlan, OutputPlan, Scheme


def plan_layer(skeleton: Skeleton, m: Matrix, scheme: Scheme | None, reason: str) -> LayerPlan:
    """Give a matrix its scheme and the names it has in files."""
    return LayerPlan(
        m.name,
        m.shape,
        scheme,
        reason,
        m.transposed,
        m.bias,
        experts=m.experts,
        files=files_of(skeleton.names, m, skeleton.stacked),
        interleaved=m.interleaved,
    )


def plan_block(index: int, name: str, layers: Iterable[LayerPlan]) -> BlockPlan:
    """Put the layers of a decoder block together, each told which block it is in."""
    return BlockPlan(index, name, tuple(replace(layer, block=name) for layer in layers))


_GLOB = re.compile(r"[*?\[]")


class RequestedScheme(NamedTuple):
    """What a recipe asks for a matrix: a scheme, or None and why it is kept in 16 bits."""

    scheme: Scheme | None
    reason: str


def plan_scheme(
    skeleton: Skeleton,
    matrix: Matrix,
    asked: RequestedScheme,
    ignore: Iterable[str],
    outputs: Sequence[OutputPlan],
) -> LayerPlan:
    """Give a matrix its scheme, or the reason why it stays in 16 bit.

    Args:
        skeleton: the model.
        matrix: one of its weights.
        asked: what the recipe asks for it.
        ignore: patterns of layers that the recipe keeps.
        outputs: the formats, all of which must be able to hold it.
    """
    scheme = asked.scheme
    ignored = (f"{IGNORED} ({p!r})" for p in ignore if matches(p, matrix.name))
    reason = next(ignored, "") or matrix.why_kept or asked.reason
    if not reason and matrix.transposed and not matrix.experts:
        refusing = (x.format for x in outputs if not format_of(x).holds_transposed)
        reason = next((f"{x} has no place for weights stored as [in, out]" for x in refusing), "")
    whole = plan_layer(skeleton, matrix, scheme, "")
    if not reason and scheme is not None:
        reason = why_not(part_shape(whole), scheme, [output.packing for output in outputs])
    return replace(whole, scheme=None if reason else scheme, reason=reason)


def matches(pattern: str, name: str) -> bool:
    """Tell whether a pattern names a layer: whole name, glob, or ``re:`` and a regex.

    A name or glob also matches the end of a path, so ``down_proj`` means every one.

    Raises:
        RecipeError: a regular expression takes too long.
    """
    if pattern.startswith("re:"):
        try:
            return matches_pattern(pattern[3:], name, anywhere=True)
        except PatternError as error:
            raise RecipeError(str(error)) from None
    if not _GLOB.search(pattern):
        return name == pattern or name.endswith("." + pattern)
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, "*." + pattern)


def compile_patterns(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return what tells whether any of the patterns names a layer, quickly for many names."""
    patterns = tuple(patterns)
    plain = {p for p in patterns if not p.startswith("re:") and not _GLOB.search(p)}
    others = [p for p in patterns if p not in plain]

    def matched(name: str) -> bool:
        steps = name.split(".")
        if any(".".join(steps[i:]) in plain for i in range(len(steps))):
            return True
        return any(matches(pattern, name) for pattern in others)

    return matched
