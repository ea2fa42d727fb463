"""The plan for a GGUF file: its type gives every tensor a type, but those that rules name."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from autoround.formats.gguf import type_mix as gguf_mix
from autoround.gguf.arch import text_names
from autoround.gguf.architectures import architecture_of, text_part
from autoround.gguf.pretokenizers import cutting_notes
from autoround.gguf.rope import rotary
from autoround.gguf.windows import window_plan
from autoround.model.blocks import Matrix
from autoround.model.skeleton import Skeleton
from autoround.planning.gguf_tensors import IGNORED, GgufLayout, gguf_layout
from autoround.planning.layer_rules import Rules, kept_by_rule
from autoround.planning.layer_scheme import matches, plan_block, plan_layer
from autoround.types import BlockPlan, LayerPlan, OutputPlan, RulePlan, Scheme

OUTSIDE = "outside the decoder blocks"
#: A larger file holds no vocabulary.
MAX_TOKENIZER_BYTES = 256 << 20


class PassPlan(NamedTuple):
    """One pass over the blocks, and what it writes."""

    blocks: tuple[BlockPlan, ...]
    kept: tuple[LayerPlan, ...]
    outputs: tuple[OutputPlan, ...]
    notes: tuple[str, ...]
    rules: tuple[RulePlan, ...]


def gguf_pass(
    rules: Rules,
    skeleton: Skeleton,
    found: Mapping[str, list[Matrix]],
    outside: list[Matrix],
    outputs: tuple[OutputPlan, ...],
) -> PassPlan:
    """Resolve a GGUF file type, which has rules of its own for every tensor.

    found: matrices by decoder block. outside: those elsewhere.

    Raises:
        FormatError: the architecture, or a part of it, has no place in a GGUF file.
        RecipeError: a rule for fewer bits comes to nothing.
    """
    every = [m for inside in found.values() for m in inside] + outside
    ignored = {
        m.name: f"{IGNORED} ({pattern!r})"
        for m in every
        for pattern in rules.recipe.ignore
        if matches(pattern, m.name)
    }
    whys = {m.name: ignored.get(m.name) or m.why_kept for m in every}
    kept = {name for name, why in whys.items() if why}
    outputs = (replace(outputs[0], types=_types(rules, skeleton, kept)),)
    layout = gguf_layout(skeleton, outputs[0], ignored=ignored)
    own = layout.schemes()

    def plan(m: Matrix, place: str) -> LayerPlan:
        scheme = None if m.name in kept else own.get(m.name)
        width = f"held in float16: its width {m.shape[1]} is no multiple of 32"
        reason = whys[m.name] or ("" if own.get(m.name) is not None else _asked(rules, m.name))
        reason = reason or ("" if own.get(m.name) is not None else place or width)
        return plan_layer(skeleton, m, scheme, reason)

    blocks = tuple(
        plan_block(i, name, (plan(m, "") for m in inside))
        for i, (name, inside) in enumerate(found.items())
    )
    around = tuple(plan(m, OUTSIDE) for m in outside)
    layers = [layer for block in blocks for layer in block.layers]
    report = rules.report([*layers, *around, *_outer(rules, skeleton, layout, kept)], gguf=True)
    notes = layout.notes(rules.recipe.scheme.as_scheme(), ruled=bool(outputs[0].types))
    return PassPlan(blocks, around, outputs, (*notes, *_computing(skeleton)), report)


def _computing(skeleton: Skeleton) -> list[str]:
    config = skeleton.config.to_dict()
    computing = [*tower_notes(config, skeleton.keys), *computing_notes(config)]
    return [*computing, *tokenizer_notes(skeleton.folder)]


def tokenizer_notes(folder: Path | None) -> list[str]:
    """Say which texts llama.cpp cuts otherwise than a model's tokenizer.

    Args:
        folder: of the model; None for one from Python, whose tokenizer is not known here.
    """
    path = None if folder is None else folder / "tokenizer.json"
    if path is None or not path.is_file() or path.stat().st_size > MAX_TOKENIZER_BYTES:
        return []
    try:
        return cutting_notes(json.loads(path.read_bytes()))
    except (ValueError, RecursionError, AttributeError, TypeError):
        return []  # what is wrong with it is said where it is opened to be written


def tower_notes(config: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Say what of a model for more than text the file does not hold.

    Args:
        config: of the model, as transformers writes it.
        names: its tensors.
    """
    names = list(names)
    text = text_names(config, names)
    parts = sorted({".".join(name.split(".")[:2]) for name in names if name not in text})
    if not parts:
        return []
    return [
        f"the file holds the text model only: {len(names) - len(text)} tensors of "
        f"{', '.join(parts)} are left out, and no mmproj file is written for them"
    ]


def computing_notes(config: Mapping[str, Any]) -> list[str]:
    """Say where llama.cpp computes another attention than the model.

    Args:
        config: of the model, as transformers writes it.
    """
    architecture, config = architecture_of(config), text_part(config)
    rope = [] if architecture.name == "gpt2" else rotary(config, architecture).notes
    return [*window_plan(config, architecture).notes, *rope]


def _asked(rules: Rules, name: str) -> str:
    """Return why a rule keeps a layer in 16 bits, or an empty text."""
    index = rules.gguf(name)
    if index is None or rules.recipe.layers[index].gguf_type != gguf_mix.F16:
        return ""
    return kept_by_rule(index, rules.recipe.layers[index])


def _types(rules: Rules, skeleton: Skeleton, kept: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Return the types that rules give modules."""
    deciding: dict[str, int] = {}
    for name in rules.names:
        index, stored = rules.gguf(name), _stored(skeleton, name)
        if index is not None and name not in kept:
            # Two names may be of one tensor: the last rule decides there, too.
            deciding[stored] = max(index, deciding.get(stored, 0))
    return tuple((name, rules.recipe.layers[i].gguf_type) for name, i in deciding.items())


def _stored(skeleton: Skeleton, name: str) -> str:
    """Return the module whose weight a module's weight is stored as: a tied head's is another."""
    tied = skeleton.tied.get(f"{name}.weight", "").removesuffix(".weight")
    return tied if f"{tied}.weight" in skeleton.keys else name


def _outer(
    rules: Rules, skeleton: Skeleton, layout: GgufLayout, kept: Collection[str]
) -> list[LayerPlan]:
    """Return the head and the embeddings as the file holds them, for what is said of rules."""
    kinds = {
        source: (kind, target.shape) for target, kind in layout.tensors for source in target.sources
    }
    found = []
    for name in rules.outer:
        held = kinds.get(f"{_stored(skeleton, name)}.weight")
        if held is not None and name not in kept:
            kind, shape = held
            scheme: Scheme | None = gguf_mix.scheme_of(kind)
            rows = (math.prod(shape[:-1]), shape[-1])
            found.append(LayerPlan(name, rows, scheme, "" if scheme else OUTSIDE))
    return found
