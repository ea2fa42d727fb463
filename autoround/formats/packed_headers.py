"""A quantized checkpoint by its headers: which layers are packed, and what its tensors read as."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from autoround.errors import FormatError
from autoround.formats.checkpoints import config_notes, packed_layers, packed_shape
from autoround.formats.format import PackedLayer
from autoround.formats.registry import layout_named, telling_parts
from autoround.storage.dtypes import StoredHeader, StoredHeaders

#: Dtypes of weights that are read as they are.
_PLAIN = ("float16", "bfloat16", "float32", "float64")
#: Tensors that only a quantized weight has beside it, of whatever kind.
_SCALES = frozenset(
    {"qweight", "qzeros", "weight_packed", "weight_scale", "weight_scale_inv", "weight_scale_2"}
    | {"weight_zero_point", "weight_global_scale"}
)


class PackedHeaders:
    """What the headers of a quantized checkpoint say.

    layers: how each packed layer is held, by its name in the files. notes: what of the config is
    not followed. reads_as: headers with ``NAME.weight``, float32 (out, in), in place of the packed
    tensors of a layer.
    """

    def __init__(self, headers: StoredHeaders, quantization: Mapping[str, Any]) -> None:
        """Find the packed layers.

        Raises:
            FormatError: the config cannot be understood, or a layer lacks a tensor.
        """
        self.notes = config_notes(quantization)
        self.layers = packed_layers(quantization, packed_names(headers), headers)
        owned = owned_tensors(self.layers)
        _refuse_other_kinds(headers, owned)
        self.reads_as: dict[str, StoredHeader] = {
            name: header for name, header in headers.items() if name not in owned
        }
        for name, stored in self.layers.items():
            shape = packed_shape(name, stored, headers)
            # What the reader sees: one weight where the files hold parts.
            self.reads_as[f"{name}.weight"] = (shape, "float32")


def packed_names(headers: StoredHeaders) -> dict[str, tuple[int, int]]:
    """Return the names of layers that may be packed, by their tensors.

    Args:
        headers: of all tensors in the files.

    Returns:
        The layers, each with (0, 0) for the shape, which is not known yet.
    """
    telling = telling_parts()
    pairs = (name.rpartition(".") for name in headers)
    # Formats that go by the files look at names only.
    return {name: (0, 0) for name, _, part in pairs if part in telling}


def owned_tensors(layers: Mapping[str, PackedLayer]) -> set[str]:
    """Return the names of all tensors that hold packed layers.

    Args:
        layers: the packed layers, by name.

    Returns:
        The names of all parts of their layouts, in the files or not.
    """
    return {
        f"{name}.{part}"
        for name, (_, packing) in layers.items()
        for part in layout_named(packing).parts
    }


def _refuse_other_kinds(headers: StoredHeaders, owned: Collection[str]) -> None:
    """Refuse weights that are neither packed in a layout nor plain: read as plain, they are wrong.

    Raises:
        FormatError: with the first such tensor.
    """
    for name, (_, dtype) in headers.items():
        if name in owned:
            continue
        layer, _, part = name.rpartition(".")
        if part == "weight" and dtype not in _PLAIN:
            raise FormatError(
                f"tensor {name} is torch.{dtype}: weights of that kind beside packed layers "
                "cannot be read; legal: 16 and 32 bit"
            )
        if part in _SCALES and layer:
            raise FormatError(
                f"the files hold {name}, which belongs to no packed layer: a layer quantized in "
                "another way, or a damaged one, cannot be read"
            )


def plain_against_config(
    quantization: Mapping[str, Any], headers: StoredHeaders, names: Iterable[str]
) -> list[str]:
    """Say which layers a config itself names as packed and the files hold as plain weights.

    These are what they are: programs name a head that they then leave in 16 bit. A config that
    only says so of all layers at a place, or of a kind, is taken for a rule with exceptions:
    layers of other shapes are left out, and it is not always said which.

    Args:
        quantization: the ``quantization_config``.
        headers: of all tensors in the files.
        names: of the model's linear layers that are not packed, as the files call them.

    Returns:
        A sentence, or nothing where there are none.
    """
    plain = {name: (0, 0) for name in names if f"{name}.weight" in headers}
    claimed = list(packed_layers(quantization, plain, headers))
    if not claimed:
        return []
    more = f" and {len(claimed) - 1} more" if len(claimed) > 1 else ""
    return [
        f"layer {claimed[0]}{more}: the quantization_config calls it quantized, and the files hold "
        "its weight as it is, which is what is read"
    ]
