"""What a format is: how one layer is laid out, and how a checkpoint describes itself.

A ``Layout`` turns carried integers into named tensors and back; both directions run on meta
tensors, so that sizes and shapes are known before anything is quantized. A ``Format`` names
its layouts, writes the config that loaders read, and reads such configs. Neither touches a file:
``writer`` is a word that ``autoround.export`` maps to what does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from autoround.types import LayerPlan, OutputPlan, Plan, QuantizedTensor, Scheme

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Weight(NamedTuple):
    """A matrix that is to be held: its shape (out, in) and its scheme."""

    shape: tuple[int, int]
    scheme: Scheme


class PackedLayer(NamedTuple):
    """How one layer is held in a checkpoint: its scheme, and the name of its layout."""

    scheme: Scheme
    packing: str


class Layout(Protocol):
    """The tensors that hold one quantized weight.

    name: what plans and configs call it. parts: names of its tensors below a layer's. lowest_zero:
    least zero point that it can hold. dense: whether weights are written out in 16 bit.
    ordered: whether it can hold a group index for each input (GPTQ's ``desc_act``).
    """

    name: str
    parts: tuple[str, ...]
    lowest_zero: int
    dense: bool
    ordered: bool

    def illegal(self, scheme: Scheme) -> str:
        """Return why no weight with a scheme can be held, or an empty text.

        Args:
            scheme: bits, groups and kind of the weight, whatever its shape.
        """

    def why_not(self, shape: tuple[int, int], scheme: Scheme) -> str:
        """Return why a weight cannot be held, or an empty text.

        Args:
            shape: (out, in).
            scheme: of the weight.
        """

    def to_tensors(self, layer: QuantizedTensor) -> dict[str, Tensor]:
        """Lay a quantized weight out as tensors; meta tensors give shapes.

        Args:
            layer: codes uint8 [out, in], scale and zero [out, groups] or, with one scale a tensor,
                [1, 1].

        Returns:
            The tensors by part.

        Raises:
            FormatError: the layout cannot hold the weight.
        """

    def from_tensors(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, *, name: str
    ) -> QuantizedTensor:
        """Read a quantized weight back from its tensors; meta tensors give shapes.

        Args:
            tensors: by part.
            scheme: as the config says; one scale a tensor reads back as one a channel.
            name: of the layer, for messages.

        Returns:
            The weight: codes uint8 [out, in], scale and zero [out, groups].

        Raises:
            FormatError: a tensor is missing, or has another dtype or shape than the layout.
        """

    def inexact(self, layer: QuantizedTensor, dtype: torch.dtype) -> str:
        """Return what readers see otherwise than the codes say, or an empty text.

        Args:
            layer: the quantized weight.
            dtype: of weights that are written out.
        """


class Format(Protocol):
    """One format that checkpoints are written and read in.

    name: as ``output.format`` has it. writer: the word for what writes its files. method: what its
    configs say of themselves, empty where they say nothing. layouts: all that it uses. gguf_types:
    whether it gives every tensor a type of its own, whatever the recipe's scheme. merges_layers:
    whether the engines that read it run q, k, v or gate, up as one product. config_keys: keys of
    config.json that it describes itself under. holds_transposed: whether it has a place for weights
    that a model stores as [in, out]. holds_tokenizer: whether its file has the tokenizer inside.
    """

    name: str
    writer: str
    method: str
    layouts: tuple[Layout, ...]
    gguf_types: bool
    merges_layers: bool
    config_keys: tuple[str, ...]
    holds_transposed: bool
    holds_tokenizer: bool

    def layout_for(self, schemes: Collection[Scheme], weights: Collection[Weight] = ()) -> Layout:
        """Return the layout that holds all schemes of a model.

        Args:
            schemes: those that its layers may have.
            weights: what is to be held; empty where it is not known yet.
        """

    def unfit(self, layout: Layout, schemes: Mapping[Scheme, str]) -> str:
        """Return which schemes cannot be held and why, or an empty text.

        Args:
            layout: one of its own.
            schemes: each with the words for what asked for it, empty for the recipe's own.
        """

    def headless(self) -> str:
        """Return why no program reads a quantized lm-head in this format, or an empty text."""

    def kept_dtype(self, dtype: str, *, chosen: bool) -> str:
        """Return the dtype of unquantized tensors.

        Args:
            dtype: the model's, or the one that the user chose.
            chosen: whether the user did.
        """

    def config(self, plan: Plan, output: OutputPlan) -> dict[str, Any]:
        """Return the ``quantization_config`` that describes a plan to loaders.

        Args:
            plan: its layers with their schemes.
            output: the one that is described.

        Returns:
            JSON values; empty where a format needs no description.
        """

    def side_files(self, quantization: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return JSON files that its clients look for beside config.json.

        Args:
            quantization: the ``quantization_config``.

        Returns:
            The content of each, by file name.
        """

    def notes(self, layers: Sequence[LayerPlan], output: OutputPlan) -> list[str]:
        """Return what a reader of the plan should know about clients.

        Args:
            layers: all of the plan, unquantized ones too.
            output: the one that is described.

        Returns:
            A sentence for each note, which begins with the name of the format.
        """

    def reads(self, config: Mapping[str, Any]) -> bool:
        """Tell whether a ``quantization_config`` is of this format.

        Args:
            config: of any program.
        """

    def packed_layers(
        self,
        config: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, int]],
        tensors: Collection[str],
    ) -> dict[str, PackedLayer]:
        """Return how every quantized layer of a checkpoint is held.

        Args:
            config: the ``quantization_config``.
            shapes: candidate layers and their shapes (out, in); zeros where these are not known.
            tensors: all tensors in the files, by name: shape and dtype of each, by which the scheme
                of a layer is told where the config offers several.

        Returns:
            The quantized layers by name; the other candidates are missing.

        Raises:
            FormatError: a value in the config is illegal.
        """


class BaseLayout:
    """A layout without peculiarities, to derive others from."""

    name = ""
    parts: tuple[str, ...] = ()
    lowest_zero = 0
    dense = False
    ordered = False

    def illegal(self, scheme: Scheme) -> str:
        """Return why no weight with a scheme can be held, or an empty text."""
        return ""

    def why_not(self, shape: tuple[int, int], scheme: Scheme) -> str:
        """Return why a weight of shape (out, in) cannot be held, or an empty text."""
        return ""

    def inexact(self, layer: QuantizedTensor, dtype: torch.dtype) -> str:
        """Return what readers see otherwise than the codes say: nothing."""
        return ""


class BaseFormat:
    """A format of safetensors files whose engines merge layers, to derive others from."""

    name = ""
    writer = "safetensors"
    method = ""
    layouts: tuple[Layout, ...] = ()
    gguf_types = False
    merges_layers = True
    config_keys: tuple[str, ...] = ("quantization_config",)
    holds_transposed = True
    holds_tokenizer = False

    def layout_for(self, schemes: Collection[Scheme], weights: Collection[Weight] = ()) -> Layout:
        """Return the layout that holds all schemes of a model: the one there is."""
        return self.layouts[0]

    def unfit(self, layout: Layout, schemes: Mapping[Scheme, str]) -> str:
        """Return which schemes the layout cannot hold and why, or an empty text."""
        for scheme, asking in schemes.items():
            reason = layout.illegal(scheme)
            if reason:
                return f"{scheme}{f' of {asking}' if asking else ''}: {reason}"
        return ""

    def headless(self) -> str:
        """Return why no program reads a quantized lm-head: nothing speaks against it."""
        return ""

    def kept_dtype(self, dtype: str, *, chosen: bool) -> str:
        """Return the dtype of unquantized tensors: the model's."""
        return dtype

    def side_files(self, quantization: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return JSON files beside config.json: none."""
        return {}

    def notes(self, layers: Sequence[LayerPlan], output: OutputPlan) -> list[str]:
        """Return what a reader of the plan should know about clients: nothing."""
        return []

    def reads(self, config: Mapping[str, Any]) -> bool:
        """Tell whether a ``quantization_config`` names this format's method, in any case."""
        return bool(self.method) and str(config.get("quant_method")).lower() == self.method.lower()


class Float16Format(BaseFormat):
    """A format whose clients compute in float16, or turn scales into the dtype of the model."""

    def kept_dtype(self, dtype: str, *, chosen: bool) -> str:
        """Return the dtype of unquantized tensors: float16 unless the user chose another."""
        return dtype if chosen else "float16"


class Undescribed:
    """A format without a ``quantization_config``, mixed into those above."""

    config_keys: tuple[str, ...] = ()

    def config(self, plan: Plan, output: OutputPlan) -> dict[str, Any]:
        """Return the quantization config: there is none."""
        return {}

    def packed_layers(
        self,
        config: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, int]],
        tensors: Collection[str],
    ) -> dict[str, PackedLayer]:
        """Return how every quantized layer is held: no config says that any is."""
        return {}


def packed_by(
    parts: str | Collection[str], names: Iterable[str], tensors: Collection[str]
) -> list[str]:
    """Return the layers that the files hold a part of, which no other layer has.

    Args:
        parts: such as ``qweight``; of several, one is enough.
        names: candidate layers.
        tensors: names of all tensors in the files.
    """
    wanted = (parts,) if isinstance(parts, str) else tuple(parts)
    return [name for name in names if any(f"{name}.{part}" in tensors for part in wanted)]
