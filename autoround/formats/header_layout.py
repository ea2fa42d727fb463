"""Layouts that tell shapes and sizes without a tensor: by headers alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from autoround.storage.dtypes import StoredHeader
from autoround.types import Scheme


class HeaderLayout(ABC):
    """What a layout says of headers, mixed into layouts; of others meta tensors tell it."""

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
