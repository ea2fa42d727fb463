"""Packed layers of a checkpoint, whichever program wrote it: which they are, and their shapes.

Configs leave it to rules which layers are quantized, and programs read these in their own ways.
So the files decide: a layer with packed tensors is quantized, any other is not; and of the schemes
that a config offers a layer its tensors take the one that fits them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from autoround.errors import FormatError
from autoround.formats.fitting import held_shape
from autoround.formats.format import PackedLayer
from autoround.formats.registry import layout_named, method_of, reading_format, registry
from autoround.storage.dtypes import StoredHeaders
from autoround.types import Expected

#: Keys of configs under which programs say what else is to be done with activations.
_TRANSFORMS = ("rotation_config", "spinquant_config", "transform_config")


def packed_layers(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, int]], tensors: Collection[str]
) -> dict[str, PackedLayer]:
    """Return how every quantized layer of a checkpoint is held.

    Args:
        config: the ``quantization_config``.
        shapes: candidate layers and their shapes (out, in).
        tensors: headers of all tensors in the files, or their names alone.

    Returns:
        The quantized layers by name.

    Raises:
        FormatError: the config is of no format that can be read, a value is illegal, weights are
            to be turned as the model runs, or no scheme fits a layer's tensors.
    """
    _refuse_transforms(config)
    return reading_format(config).packed_layers(config, shapes, tensors)


def _refuse_transforms(config: Mapping[str, Any]) -> None:
    """Refuse weights that are right only behind other code, which would turn their inputs."""
    for key in _TRANSFORMS:
        if config.get(key):
            raise FormatError(
                f"quantization_config.{key} says that inputs of layers are transformed while the "
                "model runs, which is not done here: without that its weights are wrong ones"
            )


def config_notes(config: Mapping[str, Any]) -> list[str]:
    """Return what of a config is not followed where a checkpoint is read.

    Args:
        config: the ``quantization_config``.
    """
    if not config.get("kv_cache_scheme"):
        return []
    return [
        "kv_cache_scheme of the quantization_config is not followed: keys and values of past "
        "tokens stay in the dtype of activations"
    ]


def packed_shape(name: str, packed: PackedLayer, headers: StoredHeaders) -> tuple[int, int]:
    """Return (out, in) of a packed layer, by the headers of its tensors.

    Args:
        name: of the layer in the files.
        packed: its scheme and layout.
        headers: of all tensors in the files.

    Raises:
        FormatError: a tensor is missing or does not fit the others.
    """
    return held_shape(name, packed.scheme, layout_named(packed.packing), headers)


def check_layers(
    packed: Mapping[str, PackedLayer], headers: StoredHeaders, *, expected: Expected
) -> None:
    """Hold the tensors of every layer against its layout and the model, by headers alone.

    Args:
        packed: the quantized layers.
        headers: of all tensors in the files.
        expected: what the model would have.

    Raises:
        FormatError: with the layer and what is wrong with it.
    """
    shapes, tied = expected.shapes, expected.tied
    for name, layer in packed.items():
        shape = packed_shape(name, layer, headers)
        if name in shapes and shape != shapes[name]:
            raise FormatError(
                f"layer {name}: its codes are {shape[0]} x {shape[1]}, the model's weight is "
                f"{shapes[name][0]} x {shapes[name][1]}"
            )
    for name in shapes:
        weight = f"{name}.weight"
        # A tied weight may be stored under the other name, or without the model's prefix.
        same = {weight, tied.get(weight, weight), *(n for n, x in tied.items() if x == weight)}
        names = same | {n.removeprefix(expected.prefix) for n in same}
        if name not in packed and not any(n in headers for n in names):
            raise FormatError(f"layer {name}: the files hold neither its codes nor its weight")


def format_among(planned: Mapping[str, str], config: Mapping[str, Any]) -> str:
    """Return which of the formats that a run wrote a folder holds, as its config tells.

    Args:
        planned: names of packings by those of formats, at least one.
        config: the ``quantization_config``; empty where there is none.

    Returns:
        The first of them where the config does not tell.
    """
    method = method_of(config) if config else ""
    methods = {name: each.method for name, each in registry().formats.items()}
    alike = [name for name in planned if methods.get(name) == method] or list(planned)
    packings = [config.get("packing_format"), config.get("checkpoint_format")]
    return next((name for name in alike if planned[name] in packings), alike[0])
