"""Layouts that lay out many matrices of one shape at once, and read nothing while they do.

An accelerator packs all experts of a layer in as many launches as one matrix takes, and the host
does not wait for it: what :meth:`StackedLayout.faults` finds and whether the tensors unpack to what
was packed are flags on the device, read together by who packs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from autoround.errors import FormatError
from autoround.formats.format import BaseLayout
from autoround.types import QuantizedTensor, Scheme

if TYPE_CHECKING:
    from torch import Tensor

    from autoround.formats.faults import Fault


class StackedLayout(BaseLayout):
    """A layout whose tensors may have a leading axis of matrices, to derive others from.

    Codes are then uint8 [matrices, out, in], scale and zero [matrices, out, groups] or, with one
    scale a tensor, [1, 1, 1]; each tensor of the layout has the axis, too.
    """

    def faults(self, layer: QuantizedTensor) -> list[Fault]:
        """Return what the layout cannot hold, and unpacking would not show; nothing is read.

        Args:
            layer: with at least one code, not on meta; with or without a leading axis.
        """
        return []

    def lay_out(self, layer: QuantizedTensor) -> dict[str, Tensor]:
        """Lay weights out without a look at their values; meta tensors give shapes.

        Args:
            layer: with or without a leading axis.

        Returns:
            The tensors by part, contiguous.
        """
        raise NotImplementedError

    def take_apart(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, columns: int
    ) -> QuantizedTensor:
        """Undo :meth:`lay_out` without checks: for tensors that it made.

        Args:
            tensors: by part, with or without a leading axis.
            scheme: of the weights.
            columns: input width.

        Returns:
            The weights; one scale a tensor comes back as one a channel.
        """
        raise NotImplementedError

    def take_matrix_apart(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, *, name: str
    ) -> QuantizedTensor:
        """Do as :meth:`take_apart` for tensors of any program, without a look at their values.

        Args:
            tensors: by part, of one matrix; numbers that tell its shape are on the CPU. Meta
                tensors give shapes.
            scheme: as the config says; one scale a tensor reads back as one a channel.
            name: of the layer, for messages.

        Raises:
            FormatError: a tensor is missing, or has another dtype or shape than the layout.
        """
        raise NotImplementedError

    def wrong_values(
        self, tensors: Mapping[str, Tensor], layer: QuantizedTensor
    ) -> list[tuple[Tensor, str]]:
        """Return what no program writes into tensors of this layout; nothing is read.

        Args:
            tensors: by part, with or without a leading axis of matrices, not on meta.
            layer: what they were taken apart to.

        Returns:
            A flag for each matrix, bool [] or [matrices], with what is said of one: a sentence.
        """
        return []

    def from_tensors(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, *, name: str
    ) -> QuantizedTensor:
        """Read a quantized weight back from tensors of any program; meta tensors give shapes.

        Args:
            tensors: by part, of one matrix.
            scheme: as the config says; one scale a tensor reads back as one a channel.
            name: of the layer, for messages.

        Raises:
            FormatError: a tensor is missing, or has another dtype or shape than the layout, or
                values that no program writes.
        """
        from autoround.formats.faults import raise_first

        layer, faults = self.from_tensors_late(tensors, scheme, name=name)
        raise_first(faults)
        return layer

    def from_tensors_late(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, *, name: str
    ) -> tuple[QuantizedTensor, list[Fault]]:
        """Read a weight back as :meth:`from_tensors` does, without a look at values.

        Args:
            tensors: by part, of one matrix; numbers that tell its shape are on the CPU.
            scheme: as the config says.
            name: of the layer, for messages.

        Returns:
            The weight, and what may be wrong with it.

        Raises:
            FormatError: a tensor is missing, or has another dtype or shape than the layout.
        """
        from autoround.formats.faults import Fault

        layer = self.take_matrix_apart(tensors, scheme, name=name)
        if layer.codes.device.type == "meta":
            return layer, []
        wrong = self.wrong_values(tensors, layer)
        return layer, [Fault(flag, FormatError(f"layer {name}: {text}")) for flag, text in wrong]

    def to_tensors(self, layer: QuantizedTensor) -> dict[str, Tensor]:
        """Lay a quantized weight out as tensors; meta tensors give shapes.

        Args:
            layer: codes uint8 [out, in], scale and zero [out, groups] or, with one scale a tensor,
                [1, 1].

        Returns:
            The tensors by part.

        Raises:
            FormatError: the layout cannot hold the weight.
            ValueError: a code has more bits than the scheme.
        """
        from autoround.formats.faults import raise_first, spilt_codes

        tensors = self.lay_out(layer)
        if layer.codes.device.type != "meta" and layer.codes.numel():
            raise_first([spilt_codes(layer), *self.faults(layer)])
        return tensors


def expand_shared(part: Tensor, layer: QuantizedTensor) -> Tensor:
    """Return scales or zero points with one for each output, where there is one for all.

    Args:
        part: [..., out, groups], or ones in place of the sizes before the last.
        layer: whose part it is.
    """
    return part.expand(*layer.codes.shape[:-1], -1)


def part_of(layer: QuantizedTensor, matrices: slice) -> QuantizedTensor:
    """Return some matrices of stacked weights.

    Args:
        layer: with a leading axis.
        matrices: which of them.
    """
    shared = layer.scale.shape[0] == 1 and layer.codes.shape[0] != 1
    return replace(
        layer,
        codes=layer.codes[matrices],
        scale=layer.scale if shared else layer.scale[matrices],
        zero=layer.zero if shared else layer.zero[matrices],
    )
