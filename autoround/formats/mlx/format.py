"""The format ``mlx``: checkpoints for Apple's processors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from autoround.formats.format import Float16Format, Layout, PackedLayer
from autoround.formats.mlx import config as mlx_config
from autoround.formats.mlx.layout import MLX
from autoround.types import OutputPlan, Plan


class MlxFormat(Float16Format):
    """Checkpoints as mlx-lm writes them; its engine runs each layer by itself."""

    name = "mlx"
    method = mlx_config.METHOD
    layouts: tuple[Layout, ...] = (MLX,)
    merges_layers = False
    config_keys: tuple[str, ...] = ("quantization", "quantization_config")
    holds_transposed = False

    def config(self, plan: Plan, output: OutputPlan) -> dict[str, Any]:
        """Return the ``quantization`` that describes a plan to loaders."""
        return mlx_config.config(plan)

    def reads(self, config: Mapping[str, Any]) -> bool:
        """Tell whether a quantization config is MLX's, which names no method."""
        return mlx_config.is_mlx(config)

    def packed_layers(
        self,
        config: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, int]],
        tensors: Collection[str],
    ) -> dict[str, PackedLayer]:
        """Return how every quantized layer is held: those with biases of their groups.

        Raises:
            FormatError: a value in the config is illegal.
        """
        schemes = mlx_config.quantized_layers(config, shapes, tensors)
        return {name: PackedLayer(scheme, MLX.name) for name, scheme in schemes.items()}


FORMATS = (MlxFormat(),)
