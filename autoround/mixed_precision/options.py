"""The options of a bit budget: what a layer may take, by bits or by a block type of GGUF."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from autoround.core.dtypes import DTYPES
from autoround.core.metrics import weight_bits
from autoround.errors import FormatError, RecipeError
from autoround.formats.format import Layout
from autoround.formats.gguf import type_mix
from autoround.formats.registry import format_of
from autoround.formats.written import part_shape
from autoround.planning.estimate import layer_bytes
from autoround.planning.gguf_tensors import tensor_bytes
from autoround.recipe.allocate import parse_option
from autoround.recipe.layers import LayerRule
from autoround.recipe.schema import Recipe
from autoround.types import LayerPlan, OutputPlan, Scheme


class OptionKind(Protocol):
    """How the options of one kind of format are named, what they take, and the rules they make."""

    def scheme_of(self, text: str, base: Scheme) -> Scheme | None:
        """Return the scheme that an option names; None for 16 bit.

        Args:
            text: the option, as the recipe has it.
            base: scheme of the recipe, for what the option leaves open.

        Raises:
            RecipeError: the option is of another kind of format.
            FormatError: the format cannot hold it.
        """

    def why_unfit(self, layer: LayerPlan, option: Scheme) -> str:
        """Return why a layer cannot take an option, or an empty text."""

    def layer_bytes(self, layer: LayerPlan, option: Scheme | None) -> int:
        """Return the bytes of a layer in the files, scales and zero points included."""

    def rule(self, option: Scheme, names: Sequence[str]) -> LayerRule:
        """Return the rule of a recipe that gives layers an option."""


@dataclass(frozen=True, slots=True)
class BitOptions:
    """Options by bits (``W4``), for formats that take the recipe's schemes."""

    output: OutputPlan

    @property
    def _layout(self) -> Layout:
        """The layout that options may need: of several, the last holds every scheme."""
        return format_of(self.output).layouts[-1]

    def scheme_of(self, text: str, base: Scheme) -> Scheme | None:
        """Return the scheme that an option names; None for 16 bit."""
        scheme = parse_option(text, base)
        if isinstance(scheme, str):
            raise _other_kind(text, self.output)
        reason = "" if scheme is None else self._layout.illegal(scheme)
        if reason:
            raise FormatError(
                f"allocate.options: format {self.output.format} has no {text}: {reason}"
            )
        return scheme

    def why_unfit(self, layer: LayerPlan, option: Scheme) -> str:
        """Return why a layer cannot take an option, or an empty text."""
        return self._layout.why_not(part_shape(layer), option)

    def layer_bytes(self, layer: LayerPlan, option: Scheme | None) -> int:
        """Return the bytes of a layer in the files, scales and zero points included."""
        if option is None:
            return math.prod(layer.shape) * DTYPES[self.output.dtype].itemsize
        if self._layout.dense:
            # Written in 16 bit whatever it is: what it would take is what counts.
            return -(-weight_bits(layer.shape, option) // 8)
        return layer_bytes(replace(layer, scheme=option), self._layout.name)

    def rule(self, option: Scheme, names: Sequence[str]) -> LayerRule:
        """Return the rule of a recipe that gives layers an option."""
        return LayerRule(
            match=tuple(names), bits=option.bits, group_size=option.group_size, sym=option.sym
        )


@dataclass(frozen=True, slots=True)
class GgufTypeOptions:
    """Options by block type (``q4_k``), for GGUF files."""

    output: OutputPlan

    def scheme_of(self, text: str, base: Scheme) -> Scheme | None:
        """Return the scheme that an option names; None for 16 bit."""
        parsed = parse_option(text, base)
        if isinstance(parsed, Scheme):
            raise _other_kind(text, self.output)
        return None if parsed is None else type_mix.scheme_of(parsed)

    def why_unfit(self, layer: LayerPlan, option: Scheme) -> str:
        """Return why a layer cannot take an option, or an empty text."""
        kind = type_mix.kind_of(option)
        fits = kind is not None and layer.shape[1] % type_mix.block_of(kind) == 0
        return "" if fits else f"its width {layer.shape[1]} is no multiple of a block"

    def layer_bytes(self, layer: LayerPlan, option: Scheme | None) -> int:
        """Return the bytes of a layer in the files, scales included."""
        if option is None:
            return math.prod(layer.shape) * DTYPES["float16"].itemsize
        return tensor_bytes(layer.shape, _type_of(option))

    def rule(self, option: Scheme, names: Sequence[str]) -> LayerRule:
        """Return the rule of a recipe that gives layers an option."""
        return LayerRule.model_validate({"match": tuple(names), "type": _type_of(option)})


def options_for(output: OutputPlan) -> OptionKind:
    """Return how options are named and what they take in a format."""
    return GgufTypeOptions(output) if format_of(output).gguf_types else BitOptions(output)


def schemes_of(recipe: Recipe, output: OutputPlan) -> tuple[Scheme | None, ...]:
    """Resolve the options of a recipe for a format.

    Raises:
        RecipeError: an option is of another kind of format, or two are the same.
        FormatError: the format cannot hold an option.
    """
    kind, base = options_for(output), recipe.scheme.as_scheme()
    schemes: list[Scheme | None] = []
    for text in recipe.allocate.options:
        scheme = kind.scheme_of(text, base)
        if scheme in schemes:
            raise RecipeError(f"allocate.options: {text} is there twice ({scheme or '16 bit'})")
        schemes.append(scheme)
    return tuple(schemes)


def why_unfit(layer: LayerPlan, option: Scheme | None, output: OutputPlan) -> str:
    """Return why a layer cannot take an option, or an empty text."""
    return "" if option is None else options_for(output).why_unfit(layer, option)


def _type_of(option: Scheme) -> str:
    return type_mix.kind_of(option) or type_mix.F16


def _other_kind(text: str, output: OutputPlan) -> RecipeError:
    return RecipeError(
        f"allocate.options: {text} is no option for {output.format}: GGUF files take "
        "its types (such as q4_0, q4_k), and other formats take W and bits (such as W4)"
    )
