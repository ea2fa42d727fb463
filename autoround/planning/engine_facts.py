"""A plan as serving engines meet it: facts about its quantized layers, as the files have them.

Names are those of the files, experts are told from other layers by them, and layers that engines
merge know of each other. What the config says is read from the config that is going to be written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoround.formats.layer_patterns import exactly
from autoround.formats.merged_layers import describe_schemes, engine_name, merged_under
from autoround.formats.registry import format_of
from autoround.formats.schemes import most_common
from autoround.formats.written import NUMBER, part_shape
from autoround.types import LayerPlan, OutputPlan, Plan, Scheme


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One quantized layer as an engine meets it.

    name: in the files, of the first where it is several. count: matrices in the files. outputs:
    with those of the layers that it is merged with. merged: the name of these and their schemes
    in words, where they differ. unnamed: whether its scheme is not the most common one, and no
    rule of the config fits what it is merged into. untargeted: whether the config has groups of
    targets, and none of them names it.
    """

    name: str
    scheme: Scheme
    count: int
    inputs: int
    outputs: int
    experts: bool
    head: bool
    merged: str
    unnamed: bool
    untargeted: bool


@dataclass(frozen=True, slots=True)
class FormatFacts:
    """One output of a plan as an engine meets it.

    config: its ``quantization_config``. experts: the schemes of matrices of experts, None for kept
    ones. kept_unnamed: kept layers that engines merge, where nothing in the config keeps what they
    make of them. desc_act: whether inputs are reordered, which no plan does.
    """

    packing: str
    dtype: str
    config: Mapping[str, Any]
    layers: tuple[LayerFacts, ...]
    experts: frozenset[Scheme | None] = frozenset()
    kept_unnamed: tuple[str, ...] = ()
    desc_act: bool = False

    @property
    def schemes(self) -> set[Scheme]:
        """The schemes of all quantized layers."""
        return {layer.scheme for layer in self.layers}


def format_facts(plan: Plan, output: OutputPlan) -> FormatFacts:
    """Return what engines meet in one output.

    Args:
        plan: of the pass that writes it.
        output: one of that pass.
    """
    config = format_of(output).config(plan, output)
    merged: dict[str, list[LayerPlan]] = {}
    for layer in plan.layers:
        merged.setdefault(merged_under(_file_name(layer)), []).append(layer)
    experts = frozenset(x.scheme for x in plan.layers if _is_expert(_file_name(x)))
    schemes = [x.scheme for x in plan.layers if x.scheme is not None]
    describer = _Describer(merged, most_common(schemes), config)
    layers = tuple(describer.facts(x, x.scheme) for x in plan.layers if x.scheme is not None)
    # Outside the blocks, in towers for one, engines quantize what the files hold quantized.
    inside = (layer for block in plan.blocks for layer in block.layers)
    kept = (_file_name(x) for x in inside if x.scheme is None)
    unnamed = tuple(name for name in kept if not describer.keeps(name))
    return FormatFacts(output.packing, output.dtype, config, layers, experts, unnamed)


class _Describer:
    """Tells the facts of layers, with what is worked out once for all of a model."""

    def __init__(
        self, merged: Mapping[str, Sequence[LayerPlan]], base: Scheme, config: Mapping[str, Any]
    ) -> None:
        self._merged, self._base = merged, base
        dynamic = [str(rule) for rule in config.get("dynamic") or ()]
        # GPTQModel's ``-:`` leaves a layer as it is: such a rule gives no scheme.
        self._rules = MatchedNames(rule.removeprefix("+:") for rule in dynamic if rule[:2] != "-:")
        self._keeping = MatchedNames(rule[2:] for rule in dynamic if rule[:2] == "-:")
        self._parts = tuple(config.get("modules_to_not_convert") or ())
        groups = config.get("config_groups") or {}
        targets = [str(target) for group in groups.values() for target in group["targets"]]
        self._has_targets = bool(targets)
        # compared as expressions, too, so that names and expressions are looked for in one way
        self._targets = MatchedNames(
            target[3:] if target.startswith("re:") else exactly(target) for target in targets
        )
        # Experts of a layer are many, and asked about one by one.
        self._differing = {
            group: f"{group}, {describe_schemes(parts)}" if group else ""
            for group, parts in merged.items()
            if len({part.scheme for part in parts}) > 1
        }

    def facts(self, layer: LayerPlan, scheme: Scheme) -> LayerFacts:
        """Return the facts of a layer with a scheme."""
        name = _file_name(layer)
        group = merged_under(name)
        side_by_side = self._merged[group] if group and not _is_expert(name) else [layer]
        return LayerFacts(
            name=name,
            scheme=scheme,
            count=layer.experts * layer.parts or 1,
            inputs=layer.shape[1],
            outputs=sum(part_shape(part)[0] for part in side_by_side),
            experts=_is_expert(name),
            head=not layer.block and not any(map(str.isdigit, layer.name.split("."))),
            merged=self._differing.get(group, ""),
            unnamed=bool(group) and scheme != self._base and engine_name(name) not in self._rules,
            untargeted=self._has_targets and name not in self._targets,
        )

    def keeps(self, name: str) -> bool:
        """Tell whether the config keeps what engines make of a kept layer, or it is not merged.

        Args:
            name: of the layer in the files.
        """
        merged = engine_name(name)
        return (
            merged == name
            or merged in self._keeping
            # AWQ's engines look for these as parts of a name.
            or any(part in merged for part in self._parts)
        )


class MatchedNames:
    """The names that some regular expressions match from their start.

    Args:
        expressions: such as :func:`exactly` makes, of which there may be one a layer, and others.
    """

    def __init__(self, expressions: Iterable[str]) -> None:
        self._exact: set[str] = set()
        self._patterns: list[re.Pattern[str]] = []
        for expression in expressions:
            literal = expression[1:-1].replace("\\", "")
            if expression == exactly(literal):
                self._exact.add(literal)
            else:
                self._patterns.append(re.compile(expression))

    def __contains__(self, name: str) -> bool:
        return name in self._exact or any(pattern.match(name) for pattern in self._patterns)


def _file_name(layer: LayerPlan) -> str:
    """Return the name of a layer in the files; of stacked experts, that of the first matrix."""
    return layer.file.replace(NUMBER, "0")


def _is_expert(name: str) -> bool:
    return bool(merged_under(name, experts_only=True))
