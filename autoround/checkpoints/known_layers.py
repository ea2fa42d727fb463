"""The layers of a quantized checkpoint matched with a class that is written down, by headers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from autoround.formats.format import PackedLayer
from autoround.formats.packed_headers import PackedHeaders, plain_against_config
from autoround.model.files.stored import HeaderSource
from autoround.model.known_classes import KnownClass, KnownMatrix, known_class
from autoround.storage.dtypes import StoredHeaders
from autoround.types import LayerPlan

#: Why layers are not quantized here.
KEPT = "kept in the checkpoint"


class MatchedLayers(NamedTuple):
    """A quantized checkpoint held against its model class.

    packed: how each packed layer is held, by its name in the files. layers: all layers as the files
    have them, by the names of the model's matrices. notes: what of the config is not followed, or
    has no place in the class. architecture: name of the class. blocks: paths of its decoder blocks.
    """

    packed: Mapping[str, PackedLayer]
    layers: dict[str, list[LayerPlan]]
    notes: list[str]
    architecture: str
    blocks: list[str]


def match_known_class(
    folder: Path, files: HeaderSource, config: Mapping[str, Any], quantization: Mapping[str, Any]
) -> MatchedLayers | None:
    """Match a checkpoint with its class, where that is written down.

    Args:
        folder: of the checkpoint.
        files: headers of its tensors.
        config: its config.json.
        quantization: its ``quantization_config``.

    Returns:
        None where the class is not written down, a tensor is missing, unknown or of another shape,
        experts are held in several ways, or what is packed is no matrix (embeddings): the class
        itself then tells what that means.

    Raises:
        FormatError: the config cannot be understood, or a layer lacks a tensor.
    """
    known = known_class(config, folder)
    if known is None:
        return None
    stored = files.header_names()
    headers = PackedHeaders(stored, quantization)
    if not _holds_all(known, headers.reads_as) or not _experts_alike(known, headers.reads_as):
        return None
    if not headers.layers.keys() <= {file for m in known.matrices for file in m.files()}:
        return None
    layers = {m.name: _layers_of(m, headers.layers) for m in known.matrices}
    plain = [x.name for group in layers.values() for x in group if x.scheme is None]
    notes = headers.notes + plain_against_config(quantization, stored, plain)
    return MatchedLayers(headers.layers, layers, notes, known.name, list(known.blocks))


def _holds_all(known: KnownClass, reads_as: StoredHeaders) -> bool:
    """Tell whether files hold the tensors of a class, and no others."""
    wanted = known.tensors()
    if any(name not in reads_as and name not in known.tied for name in wanted):
        return False
    return all(wanted.get(name) == shape for name, (shape, _) in reads_as.items())


def _experts_alike(known: KnownClass, reads_as: StoredHeaders) -> bool:
    """Tell whether the matrices that a class stacks are of one dtype, as stacking needs."""
    return all(
        len({reads_as[f"{file}.weight"][1] for file in m.files()}) == 1
        for m in known.matrices
        if m.experts
    )


def _layers_of(m: KnownMatrix, packed: Mapping[str, PackedLayer]) -> list[LayerPlan]:
    """Return a matrix as the files have it."""
    layers = []
    for file in m.files():
        layer = packed.get(file)
        scheme, reason = (None, KEPT) if layer is None else (layer.scheme, "")
        layers.append(LayerPlan(file, m.shape, scheme, reason, bias=m.bias))
    return layers
