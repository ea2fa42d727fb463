"""Layouts that tell shapes and sizes without a tensor: by headers alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from autoround.formats.parts import assemble, headers_of_parts
from autoround.formats.stacked import StackedLayout
from autoround.storage.dtypes import StoredHeader
from autoround.types import QuantizedTensor, Scheme

if TYPE_CHECKING:
    from torch import Tensor


class HeaderLayout(StackedLayout, ABC):
    """A layout that headers suffice for, to derive others from; of others meta tensors tell it."""

    def take_matrix_apart(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, *, name: str
    ) -> QuantizedTensor:
        """Take tensors of any program apart, without a look at their values."""
        self.matrix_shape(headers_of_parts(tensors), scheme, name=name)
        layer = self.take_apart(tensors, scheme, 0)
        return assemble(layer.codes, layer.scale, layer.zero, scheme, name=name)

    @abstractmethod
    def matrix_shape(
        self, parts: Mapping[str, StoredHeader], scheme: Scheme, *, name: str
    ) -> tuple[int, int]:
        """Return (out, in) of a layer, by the headers of its tensors.

        Args:
            parts: headers of those that the files hold, by part.
            scheme: as the config says.
            name: of the layer, for messages.

        Raises:
            FormatError: a tensor is missing, or has another dtype or shape than the layout.
        """

    @abstractmethod
    def part_headers(self, shape: tuple[int, int], scheme: Scheme) -> dict[str, StoredHeader]:
        """Return the headers of the tensors that a weight is laid out as.

        Args:
            shape: (out, in).
            scheme: one that the layout can hold.

        Raises:
            ValueError: the layout cannot hold the shape.
        """
