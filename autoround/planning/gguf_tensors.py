"""GGUF: which tensor becomes which in the file, and of which type, before anything is done."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoround.errors import FormatError
from autoround.formats.gguf import blocks
from autoround.formats.gguf import type_mix as gguf_mix
from autoround.formats.gguf.file_types import BASES
from autoround.formats.gguf.format import file_type_of
from autoround.gguf import arch
from autoround.gguf.arch import Target
from autoround.gguf.architectures import text_part
from autoround.model.skeleton import Skeleton
from autoround.types import OutputPlan, Scheme

_BLOCK = re.compile(r"^blk\.(\d+)\.")
#: What the reason of a layer that the recipe ignores begins with.
IGNORED = "ignored by the recipe"
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_BYTES = {gguf_mix.F16: 2, gguf_mix.F32: 4}


@dataclass(frozen=True, slots=True)
class GgufLayout:
    """The tensors of a file in their order, each with its type.

    file_type: such as q4_k_m. fallen: tensors that are not of the type the rules wanted,
    because of their width.
    """

    file_type: str
    tensors: tuple[tuple[Target, str], ...]
    fallen: dict[str, str]

    def schemes(self) -> dict[str, Scheme | None]:
        """Return the scheme of every matrix by its name in a plan; None for 16 bits.

        Stacked experts whose halves are of different types have none, and are rounded.
        """
        found: dict[str, set[Scheme | None]] = {}
        for target, kind in self.tensors:
            if len(target.sources) == 1 and len(target.shape) >= 2:
                name = target.sources[0].removesuffix(".weight")
                found.setdefault(name, set()).add(gguf_mix.scheme_of(kind))
        return {name: next(iter(s)) if len(s) == 1 else None for name, s in found.items()}

    def size(self) -> int:
        """Return the bytes of all tensors."""
        return sum(tensor_bytes(target.shape, kind) for target, kind in self.tensors)

    def notes(self, asked: Scheme, *, ruled: bool) -> list[str]:
        """Return what a reader of the plan should know; ruled: whether rules set some types."""
        found = [f"gguf:{self.file_type} sets the scheme of every tensor; {asked} is not used"]
        if ruled:
            found = [f"gguf:{self.file_type} sets the types that no rule does; {asked} is not used"]
        if gguf_mix.scheme_of(BASES[self.file_type]) == asked:
            found = []
        if self.fallen:
            first, kind = next(iter(self.fallen.items()))
            found.append(
                f"gguf:{self.file_type}: {len(self.fallen)} tensors have rows that are no "
                f"multiple of its blocks, and fall back ({first} to {kind.upper()})"
            )
        own = self.schemes()
        rounded = [t.name for t, kind in self.tensors if not _tunable(t, kind, own)]
        if rounded:
            found.append(
                f"gguf:{self.file_type}: rounded by searched scales, not tuned: "
                + ", ".join(rounded[:3])
                + (f" and {len(rounded) - 3} more" if len(rounded) > 3 else "")
            )
        return found


def _tunable(target: Target, kind: str, own: Mapping[str, Scheme | None]) -> bool:
    inside = _BLOCK.match(target.name) is not None and len(target.sources) == 1
    alike = inside and own.get(target.sources[0].removesuffix(".weight")) is not None
    return alike or gguf_mix.scheme_of(kind) is None


def gguf_layout(
    skeleton: Skeleton, output: OutputPlan, *, ignored: Mapping[str, str] | None = None
) -> GgufLayout:
    """Choose name and type of every tensor of a model.

    output: the file type, and the types of modules that the recipe gives another one.
    ignored: modules that stay in 16 bit, by name.

    Raises:
        FormatError: the architecture, or a part of it, has no place in a GGUF file.
    """
    file_type = file_type_of(output)
    config = skeleton.config.to_dict()
    shapes = {name: skeleton.header(name)[0] for name in skeleton.keys}
    targets = arch.targets(config, shapes)
    traits = _traits(config, len(skeleton.blocks), targets)
    kept = {f"{name}.weight" for name in ignored or {}}
    # Experts in one tensor are kept from tuning, but not from rounding unless that is asked.
    kept |= {name for name, why in (ignored or {}).items() if why.startswith(IGNORED)}
    own = {full: kind for name, kind in output.types for full in (name, f"{name}.weight")}
    tensors, fallen = [], {}
    for target in targets:
        layer = _BLOCK.match(target.name)
        number = int(layer[1]) if layer else -1
        kind = gguf_mix.kind_for(
            file_type, target.name, shape=target.shape, layer=number, traits=traits
        )
        wanted = gguf_mix.kind_for(
            file_type, target.name, shape=(*target.shape[:-1], 256), layer=number, traits=traits
        )
        given = _given(target, own)
        if given:
            kind, wanted = gguf_mix.fitted(given, target.shape[-1]), given
        if gguf_mix.scheme_of(kind) is not None and kept.intersection(target.sources):
            kind = wanted = gguf_mix.F16
        if kind != wanted:
            fallen[target.name] = kind
        tensors.append((target, kind))
    return GgufLayout(file_type, tuple(tensors), fallen)


def _given(target: Target, own: Mapping[str, str]) -> str:
    """Return the type that the recipe gives a tensor, or an empty text.

    Raises:
        FormatError: it gives several to matrices that are one tensor in the file.
    """
    found = {own[source] for source in target.sources if source in own}
    if len(found) > 1 or (found and not all(source in own for source in target.sources)):
        raise FormatError(
            f"GGUF: {target.name} is made of {len(target.sources)} matrices, which the rules of "
            f"the recipe give different types ({', '.join(sorted(found))}); give all of them one"
        )
    return next(iter(found), "")


def _traits(config: Mapping[str, Any], layers: int, targets: tuple[Target, ...]) -> gguf_mix.Traits:
    name, config = arch.architecture(config), text_part(config)
    heads = config.get("num_attention_heads") or config.get("n_head") or 1
    return gguf_mix.Traits(
        architecture=name,
        layers=layers,
        sharing=heads // (config.get("num_key_value_heads") or heads),
        experts=next((config[key] for key in _EXPERTS if config.get(key)), 0),
        tied=all(target.name != "output.weight" for target in targets),
    )


def tensor_bytes(shape: tuple[int, ...], kind: str) -> int:
    """Return the bytes of one tensor."""
    if kind in _BYTES:
        return math.prod(shape) * _BYTES[kind]
    return math.prod(shape[:-1]) * blocks.bytes_per_row(kind, shape[-1])
