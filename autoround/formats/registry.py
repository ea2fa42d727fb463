"""The table of formats: ours, and those that other packages bring by entry point.

A package adds formats with an entry point in the group ``autoround.formats`` that names a
:class:`autoround.formats.format.Format`, or a sequence of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

from autoround.errors import FormatError
from autoround.formats.auto_round.format import FORMATS as AUTO_ROUND
from autoround.formats.awq.format import FORMATS as AWQ
from autoround.formats.compressed_tensors.format import FORMATS as COMPRESSED_TENSORS
from autoround.formats.dequantized.format import FORMATS as DEQUANTIZED
from autoround.formats.fitting import layout_bytes
from autoround.formats.format import Format, Layout, Weight
from autoround.formats.gguf.format import FORMATS as GGUF
from autoround.formats.gptq.format import FORMATS as GPTQ
from autoround.formats.mlx.format import FORMATS as MLX
from autoround.types import LayerPlan, OutputPlan, Scheme

#: Entry points of other packages' formats.
GROUP = "autoround.formats"
#: One package a format, one line here; messages list them in this order.
BUILT_IN: tuple[Format, ...] = (
    *AUTO_ROUND,
    *GPTQ,
    *AWQ,
    *COMPRESSED_TENSORS,
    *MLX,
    *DEQUANTIZED,
    *GGUF,
)


def _members(protocol: type) -> tuple[str, ...]:
    """Return the names that a protocol asks for; a base class gives ``register``."""
    names = (*protocol.__annotations__, *vars(protocol))
    return tuple(name for name in names if not name.startswith("_") and name != "register")


_MEMBERS, _LAYOUT_MEMBERS = _members(Format), _members(Layout)


class Registry(NamedTuple):
    """All formats of this installation by name, and why some entry points bring none."""

    formats: dict[str, Format]
    broken: dict[str, str]


@lru_cache(maxsize=1)
def registry() -> Registry:
    """Return the formats of this installation; a package that cannot be loaded brings none.

    Returns:
        Our formats first, then those of entry points in group ``autoround.formats``.
    """
    # Ours first: an entry point can add a format, but not take the place of one.
    formats = {one.name: one for one in BUILT_IN}
    broken: dict[str, str] = {}
    for entry in entry_points(group=GROUP):
        try:
            # All or none: a package whose second format is broken is not half there.
            added = dict(formats)
            for brought in _load(entry):
                _check(brought, added)
                added[brought.name] = brought
            formats = added
        except Exception as error:  # another package may fail in any way, which is not ours to stop
            broken[entry.name] = f"{type(error).__name__}: {error}"
    return Registry(formats, broken)


def _load(entry: EntryPoint) -> Iterator[Format]:
    brought = entry.load()
    yield from brought if isinstance(brought, Sequence) else (brought,)


def _check(brought: Format, known: Mapping[str, Format]) -> None:
    """Refuse what is no format, or takes a name that is taken."""
    missing = [member for member in _MEMBERS if not hasattr(brought, member)]
    if missing:
        raise TypeError(f"it has no {', '.join(missing)}: see autoround.formats.format.Format")
    if brought.name in known:
        raise ValueError(f"a format named {brought.name!r} is there already")
    # Several formats may share a layout, as compressed-tensors and llm_compressor do.
    taken = {layout.name: layout for one in known.values() for layout in one.layouts}
    for layout in brought.layouts:
        missing = [member for member in _LAYOUT_MEMBERS if not hasattr(layout, member)]
        if missing:
            raise TypeError(f"its layout {layout!r} has no {', '.join(missing)}")
        if taken.get(layout.name, layout) is not layout:
            raise ValueError(f"a layout named {layout.name!r} is there already")


def find_format(name: str) -> Format:
    """Return a format by its name.

    Args:
        name: as ``output.format`` has it.

    Raises:
        FormatError: there is none; the message names the nearest one and all that are legal.
    """
    formats, broken = registry()
    if name in formats:
        return formats[name]
    # What a method is called is more often meant than the name that looks most like it.
    close = [key for key, each in formats.items() if each.method and each.method == name]
    close += difflib.get_close_matches(name, formats, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    text = f"{name!r} is no format{hint}; legal: {', '.join(formats)}"
    for entry, reason in broken.items():
        text += f"; the entry point {entry!r} could not be loaded ({reason})"
    raise FormatError(text)


def format_of(output: OutputPlan) -> Format:
    """Return the format of a planned output.

    Args:
        output: as it was planned.

    Raises:
        FormatError: this installation has no format of that name.
    """
    return find_format(output.format)


def layout_named(packing: str) -> Layout:
    """Return a layout by the name that plans and configs have for it.

    Args:
        packing: the name, such as ``auto_round:auto_gptq``.

    Raises:
        FormatError: there is none.
    """
    layouts = _layouts()
    if packing not in layouts:
        raise FormatError(f"no layout is named {packing!r}; legal: {', '.join(layouts)}")
    return layouts[packing]


@lru_cache(maxsize=1)
def _layouts() -> dict[str, Layout]:
    formats = registry().formats.values()
    return {layout.name: layout for one in formats for layout in one.layouts}


@lru_cache(maxsize=4096)
def matrix_bytes(shape: tuple[int, int], scheme: Scheme, packing: str) -> int:
    """Return the bytes of the tensors that a quantized matrix is laid out as.

    Args:
        shape: (out, in).
        scheme: of the matrix.
        packing: name of the layout.

    Raises:
        FormatError, ValueError: there is no such layout, or it cannot hold the matrix.
    """
    return layout_bytes(layout_named(packing), shape, scheme)


@lru_cache(maxsize=1)
def telling_parts() -> frozenset[str]:
    """Return the names of tensors that only packed layers have.

    Returns:
        Parts of all layouts, but for ``weight``, which plain layers have too.
    """
    return frozenset(part for layout in _layouts().values() for part in layout.parts) - {"weight"}


def reading_format(config: Mapping[str, Any]) -> Format:
    """Return the format that reads a ``quantization_config``.

    Args:
        config: of any program.

    Raises:
        FormatError: none does.
    """
    formats = registry().formats.values()
    reader = next((one for one in formats if one.reads(config)), None)
    if reader is None:
        methods = dict.fromkeys(one.method for one in formats if one.method)
        raise FormatError(
            f"quant_method is {config.get('quant_method')!r}; legal: {', '.join(methods)}"
        )
    return reader


def is_readable(config: Mapping[str, Any]) -> bool:
    """Tell whether some format reads a ``quantization_config``.

    Args:
        config: of any program.
    """
    return any(one.reads(config) for one in registry().formats.values())


def method_of(config: Mapping[str, Any]) -> str:
    """Return the name of a quantization config's method; MLX's does not say its own.

    Args:
        config: of any program.

    Returns:
        The method of the format that reads it, or else its ``quant_method``.
    """
    return reading_format(config).method if is_readable(config) else str(config.get("quant_method"))


def plan_output(
    name: str,
    schemes: Mapping[Scheme, str],
    *,
    dtype: str,
    chosen: bool,
    folder: str,
    weights: Collection[Weight] = (),
) -> OutputPlan:
    """Resolve a format for the schemes of a recipe.

    Args:
        name: of the format.
        schemes: each with the words for what asked for it, empty for the recipe's own.
        dtype: of unquantized tensors.
        chosen: whether the user named the dtype.
        folder: of the output, below that of the run.
        weights: that are to be held; empty where they are not known.

    Returns:
        The output with its packing, and the dtype that the format keeps tensors in.

    Raises:
        FormatError: the format cannot hold a scheme, or not all of them in one model.
    """
    one = find_format(name)
    layout = one.layout_for(schemes, weights)
    dtype = one.kept_dtype(dtype, chosen=chosen)
    # GGUF gives each tensor a type of its own, whatever the scheme of the recipe.
    reason = "" if one.gguf_types else one.unfit(layout, schemes)
    if reason:
        fitting = [
            other.name
            for other in registry().formats.values()
            # Of several layouts the last is the one that holds every zero point.
            if other.gguf_types or not other.unfit(other.layouts[-1], schemes)
        ]
        raise FormatError(
            f"format {name} cannot hold {reason}; formats that can: {', '.join(fitting)}"
        )
    return OutputPlan(name, layout.name, dtype, folder)


def why_not(shape: tuple[int, int], scheme: Scheme, packings: Sequence[str]) -> str:
    """Return why one of the layouts cannot hold a weight, or an empty text.

    Args:
        shape: (out, in).
        scheme: of the weight.
        packings: names of the layouts.

    Returns:
        The first reason.

    Raises:
        FormatError: no layout has such a name.
    """
    reasons = (layout_named(packing).why_not(shape, scheme) for packing in packings)
    return next(filter(None, reasons), "")


def lowest_zero(outputs: Sequence[OutputPlan]) -> int:
    """Return the least zero point that all of some outputs can hold.

    Args:
        outputs: one or more.
    """
    return max(layout_named(output.packing).lowest_zero for output in outputs)


def notes(layers: Sequence[LayerPlan], outputs: Sequence[OutputPlan]) -> list[str]:
    """Return what a reader of a plan should know about the formats of its outputs.

    Args:
        layers: all of the plan, unquantized ones too.
        outputs: of the plan.

    Returns:
        A sentence for each note.
    """
    return [note for output in outputs for note in format_of(output).notes(layers, output)]
