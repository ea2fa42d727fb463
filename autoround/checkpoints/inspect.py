"""What is in a model folder, from its config and the headers of its files alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autoround.errors import FormatError, ModelError
from autoround.formats.checkpoints import packed_shape
from autoround.formats.format import PackedLayer
from autoround.formats.registry import layout_named, method_of
from autoround.formats.unpacking import UnpackingSource, owned_tensors
from autoround.model.files.gate_mark import gate_failure
from autoround.model.files.locate import UNPACKED, read_config, read_quantization
from autoround.model.files.source import CheckpointSource, WeightSource

Header = tuple[tuple[int, ...], torch.dtype]


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of content: how many tensors or layers, their weights and their bytes."""

    what: str
    count: int
    weights: int
    size: int

    @property
    def bits_per_weight(self) -> float:
        """Bits on disk for each weight, scales and zero points included."""
        return 8 * self.size / self.weights


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a model folder holds.

    quantized: one part per scheme and packing. kept: one part per dtype and role.
    layers: the scheme of every quantized layer by name. notes: what of its config does not hold or
    is not followed, and which layers its model class leaves out.
    """

    path: str
    architecture: str
    method: str
    quantized: tuple[Part, ...]
    kept: tuple[Part, ...]
    layers: dict[str, str]
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> Part:
        """Everything together."""
        parts = (*self.quantized, *self.kept)
        return Part(
            "total",
            sum(part.count for part in parts),
            sum(part.weights for part in parts),
            sum(part.size for part in parts),
        )


def inspect_folder(
    folder: Path, files: WeightSource | None = None, *, against_class: bool = True
) -> Inspection:
    """Read what a model folder holds; no weight is read.

    Args:
        folder: the checkpoint.
        files: its tensors; None for those in the folder.
        against_class: whether packed layers are held against the model's class, where that is
            known: takes importing it.

    Raises:
        ModelError, FormatError: the folder is no model, or cannot be understood.
    """
    config = read_config(folder)
    files = CheckpointSource(folder) if files is None else files
    headers: dict[str, Header] = dict(files.headers())
    quantization = read_quantization(folder, config)
    packed: dict[str, PackedLayer] = {}
    notes: list[str] = []
    failure = gate_failure(folder)
    if isinstance(quantization, dict):
        packed, notes = _packed_layers(folder, files, quantization, against_class=against_class)
        if not packed and method_of(quantization) not in UNPACKED:
            raise FormatError(f"{folder}: its quantization_config names no layer that is quantized")
    architectures = config.get("architectures") or ["unknown"]
    owned = owned_tensors(packed)
    return Inspection(
        path=str(folder),
        architecture=str(architectures[0]),
        method=method_of(quantization) if isinstance(quantization, dict) else "none",
        quantized=tuple(_quantized_parts(packed, headers)),
        kept=tuple(_kept_parts({n: h for n, h in headers.items() if n not in owned})),
        layers={name: f"{s.scheme}, {s.packing}" for name, s in packed.items()},
        notes=((failure,) if failure else ()) + tuple(notes),
    )


def _packed_layers(
    folder: Path, files: WeightSource, quantization: Mapping[str, Any], *, against_class: bool
) -> tuple[dict[str, PackedLayer], list[str]]:
    """Return the packed layers, held against the model if that is asked for, and notes."""
    if method_of(quantization) in UNPACKED:
        return {}, []
    if not against_class:
        unpacking = UnpackingSource(files, quantization)
        return unpacking.layers, unpacking.notes
    # Not at the top of the module: what matches files with classes takes as long as all else here.
    from autoround.checkpoints.packed_layers import match_packed_layers
    from autoround.model.build import build_empty

    try:
        built = build_empty(folder)
    except ModelError:
        unpacking = UnpackingSource(files, quantization)  # what is in the files can be told
    else:
        unpacking = match_packed_layers(built, files, quantization)[0]
    return unpacking.layers, unpacking.notes


def _size(header: Header) -> int:
    return math.prod(header[0]) * header[1].itemsize


def _quantized_parts(
    packed: Mapping[str, PackedLayer], headers: Mapping[str, Header]
) -> list[Part]:
    counts: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for name, layer in packed.items():
        what = f"{layer.scheme}, packing {layer.packing}"
        tensors = [f"{name}.{part}" for part in layout_named(layer.packing).parts]
        counts[what] += 1
        weights[what] += math.prod(packed_shape(name, layer, headers))
        sizes[what] += sum(_size(headers[tensor]) for tensor in tensors if tensor in headers)
    return [Part(what, counts[what], weights[what], sizes[what]) for what in counts]


def _kept_parts(headers: Mapping[str, Header]) -> list[Part]:
    counts: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for name, header in headers.items():
        what = f"{_role(name, header)}, {str(header[1]).removeprefix('torch.')}"
        counts[what] += 1
        weights[what] += math.prod(header[0])
        sizes[what] += _size(header)
    return [Part(what, counts[what], weights[what], sizes[what]) for what in sorted(counts)]


def _role(name: str, header: Header) -> str:
    """Name what a kept tensor is for, by its name and shape."""
    if any(word in name for word in ("embed", "wte", "wpe")):
        return "embeddings"
    if name.startswith(("lm_head", "output.", "embed_out")):
        return "output head"
    return "other matrices" if len(header[0]) > 1 else "norms and biases"
