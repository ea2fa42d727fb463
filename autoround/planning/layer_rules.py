"""The rules of a recipe against a model: which one decides each layer, and what it asks for.

The last rule that fits a layer decides about it, all of it: what it leaves to ``auto`` is the
scheme's, not an earlier rule's.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from autoround.errors import RecipeError
from autoround.formats.registry import find_format
from autoround.model.blocks import Matrix, embeddings_path, head_path, vision_blocks
from autoround.model.layer_roles import EMBEDDINGS, HEAD, roles_of
from autoround.model.skeleton import Skeleton
from autoround.planning.layer_scheme import RequestedScheme, compile_patterns, matches
from autoround.recipe.layers import ANY, LayerRule
from autoround.recipe.ranges import ALL, chosen
from autoround.recipe.schema import Recipe
from autoround.types import LayerPlan, RulePlan, Scheme

#: Kinds of what lies outside the blocks, which only their kind or their full name means.
OUTER = frozenset((HEAD, EMBEDDINGS))


class Subject(NamedTuple):
    """A layer as rules see it; block is -1 outside the decoder blocks."""

    name: str
    kinds: frozenset[str]
    block: int


@dataclass(frozen=True)
class Rules:
    """The rules of a recipe, and the names of the layers that each of them fits.

    names: all that rules may speak of. outer: the head and the embeddings among them.
    """

    recipe: Recipe
    hits: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    outer: tuple[str, ...]

    def plain(self, name: str) -> int | None:
        """Return which rule decides a layer's scheme, by its place in the list."""
        return self._last(name, lambda rule: rule.plain)

    def gguf(self, name: str) -> int | None:
        """Return which rule decides a layer's type in GGUF files."""
        return self._last(name, lambda rule: bool(rule.gguf_type))

    def _last(self, name: str, speaks: Callable[[LayerRule], bool]) -> int | None:
        fitting = self._fitting.get(name, ())
        return max((i for i in fitting if speaks(self.recipe.layers[i])), default=None)

    @cached_property
    def _fitting(self) -> dict[str, list[int]]:
        """The rules that fit each layer."""
        found: dict[str, list[int]] = {}
        for index, names in enumerate(self.hits):
            for name in names:
                found.setdefault(name, []).append(index)
        return found

    def asked(self, name: str, otherwise: Scheme | None) -> RequestedScheme:
        """Return what the recipe asks for a layer: by a rule, or else ``otherwise``."""
        index = self.plain(name)
        if index is None:
            return RequestedScheme(otherwise, "")
        rule = self.recipe.layers[index]
        scheme = rule.as_scheme(self.recipe.scheme)
        return RequestedScheme(scheme, "" if scheme is not None else kept_by_rule(index, rule))

    def place(self, index: int) -> str:
        """Name a rule and where it stands, for messages."""
        origin = self.recipe.layers[index].origin
        return f"layers[{index}]" + (f" ({origin})" if origin else "")

    def where(self, names: Iterable[str]) -> dict[Scheme, str]:
        """Return the schemes that the recipe asks for some layers, and which rule first does."""
        base = self.recipe.scheme.as_scheme()
        found: dict[Scheme, str] = {}
        for name in names:
            scheme, index = self.asked(name, base).scheme, self.plain(name)
            if scheme is not None:
                found.setdefault(scheme, "" if index is None else self.place(index))
        return found

    def report(self, layers: Sequence[LayerPlan], *, gguf: bool) -> tuple[RulePlan, ...]:
        """Say what every rule did to the layers of a plan.

        Raises:
            RecipeError: a rule asks for fewer bits where none of its layers can have them.
        """
        planned = {layer.name: layer for layer in layers}
        owner = self.gguf if gguf else self.plain
        found, errors = [], []
        for index, (rule, names) in enumerate(zip(self.recipe.layers, self.hits, strict=True)):
            if not (rule.gguf_type if gguf else rule.plain):
                continue
            inside = [n for n in names if n in planned]
            own = [planned[n] for n in inside if owner(n) == index]
            held = [str(x.scheme) if x.scheme is not None else "16 bit" for x in own]
            reasons = {x.reason for x in own if x.scheme is None}
            wanted = rule.gguf_type not in ("", "f16") if gguf else rule.bits != 16
            if own and wanted and all(x.scheme is None for x in own):
                errors.append(
                    f"{self._begin(index)}: all layers of this rule stay in 16 bit: "
                    f"{'; '.join(sorted(reasons))}"
                )
            weights = sum(math.prod(x.shape) for x in own)
            schemes = tuple((each, held.count(each)) for each in dict.fromkeys(held))
            if inside:
                found.append(RulePlan(index, str(rule), len(inside), len(own), weights, schemes))
        if errors:
            raise RecipeError("\n".join(errors))
        return tuple(found)

    def _begin(self, index: int) -> str:
        return error_prefix(self.recipe.layers[index], index)


def error_prefix(rule: LayerRule, index: int) -> str:
    """Begin a message about a rule as those about other mistakes in recipes begin."""
    return f"{rule.origin}: layers[{index}]" if rule.origin else f"layers[{index}]"


#: What reasons begin with that a rule of the recipe gives.
BY_RULE = "16 bits by"


def kept_by_rule(index: int, rule: LayerRule) -> str:
    """Say that a rule keeps a layer in 16 bits."""
    return f"{BY_RULE} layers[{index}] of the recipe ({rule})"


def apply_rules(
    recipe: Recipe, skeleton: Skeleton, found: Mapping[str, list[Matrix]], outside: list[Matrix]
) -> Rules:
    """Find which layers each rule fits.

    found: matrices by decoder block. outside: those elsewhere.

    Raises:
        RecipeError: a rule fits no layer, or says nothing to the formats asked for; two
            places of the recipe say different things about the head.
    """
    subjects = _subjects(recipe, skeleton, found, outside) if recipe.layers else []
    every = [m.name for own in found.values() for m in own] + [m.name for m in outside]
    every += filter(None, [embeddings_path(skeleton.model)])
    hits, errors = [], []
    for index, rule in enumerate(recipe.layers):
        named = compile_patterns(rule.patterns)
        fitting = [s for s in subjects if fits(rule, s, len(found), named)]
        reason = _useless(rule, recipe) or _missed(rule, fitting, every, len(found))
        if reason:
            errors.append(f"{error_prefix(rule, index)}: {reason}")
        hits.append(tuple(s.name for s in fitting))
    if errors:
        raise RecipeError("\n".join(errors))
    names = tuple(s.name for s in subjects)
    outer = tuple(s.name for s in subjects if s.kinds & OUTER)
    rules = Rules(recipe, tuple(hits), names, outer)
    _check_head(rules, head_path(skeleton.model))
    return rules


def _subjects(
    recipe: Recipe, skeleton: Skeleton, found: Mapping[str, list[Matrix]], outside: list[Matrix]
) -> list[Subject]:
    """List what rules may speak of: blocks, the head, towers if asked for, embeddings."""
    head = head_path(skeleton.model)
    towers = tuple(path + "." for path in vision_blocks(skeleton.model, skeleton.blocks))
    subjects = [
        Subject(m.name, roles_of(skeleton.model, m, block), number)
        for number, (block, own) in enumerate(found.items())
        for m in own
    ]
    for m in outside:
        if m.name == head or (recipe.quantize_vision and m.name.startswith(towers)):
            kinds = frozenset((HEAD,)) if m.name == head else frozenset[str]()
            subjects.append(Subject(m.name, kinds, -1))
    tokens = embeddings_path(skeleton.model)
    if f"{tokens}.weight" in skeleton.keys:
        subjects.append(Subject(tokens, frozenset((EMBEDDINGS,)), -1))
    return subjects


def fits(rule: LayerRule, subject: Subject, blocks: int, named: Callable[[str], bool]) -> bool:
    """Tell whether a rule is about a layer.

    named: whether one of the rule's patterns names a layer.
    The head and the embeddings are meant only where they are called by their kind or their
    full name: a glob for many layers does not mean them.
    """
    if EMBEDDINGS in subject.kinds and not rule.gguf_type:
        return False
    if subject.kinds & OUTER and rule.kind == ANY:
        return rule.blocks == ALL and subject.name in rule.patterns
    if rule.patterns and not named(subject.name):
        return False
    if rule.kind != ANY and rule.kind not in subject.kinds:
        return False
    return rule.blocks == ALL or subject.block in chosen(rule.forms, blocks)


def _useless(rule: LayerRule, recipe: Recipe) -> str:
    """Return why none of the formats asked for takes a rule's word, or an empty text."""
    gguf = [find_format(name).gguf_types for name in recipe.output.formats]
    if all(gguf) and not rule.gguf_type:
        return (
            f"{recipe.output.format} takes types, not bits: set type, such as "
            f"type: {_TYPES.get(rule.bits, 'q4_k')}"
        )
    if not any(gguf) and not rule.plain:
        return f"type is for GGUF files, and {recipe.output.format} is none: set bits"
    return ""


_TYPES: dict[object, str] = {2: "q2_k", 3: "q3_k", 4: "q4_k", 5: "q5_k", 6: "q6_k", 8: "q8_0"}


def _missed(rule: LayerRule, fitting: list[Subject], every: list[str], blocks: int) -> str:
    """Return what of a rule fits no layer of a model, or an empty text."""
    for pattern in rule.patterns:
        if any(matches(pattern, s.name) for s in fitting):
            continue
        limits = [f"kind {rule.kind}"] if rule.kind != ANY else []
        limits += [f"blocks {', '.join(map(str, rule.forms))}"] if rule.blocks != ALL else []
        if not any(matches(pattern, name) for name in every):
            return f"{pattern!r} matches no layer of this model{closest_name_hint(pattern, every)}"
        if limits:
            return f"{pattern!r} matches no layer of {' and '.join(limits)}; {blocks} blocks"
        return (
            f"{pattern!r} matches only layers outside the decoder blocks, which stay in 16 bit; "
            "the head is meant by its full name or kind: lm_head, embeddings by theirs and type "
            "for GGUF, towers need quantize_vision: true"
        )
    if fitting:
        return ""
    if rule.blocks != ALL and not chosen(rule.forms, blocks):
        forms = ", ".join(map(str, rule.forms))
        return f"blocks {forms} are none of this model, which has blocks 0 to {blocks - 1}"
    return f"no layer of this model is of kind {rule.kind}; name layers by match"


def closest_name_hint(pattern: str, names: Sequence[str]) -> str:
    """Return a hint at the name that is closest to a pattern."""
    ends = sorted({name.rpartition(".")[2] for name in names})
    close = difflib.get_close_matches(pattern, [*ends, *names], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _check_head(rules: Rules, head: str) -> None:
    """Refuse a rule and a section that say different things about the head."""
    recipe, index = rules.recipe, rules.plain(head)
    section = recipe.lm_head.as_scheme(recipe.scheme)
    if index is None or section is None:
        return
    ruled = recipe.layers[index].as_scheme(recipe.scheme)
    if ruled != section:
        raise RecipeError(
            f"{error_prefix(recipe.layers[index], index)}: it makes the output head "
            f"{ruled or '16 bit'}, and the section lm_head makes it {section}; remove one of them"
        )
