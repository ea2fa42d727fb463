"""The formats ``gguf:TYPE``: one file for llama.cpp, by llama.cpp's own file types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from autoround.errors import FormatError
from autoround.formats.format import BaseFormat, BaseLayout, Layout, Undescribed
from autoround.formats.gguf.file_types import BASES
from autoround.types import OutputPlan, QuantizedTensor, Scheme

if TYPE_CHECKING:
    from torch import Tensor

#: What the names of these formats begin with.
PREFIX = "gguf:"


class GgufLayout(BaseLayout):
    """A file type; its bytes are blocks of one file, not tensors by name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def to_tensors(self, layer: QuantizedTensor) -> dict[str, Tensor]:
        """Refuse: see :mod:`autoround.formats.gguf.blocks`.

        Raises:
            FormatError: always.
        """
        raise FormatError(f"{self.name} has no tensors by name")

    def from_tensors(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, *, name: str
    ) -> QuantizedTensor:
        """Refuse: see :mod:`autoround.formats.gguf.blocks`.

        Raises:
            FormatError: always.
        """
        raise FormatError(f"layer {name}: {self.name} has no tensors by name")


class GgufFormat(Undescribed, BaseFormat):
    """A file type such as q4_k_m; its file describes itself, and says what each tensor is in."""

    writer = "gguf"
    gguf_types = True
    holds_tokenizer = True
    merges_layers = False

    def __init__(self, file_type: str) -> None:
        self.name, self.file_type = f"{PREFIX}{file_type}", file_type
        self.layouts: tuple[Layout, ...] = (GgufLayout(self.name),)

    def kept_dtype(self, dtype: str, *, chosen: bool) -> str:
        """Return the dtype of unquantized tensors: the file type decides it for matrices."""
        return "float32"


FORMATS = tuple(GgufFormat(file_type) for file_type in BASES)


def file_type_of(output: OutputPlan) -> str:
    """Return the file type of an output of these formats.

    Args:
        output: whose packing is ``gguf:TYPE``.

    Returns:
        Such as ``q4_k_m``.
    """
    return output.packing.removeprefix(PREFIX)
