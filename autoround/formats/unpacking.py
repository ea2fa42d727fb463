"""A quantized checkpoint read as if it were not: packed layers come out as dense weights.

Whatever reads plain checkpoints (renaming and stacking tensors by the rules of a model class)
so reads quantized ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from autoround.core.dtypes import Header, stored_headers, tensor_headers
from autoround.core.rounding import dense_weight
from autoround.errors import FormatError
from autoround.formats.faults import Fault, raise_first
from autoround.formats.matrix_stacks import (
    DenseMatrix,
    PackedMatrix,
    dense_matrices,
    infinite_scales,
    missing_groups,
    stacks,
)
from autoround.formats.packed_headers import PackedHeaders
from autoround.formats.registry import layout_named
from autoround.formats.regroup import ordered_weight
from autoround.formats.stacked import StackedLayout
from autoround.types import QuantizedTensor


class Files(Protocol):
    """Tensors by the names that files give them."""

    def headers(self) -> Mapping[str, Header]:
        """Return shape and dtype of every tensor, without reading any."""

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read tensors onto the CPU in their stored dtype.

        Args:
            names: as the files have them.

        Returns:
            The tensors by name.
        """


class UnpackingSource:
    """Tensors of a quantized checkpoint, ``NAME.weight`` in place of a layer's packed ones.

    stored: headers of the files. layers: how each packed layer is held, by its name there. notes:
    what of the config is not followed. transposed: layers that the model stores as [in, out]; to be
    set before anything is read. late: takes what may be wrong with values, for who raises it when
    all is read, so that a device is not waited for layer by layer, and layers that are read
    together are unpacked together; None to raise at once, and to unpack layer by layer.
    """

    def __init__(self, files: Files, quantization: Mapping[str, Any]) -> None:
        """Find the packed layers; no data is read.

        Raises:
            FormatError: the config cannot be understood, or a layer lacks a tensor.
        """
        self._files = files
        self.transposed: set[str] = set()
        self.late: list[Fault] | None = None
        self.stored = stored_headers(files.headers())
        packed = PackedHeaders(self.stored, quantization)
        self.notes, self.layers = packed.notes, packed.layers
        self._headers = tensor_headers(packed.reads_as)

    def headers(self) -> Mapping[str, Header]:
        """Return shape and dtype of every tensor as it reads.

        Returns:
            By name; a packed layer is ``NAME.weight``, float32 (out, in), or (in, out) where it
            is transposed.
        """
        if not self.transposed:
            return self._headers
        transposed = {f"{name}.weight" for name in self.transposed}
        return {
            n: ((s[1], s[0]), d) if n in transposed else (s, d)
            for n, (s, d) in self._headers.items()
        }

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read tensors to where the files' are read to, packed layers as float32.

        Args:
            names: of :meth:`headers`.

        Returns:
            The tensors by name; all but packed layers in their stored dtype.

        Raises:
            FormatError: a packed layer cannot be read.
        """
        wanted = list(names)
        together = self._dense_together(wanted) if self.late is not None else {}
        tensors: dict[str, Tensor] = {}
        for name in wanted:
            layer = self._layer_of(name)
            if layer is None:
                tensors.update(self._files.read([name]))
                continue
            if layer in together:
                weight = together[layer].weight
                self._refuse(together[layer].faults)
            else:
                weight = self.dense(layer)
            tensors[name] = weight.t() if layer in self.transposed else weight
        return tensors

    def _layer_of(self, name: str) -> str | None:
        """Return the packed layer whose weight a tensor is, if it is one's."""
        layer = name.removesuffix(".weight")
        return layer if layer != name and layer in self.layers else None

    def _dense_together(self, names: Iterable[str]) -> dict[str, DenseMatrix]:
        """Unpack those of some weights that can be in one go; one alone is left."""
        layers = [layer for layer in map(self._layer_of, names) if layer is not None]
        layers = [layer for layer in layers if stacks(self.layers[layer])]
        if len(layers) < 2:
            return {}
        return dense_matrices({x: PackedMatrix(self.layers[x], self.parts(x)) for x in layers})

    def dense(self, name: str) -> Tensor:
        """Return the weight of a packed layer.

        Args:
            name: of the layer in the files.

        Returns:
            float32 [out, in], also where the model stores [in, out].

        Raises:
            FormatError: scales are not finite, or ``g_idx`` names a group that there is not.
        """
        held = self.parts(name)
        layer = self.quantized(name, held)
        index = held.get("g_idx")
        # With one group a row all inputs have the same scale, in whatever order.
        if index is None or layer.scheme.group_size <= 0:
            return dense_weight(layer)
        groups = layer.scale.shape[1]
        flag, text = missing_groups(index, groups)
        self._refuse([Fault(flag, FormatError(f"layer {name}: {text}"))])
        # A device would not outlive an index that there is not, should that be raised later.
        return ordered_weight(layer, index.clamp(0, groups - 1))

    def _refuse(self, faults: Sequence[Fault]) -> None:
        if self.late is None:
            raise_first(faults)
        else:
            self.late += faults

    def stored_names(self, names: Iterable[str]) -> list[str]:
        """Return the names of the files' tensors that some tensors are unpacked from.

        Args:
            names: of :meth:`headers`.
        """
        stored: list[str] = []
        for name in names:
            layer = self._layer_of(name)
            parts = [] if layer is None else self._parts_of(layer)
            stored += [name] if layer is None else [f"{layer}.{part}" for part in parts]
        return stored

    def _parts_of(self, name: str) -> list[str]:
        """Return the parts of a layer that the files hold."""
        headers = self._files.headers()
        layout = layout_named(self.layers[name].packing)
        return [part for part in layout.parts if f"{name}.{part}" in headers]

    def parts(self, name: str) -> dict[str, Tensor]:
        """Read the tensors of a packed layer.

        Args:
            name: of the layer in the files.

        Returns:
            Those that the files hold, by the layout's names, in their stored dtype.
        """
        parts = self._parts_of(name)
        tensors = self._files.read(f"{name}.{part}" for part in parts)
        return {part: tensors[f"{name}.{part}"] for part in parts}

    def quantized(self, name: str, held: Mapping[str, Tensor]) -> QuantizedTensor:
        """Return the codes, scales and zero points of a layer's tensors.

        Args:
            name: of the layer in the files.
            held: its tensors, as :meth:`parts` returns them.

        Returns:
            The weight: codes uint8 [out, in], scale and zero [out, groups].

        Raises:
            FormatError: the tensors do not fit the layout, or scales hold NaN or infinity.
        """
        scheme, packing = self.layers[name]
        layout = layout_named(packing)
        faults: list[Fault] = []
        if isinstance(layout, StackedLayout):
            layer, faults = layout.from_tensors_late(held, scheme, name=name)
        else:
            layer = layout.from_tensors(held, scheme, name=name)
        flag, text = infinite_scales(layer.scale)
        self._refuse([*faults, Fault(flag, FormatError(f"layer {name}: {text}"))])
        return layer
