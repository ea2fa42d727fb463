"""The formats ``auto_gptq`` and ``gptq_v2``, and reading GPTQ checkpoints of any program."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from autoround.formats.format import Float16Format, Layout, PackedLayer
from autoround.formats.gptq import config as gptq_config
from autoround.formats.gptq import reading
from autoround.formats.gptq.layout import GPTQ_V1, GPTQ_V2, GptqLayout
from autoround.types import LayerPlan, OutputPlan, Plan


class GptqFormat(Float16Format):
    """GPTQ checkpoints as its clients write them.

    Args:
        name: of the format.
        layout: of its layers.
    """

    method = "gptq"

    def __init__(self, name: str, layout: GptqLayout) -> None:
        self.name = name
        self.layouts: tuple[Layout, ...] = (layout,)

    def config(self, plan: Plan, output: OutputPlan) -> dict[str, Any]:
        """Return the ``quantization_config`` that describes a plan to loaders."""
        return gptq_config.config(plan, output)

    def side_files(self, quantization: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the file that GPTQModel looks for."""
        return {"quantize_config.json": quantization}

    def notes(self, layers: Sequence[LayerPlan], output: OutputPlan) -> list[str]:
        """Return what version 1 does to zero points."""
        if all(not x.scheme or x.scheme.sym for x in layers) or not self.layouts[0].lowest_zero:
            return []
        return [
            f"{self.name}: it holds no zero point of 0, so asymmetric groups keep to 1 and above "
            "in all formats of this run; gptq_v2 has no such limit"
        ]

    def packed_layers(
        self,
        config: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, int]],
        tensors: Collection[str],
    ) -> dict[str, PackedLayer]:
        """Return how every quantized layer is held: those with a ``qweight``.

        Raises:
            FormatError: the version is unknown, a value or a rule in the config is illegal, or no
                scheme fits a layer's tensors.
        """
        return reading.packed_layers(config, shapes, tensors)


FORMATS = (GptqFormat("auto_gptq", GPTQ_V1), GptqFormat("gptq_v2", GPTQ_V2))
