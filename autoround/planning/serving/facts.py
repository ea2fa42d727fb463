"""A plan as serving engines meet it: facts about its layers, as the files have them.

Names are those of the files, experts are told from other layers by them, and layers that engines
merge know of each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autoround.formats.merged_layers import describe_schemes, merged_under
from autoround.formats.schemes import group_key, most_common
from autoround.formats.written import NUMBER, part_shape
from autoround.types import LayerPlan, OutputPlan, Plan, Scheme

#: Widths of 32-bit words, in bits.
_WORD = 32
#: What the hidden width must be a multiple of for Marlin's kernel for experts.
_EXPERT_TILE = 128
#: Last names of experts' projections back to the hidden width.
_DOWN = ("down_proj", "w2")


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One layer as an engine meets it.

    name: in the files, of the first where it is several. scheme: None where it is kept in 16 bit.
    count: matrices in the files. outputs: with those of the layers that it is merged with. stacked:
    whether the class of the model holds it as experts in one tensor; renamed: under another name
    than the files. merged: the name of the layers that it is merged with, and their schemes in
    words, where they differ. of_most: whether its scheme is that of most layers. narrow: whether it
    is of experts in a width that Marlin's kernel for experts does not take. cut_words: whether it
    is merged, and the zero points of its outputs end inside a word.
    """

    name: str
    scheme: Scheme | None
    count: int
    inputs: int
    outputs: int
    experts: bool
    stacked: bool
    renamed: bool
    head: bool
    merged: str
    of_most: bool
    narrow: bool
    cut_words: bool


@dataclass(frozen=True, slots=True)
class FormatFacts:
    """One output of a plan as an engine meets it.

    layers: quantized ones. kept: those of the blocks that are kept in 16 bit. experts: the schemes
    of matrices of experts, None for kept ones. uneven: whether layers are kept, and not the same
    ones in every block. desc_act: whether inputs are reordered, which no plan does.
    several_schemes: whether quantized layers have more than one scheme.
    """

    packing: str
    layers: tuple[LayerFacts, ...]
    kept: tuple[LayerFacts, ...] = ()
    experts: frozenset[Scheme | None] = frozenset()
    uneven: bool = False
    desc_act: bool = False
    several_schemes: bool = False


def format_facts(plan: Plan, output: OutputPlan) -> FormatFacts:
    """Return what engines meet in one output.

    Args:
        plan: of the pass that writes it.
        output: one of that pass.
    """
    merged: dict[str, list[LayerPlan]] = {}
    for layer in plan.layers:
        merged.setdefault(merged_under(_file_name(layer)), []).append(layer)
    inside = [layer for block in plan.blocks for layer in block.layers]
    describer = _Describer(merged, _base(inside) or _base(plan.layers))
    return FormatFacts(
        output.packing,
        layers=tuple(describer.facts(x) for x in plan.layers if x.scheme is not None),
        # Outside the blocks, in towers for one, engines quantize what the files hold quantized.
        kept=tuple(describer.facts(x) for x in inside if x.scheme is None),
        experts=frozenset(x.scheme for x in plan.layers if _is_expert(_file_name(x))),
        uneven=_is_uneven(plan),
        several_schemes=len({layer.scheme for layer in plan.layers if layer.scheme}) > 1,
    )


def _base(layers: Iterable[LayerPlan]) -> Scheme | None:
    """Return the scheme of most layers, as configs have it: experts count one by one."""
    schemes = [x.scheme for x in layers if x.scheme for _ in range(_count(x))]
    return most_common(schemes) if schemes else None


def _is_uneven(plan: Plan) -> bool:
    """Tell whether blocks differ in the layers that are kept."""
    return len({frozenset(x.path for x in block.quantized) for block in plan.blocks}) > 1 and any(
        layer.scheme is None for block in plan.blocks for layer in block.layers
    )


class _Describer:
    """Tells the facts of layers, with what is worked out once for all of a model."""

    def __init__(self, merged: Mapping[str, Sequence[LayerPlan]], base: Scheme | None) -> None:
        self._merged, self._base = merged, base
        self._size = group_key(base) if base else 0
        # Experts of a layer are many, and asked about one by one.
        self._differing = {
            group: f"{group}, {describe_schemes(parts)}" if group else ""
            for group, parts in merged.items()
            if len({part.scheme for part in parts}) > 1
        }

    def facts(self, layer: LayerPlan) -> LayerFacts:
        """Return the facts of a layer."""
        name = _file_name(layer)
        group = merged_under(name)
        experts = _is_expert(name)
        side_by_side = self._merged[group] if group and not experts else [layer]
        rows = part_shape(layer)[0]
        bits = layer.scheme.bits if layer.scheme else 0
        return LayerFacts(
            name=name,
            scheme=layer.scheme,
            count=_count(layer),
            inputs=layer.shape[1],
            outputs=sum(part_shape(part)[0] for part in side_by_side),
            experts=experts,
            stacked=layer.experts > 0,
            renamed=layer.experts > 0 and _module_of(name) != _module_of(layer.name),
            head=not layer.block and not any(map(str.isdigit, layer.name.split("."))),
            merged=self._differing.get(group, ""),
            of_most=layer.scheme == self._base,
            narrow=experts and _is_narrow(name, part_shape(layer), self._size),
            cut_words=bool(group) and rows * bits % _WORD != 0,
        )


def _is_narrow(name: str, shape: tuple[int, int], size: int) -> bool:
    """Tell whether vLLM's Marlin kernel for experts does not take a width.

    Args:
        name: of a matrix of experts.
        shape: (out, in) of it.
        size: weights a scale of most layers, -1 for one scale a row.
    """
    rows, columns = shape
    hidden, inner = (rows, columns) if name.rpartition(".")[2] in _DOWN else (columns, rows)
    return hidden % _EXPERT_TILE != 0 or (size > 0 and inner % size != 0)


def _count(layer: LayerPlan) -> int:
    return layer.experts * layer.parts or 1


def _module_of(name: str) -> str:
    """Return the name of the module that experts are in."""
    return name.partition(".experts.")[0]


def _file_name(layer: LayerPlan) -> str:
    """Return the name of a layer in the files; of stacked experts, that of the first matrix."""
    return layer.file.replace(NUMBER, "0")


def _is_expert(name: str) -> bool:
    return bool(merged_under(name, experts_only=True))
