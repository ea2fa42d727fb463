"""The layers of a quantized checkpoint, matched with the model's: which are packed, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from autoround.checkpoints.known_layers import KEPT, MatchedLayers
from autoround.core.dtypes import tensor_headers
from autoround.errors import FormatError, ModelError
from autoround.formats.packed_headers import plain_against_config
from autoround.formats.unpacking import UnpackingSource
from autoround.formats.written import written_layers
from autoround.model.beyond import beyond_notes
from autoround.model.blocks import decoder_blocks, matrices
from autoround.model.build import build_empty
from autoround.model.convert import ConvertedSource
from autoround.model.experts import expert_tensors
from autoround.model.files.source import Headers, WeightSource
from autoround.model.files.stored import HeaderSource
from autoround.model.names import CheckpointNames, files_of
from autoround.model.skeleton import describe_missing, match_names
from autoround.types import LayerPlan

#: Why some layers have no place in the model.
BEYOND = "unknown to the model class, copied as it is"


class _HeadersAlone:
    """Tensors of which there are headers alone."""

    def __init__(self, files: HeaderSource) -> None:
        self._headers = tensor_headers(files.header_names())

    def headers(self) -> Headers:
        """Return shape and dtype of every tensor."""
        return self._headers

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Refuse: nothing is read where layers are matched."""
        raise AssertionError(f"headers alone are here, not {list(names)}")


def match_class(
    folder: Path, files: HeaderSource, quantization: Mapping[str, Any]
) -> MatchedLayers:
    """Match a checkpoint with its model class, which is built for that.

    Args:
        folder: of the checkpoint.
        files: headers of its tensors.
        quantization: the ``quantization_config``.

    Raises:
        ModelError: the class cannot be built.
        FormatError: the files do not fit the config or the class.
    """
    return _match(build_empty(folder), files, quantization)


def match_class_if_built(
    folder: Path, files: HeaderSource, quantization: Mapping[str, Any]
) -> MatchedLayers | None:
    """Do as :func:`match_class`, but return None where the class cannot be built.

    Args:
        folder: of the checkpoint.
        files: headers of its tensors.
        quantization: the ``quantization_config``.

    Raises:
        ModelError, FormatError: the files do not fit the config or the class.
    """
    try:
        built = build_empty(folder)
    except ModelError:
        return None
    return _match(built, files, quantization)


def _match(built: nn.Module, files: HeaderSource, quantization: Mapping[str, Any]) -> MatchedLayers:
    unpacking, layers = match_packed_layers(built, _HeadersAlone(files), quantization)
    return MatchedLayers(
        packed=unpacking.layers,
        layers=layers,
        notes=unpacking.notes,
        architecture=type(built).__name__,
        # Without packed layers nobody asks, and there may be none.
        blocks=decoder_blocks(built) if unpacking.layers else [],
    )


def match_packed_layers(
    model: nn.Module, files: WeightSource, quantization: Mapping[str, Any]
) -> tuple[UnpackingSource, dict[str, list[LayerPlan]]]:
    """Return a checkpoint's packed layers, and all layers of the model as its files have them.

    The layers come by the names of the model's matrices: experts are one of these, and many
    layers. Matrices that the model class leaves out come last, by their own names.

    Raises:
        FormatError: a layer is missing, has another shape than the model's, or is no layer of
            the model.
    """
    unpacking = UnpackingSource(files, quantization)
    unpacking.transposed = (
        ConvertedSource(unpacking, model).transposed_files() & unpacking.layers.keys()
    )
    source = ConvertedSource(unpacking, model)
    layers = _layers(model, unpacking, CheckpointNames(source))
    missing = match_names(model, source)[1]
    if missing:
        raise FormatError(describe_missing(model, source, missing[0]))
    every = written_layers(x for own in layers.values() for x in own)
    plain = (x.name for x in every if x.scheme is None)
    unpacking.notes += plain_against_config(quantization, unpacking.stored, plain)
    known = {x.name for x in every}
    strange = [name for name in unpacking.layers if name not in known]
    unknown = set(source.unknown)
    for name in strange:
        if f"{name}.weight" not in unknown:
            raise FormatError(f"layer {name} is quantized, and is no linear layer of the model")
    unpacking.notes += beyond_notes(model, strange)
    return unpacking, {**layers, **_beyond(source, unpacking, known)}


def _beyond(
    source: ConvertedSource, unpacking: UnpackingSource, known: Collection[str]
) -> dict[str, list[LayerPlan]]:
    """List the matrices of the files that are none of the model's: packed ones, and plain ones.

    Engines that know them take them for quantized by their place unless a config says otherwise.
    """
    further = {}
    for tensor in source.unknown:
        name, (shape, _) = tensor.removesuffix(".weight"), source.headers()[tensor]
        if name == tensor or name in known or len(shape) != 2:
            continue
        stored = unpacking.layers.get(name)
        scheme, reason = (None, BEYOND) if stored is None else (stored.scheme, "")
        further[name] = [LayerPlan(name, (shape[0], shape[1]), scheme, reason)]
    return further


def _layers(
    model: nn.Module, unpacking: UnpackingSource, names: CheckpointNames
) -> dict[str, list[LayerPlan]]:
    stacked = expert_tensors(model)
    found: dict[str, list[LayerPlan]] = {}
    for m in matrices(model, ""):
        files = files_of(names, m, stacked)
        if m.experts:
            whole = LayerPlan(m.name, m.shape, None, KEPT, experts=m.experts, files=files)
            parts = written_layers([whole])
        else:
            parts = [LayerPlan(m.name, m.shape, None, KEPT, m.transposed, m.bias, files=files)]
        found[m.name] = [_held(part, unpacking) for part in parts]
    return found


def _held(layer: LayerPlan, unpacking: UnpackingSource) -> LayerPlan:
    """Give a layer the scheme it is held with."""
    stored = unpacking.layers.get(layer.file)
    if stored is None:
        return layer
    shape = unpacking.headers()[f"{layer.file}.weight"][0]
    shape = shape[::-1] if layer.file in unpacking.transposed else shape
    if shape != layer.shape:
        raise FormatError(
            f"layer {layer.file}: its codes are {shape[0]} x {shape[1]}, the model's weight is "
            f"{layer.shape[0]} x {layer.shape[1]}"
        )
    return dataclasses.replace(layer, scheme=stored.scheme, reason="")
