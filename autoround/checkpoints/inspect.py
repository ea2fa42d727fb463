"""What is in a model folder, from its config and the headers of its files alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoround.checkpoints.known_layers import match_known_class
from autoround.errors import FormatError
from autoround.formats.checkpoints import packed_shape
from autoround.formats.format import PackedLayer
from autoround.formats.packed_headers import PackedHeaders, owned_tensors
from autoround.formats.registry import layout_named, method_of
from autoround.model.files.gate_mark import gate_failure
from autoround.model.files.locate import UNPACKED, read_config, read_quantization
from autoround.model.files.stored import HeaderSource, StoredFiles
from autoround.storage.dtypes import ITEM_BYTES, StoredHeader, StoredHeaders


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
    folder: Path, files: HeaderSource | None = None, *, against_class: bool = True
) -> Inspection:
    """Read what a model folder holds; no weight is read.

    Args:
        folder: the checkpoint.
        files: headers of its tensors; None for those in the folder.
        against_class: whether packed layers are held against the model's class, where that is
            known: takes importing it.

    Raises:
        ModelError, FormatError: the folder is no model, or cannot be understood.
    """
    config = read_config(folder)
    files = StoredFiles(folder) if files is None else files
    headers = dict(files.header_names())
    quantization = read_quantization(folder, config)
    packed: Mapping[str, PackedLayer] = {}
    notes: list[str] = []
    failure = gate_failure(folder)
    if isinstance(quantization, dict):
        packed, notes = _packed_layers(
            folder, files, config, quantization, against_class=against_class
        )
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
    folder: Path,
    files: HeaderSource,
    config: Mapping[str, Any],
    quantization: Mapping[str, Any],
    *,
    against_class: bool,
) -> tuple[Mapping[str, PackedLayer], list[str]]:
    """Return the packed layers, held against the model if that is asked for, and notes."""
    if method_of(quantization) in UNPACKED:
        return {}, []
    if against_class:
        matched = match_known_class(folder, files, config, quantization)
        if matched is None:
            # Not at the top of the module: a class takes ten times as long as all else here.
            from autoround.checkpoints.packed_layers import match_class_if_built

            matched = match_class_if_built(folder, files, quantization)
        if matched is not None:
            return matched.packed, matched.notes
    # Where there is no class, what is in the files can be told.
    packed = PackedHeaders(files.header_names(), quantization)
    return packed.layers, packed.notes


def _size(header: StoredHeader) -> int:
    return math.prod(header[0]) * ITEM_BYTES[header[1]]


def _quantized_parts(packed: Mapping[str, PackedLayer], headers: StoredHeaders) -> list[Part]:
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


def _kept_parts(headers: StoredHeaders) -> list[Part]:
    counts: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for name, header in headers.items():
        what = f"{_role(name, header)}, {header[1]}"
        counts[what] += 1
        weights[what] += math.prod(header[0])
        sizes[what] += _size(header)
    return [Part(what, counts[what], weights[what], sizes[what]) for what in sorted(counts)]


def _role(name: str, header: StoredHeader) -> str:
    """Name what a kept tensor is for, by its name and shape."""
    if any(word in name for word in ("embed", "wte", "wpe")):
        return "embeddings"
    if name.startswith(("lm_head", "output.", "embed_out")):
        return "output head"
    return "other matrices" if len(header[0]) > 1 else "norms and biases"
