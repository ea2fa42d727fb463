"""The format ``compressed-tensors``, which is also named ``llm_compressor``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from autoround.formats.compressed_tensors import config as compressed_config
from autoround.formats.compressed_tensors import reading
from autoround.formats.compressed_tensors.layout import PACK_QUANTIZED
from autoround.formats.format import Float16Format, Layout, PackedLayer
from autoround.types import OutputPlan, Plan


class CompressedTensorsFormat(Float16Format):
    """Checkpoints of the compressed-tensors library, as vLLM and transformers read them."""

    method = compressed_config.METHOD
    layouts: tuple[Layout, ...] = (PACK_QUANTIZED,)

    def __init__(self, name: str) -> None:
        self.name = name

    def config(self, plan: Plan, output: OutputPlan) -> dict[str, Any]:
        """Return the ``quantization_config`` that describes a plan to loaders."""
        return compressed_config.config(plan)

    def packed_layers(
        self,
        config: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, int]],
        tensors: Collection[str],
    ) -> dict[str, PackedLayer]:
        """Return how every quantized layer is held: those with packed weights.

        Raises:
            FormatError: the config is of another kind, a layer belongs to no group, or no group's
                scheme fits its tensors.
        """
        return reading.packed_layers(config, shapes, tensors)


FORMATS = (CompressedTensorsFormat("compressed-tensors"), CompressedTensorsFormat("llm_compressor"))
