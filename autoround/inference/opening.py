"""A quantized checkpoint matched with its model class: which layer is packed under which name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from autoround.errors import FormatError
from autoround.formats.format import PackedLayer
from autoround.formats.packed_headers import plain_against_config
from autoround.formats.registry import layout_named
from autoround.formats.unpacking import UnpackingSource
from autoround.model.beyond import beyond_notes
from autoround.model.blocks import is_matrix
from autoround.model.convert import ConvertedSource
from autoround.model.experts import ExpertTensor, expert_tensors
from autoround.model.files.source import CheckpointSource, WeightSource
from autoround.model.names import NUMBER, CheckpointNames, expert_files
from autoround.model.skeleton import describe_missing, match_names


class Packed(NamedTuple):
    """A packed layer: its name in the files, and how it is held."""

    file: str
    stored: PackedLayer


class Opened(NamedTuple):
    """A quantized checkpoint as its model sees it.

    linears: packed layers by the paths of the model's modules. experts: the matrices of each
    packed stacked weight, by its name and then by (part, expert). keys: the model's other
    tensors and their names in ``tensors``. layers: all packed layers by their names in the files.
    notes: what of its config is not followed, and which of its layers the model does not have.
    """

    files: WeightSource
    tensors: ConvertedSource
    linears: dict[str, Packed]
    experts: dict[str, dict[tuple[int, int], Packed]]
    stacked: dict[str, ExpertTensor]
    keys: dict[str, str]
    layers: Mapping[str, PackedLayer]
    notes: tuple[str, ...] = ()

    def parts_of_others(self) -> dict[str, str]:
        """Return the files' tensors that do not become one of the model's as they stand.

        Returns:
            The first tensor of the model that each is a part of, by its name in the files; not
            those of packed experts, which stay as they are.
        """
        headers = self.files.headers()
        becomes = {}
        for name, keys in self.tensors.conversions().items():
            if name not in self.experts:
                becomes.update(dict.fromkeys(keys, name))
        packed = {f"{name}.weight": name for name in self.layers}
        for key in [key for key in becomes if key in packed]:
            name = becomes.pop(key)
            parts = layout_named(self.layers[packed[key]].packing).parts
            tensors = (f"{packed[key]}.{part}" for part in parts)
            becomes.update({tensor: name for tensor in tensors if tensor in headers})
        return becomes


def open_packed(
    folder: Path,
    model: nn.Module,
    quantization: Mapping[str, Any],
    *,
    files: WeightSource | None = None,
    tied: Mapping[str, str] | None = None,
    optional: Collection[str] = (),
) -> Opened:
    """Match a checkpoint with the empty modules of its model; no weight is read.

    Args:
        folder: the checkpoint.
        model: its modules, on meta.
        quantization: what its config says of how it is quantized.
        files: its tensors; None for those in the folder.
        tied: names of parameters that will be another one, by the name of that one; None where
            the model's are tied already.
        optional: the model's names of tensors that the files may lack.

    Raises:
        FormatError: they do not fit, with the layer or tensor and what is wrong.
    """
    files = CheckpointSource(folder) if files is None else files
    unpacking = UnpackingSource(files, quantization)
    if not unpacking.layers:
        raise FormatError("the quantization_config names no layer of this model")
    tensors = ConvertedSource(unpacking, model)
    unpacking.transposed = tensors.transposed_files() & unpacking.layers.keys()
    if unpacking.transposed:
        tensors = ConvertedSource(unpacking, model)
    keys, lacking = match_names(model, tensors, tied=tied)
    missing = [name for name in lacking if name not in optional]
    if missing:
        raise FormatError(f"{folder}: {describe_missing(model, tensors, missing[0])}")
    stacked = expert_tensors(model)
    names = CheckpointNames(tensors)
    linears, experts = {}, {}
    matrices = {n for n, m in model.named_modules() if is_matrix(m)}
    for name, key in keys.items():
        origin = tensors.origin(key)
        if name in stacked:
            found = _matrices(expert_files(names, stacked[name]), stacked[name], unpacking)
            if found:
                experts[name] = found
        elif origin is not None and origin.rule is None:
            file = origin.keys[0][1].removesuffix(".weight")
            # What is packed and no linear layer, such as embeddings, is unpacked as it is read.
            layer = name.removesuffix(".weight")
            if file in unpacking.layers and layer in matrices:
                linears[layer] = Packed(file, unpacking.layers[file])
    notes = [*unpacking.notes]
    notes += plain_against_config(
        quantization, unpacking.stored, tensors.files_of(matrices - set(linears))
    )
    notes += beyond_notes(model, _unplaced_layers(tensors, unpacking))
    layers = unpacking.layers
    return Opened(files, tensors, linears, experts, stacked, keys, layers, tuple(notes))


def _unplaced_layers(tensors: ConvertedSource, unpacking: UnpackingSource) -> list[str]:
    """Return the packed layers that no tensor of the model is made of."""
    names = (name.removesuffix(".weight") for name in tensors.unknown)
    return [name for name in names if name in unpacking.layers]


def _matrices(
    files: tuple[str, ...], tensor: ExpertTensor, unpacking: UnpackingSource
) -> dict[tuple[int, int], Packed]:
    """Return the packed matrices of a stacked weight; none where it is not packed."""
    found = {}
    for part, name in enumerate(files):
        for expert in range(tensor.count):
            file = name.replace(NUMBER, str(expert))
            if file in unpacking.layers:
                found[part, expert] = Packed(file, unpacking.layers[file])
    if found and len(found) != len(files) * tensor.count:
        # Some are packed and some are not: all of them are unpacked as they are read.
        return {}
    return found
