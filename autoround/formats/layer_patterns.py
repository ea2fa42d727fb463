"""Regexes by which ``dynamic`` rules name layers, wherever an engine puts the language model.

GPTQModel and vLLM match rules from the start of a layer's name. In a model of text alone all
programs have the names of the files. In a model with towers each has a prefix of its own for the
language model, which vLLM does not apply to rules: there a rule ends as the name does, begins
with anything, and leaves the towers out, whose layers often end alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from autoround.formats.written import among_blocks, block_lists, described, is_head
from autoround.types import LayerPlan, Plan

#: What may stand before a part of a model.
_BEFORE = r"(?:.*\.)?"
#: A module and all in it.
_INSIDE = r"(?:\..*)?$"
#: Last names of output heads.
_HEADS = ("lm_head", "embed_out", "output", "output_layer")


def exactly(name: str) -> str:
    """Return the regex of one name and no other.

    Args:
        name: of a layer.
    """
    return f"^{re.escape(name)}$"


@dataclass(frozen=True)
class LayerPatterns:
    """How the rules of one model name its layers.

    lists: paths of the list of decoder blocks, in the files and in the class. parts: of the model
    outside the decoder blocks, such as a tower or a head, by the first step of their names that
    they do not share with the decoder. towers: those among them that have blocks of their own.
    """

    lists: tuple[str, ...]
    parts: frozenset[str]
    towers: frozenset[str]

    def one(self, name: str, *, with_inside: bool = False) -> str:
        """Return a regex for one layer.

        Args:
            name: in the files, in the class, or of a merged layer.
            with_inside: whether it is a module, and the layers in it are meant, too.
        """
        end = _INSIDE if with_inside else "$"
        if not self.towers:
            return f"^{re.escape(name)}{end}" if with_inside else exactly(name)
        path = next((x for x in self.lists if name.startswith(f"{x}.")), "")
        if not path:
            return f"^{_BEFORE}{re.escape(self.outside(name))}{end}"
        others = "|".join(map(re.escape, sorted(self.parts)))
        ending = path.rpartition(".")[2] + name[len(path) :]
        return rf"^(?!{_BEFORE}(?:{others})\.){_BEFORE}{re.escape(ending)}{end}"

    def whole(self, part: str) -> str:
        """Return a regex for a part outside the decoder blocks and all layers in it.

        Args:
            part: one of ``parts``.
        """
        return f"^{_BEFORE}{re.escape(part)}{_INSIDE}"

    def part(self, name: str) -> str:
        """Return the part that a layer outside the decoder blocks belongs to.

        Args:
            name: of the layer.
        """
        return self.outside(name).partition(".")[0]

    def outside(self, name: str) -> str:
        """Return a name without the steps that it shares with the lists of blocks.

        Args:
            name: of a layer outside the decoder blocks.
        """
        steps = name.split(".")
        shared = {step for path in self.lists for step in path.split(".")}
        while len(steps) > 1 and steps[0] in shared:
            steps = steps[1:]
        return ".".join(steps)


def layer_patterns(plan: Plan) -> LayerPatterns:
    """Return how rules name the layers of a model.

    Args:
        plan: with at least one block.
    """
    lists = LayerPatterns(tuple(block_lists(plan)), frozenset(), frozenset())
    outside = [x.name for x in described(plan)[1] if not among_blocks(plan, x.name)]
    numbered = {lists.part(name) for name in outside if re.search(r"\.\d+(?:\.|$)", name)}
    return LayerPatterns(lists.lists, frozenset(map(lists.part, outside)), frozenset(numbered))


def kept_parts(patterns: LayerPatterns, outside: Iterable[LayerPlan]) -> list[str]:
    """Return the parts outside the decoder blocks that are kept in 16 bit as a whole.

    Args:
        patterns: of the model.
        outside: layers outside the decoder blocks.
    """
    kept: dict[str, bool] = {}
    for layer in outside:
        part = patterns.part(layer.name)
        kept[part] = kept.get(part, True) and layer.scheme is None
    return [part for part, whole in kept.items() if whole]


def quantized_heads(patterns: LayerPatterns, outside: Iterable[LayerPlan]) -> list[str]:
    """Return the names of a quantized output head: the only such layer outside blocks and towers.

    Args:
        patterns: of the model.
        outside: layers outside the decoder blocks.
    """
    quantized = [x.name for x in outside if x.scheme is not None and is_head(x.name)]
    return [name for name in quantized if patterns.part(name) not in patterns.towers]


def has_head_name(name: str) -> bool:
    """Tell whether a layer is called as output heads are.

    Args:
        name: of a layer outside the decoder blocks.
    """
    return name.rpartition(".")[2] in _HEADS
