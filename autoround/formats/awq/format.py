"""The format ``auto_awq``, and reading AWQ checkpoints of any program."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from autoround.errors import FormatError
from autoround.formats.awq import config as awq_config
from autoround.formats.awq.layout import AWQ
from autoround.formats.fitting import Candidate, choose_scheme, headers_in
from autoround.formats.format import Float16Format, Layout, PackedLayer, packed_by
from autoround.formats.schemes import read_scheme
from autoround.types import OutputPlan, Plan, Scheme


class AwqFormat(Float16Format):
    """AWQ checkpoints, version gemm, 4 bits."""

    name = "auto_awq"
    method = "awq"
    layouts: tuple[Layout, ...] = (AWQ,)

    def unfit(self, layout: Layout, schemes: Mapping[Scheme, str]) -> str:
        """Return which schemes cannot be held and why; its config has one for all layers."""
        reason = super().unfit(layout, schemes)
        if reason or len(schemes) < 2:
            return reason
        return (
            f"{' and '.join(map(str, schemes))} in one model: its config has one scheme for all "
            "layers"
        )

    def headless(self) -> str:
        """Return why no program reads a quantized lm-head."""
        return "its programs keep the head in 16 bit whatever the files say"

    def config(self, plan: Plan, output: OutputPlan) -> dict[str, Any]:
        """Return the ``quantization_config`` that describes a plan to loaders."""
        return awq_config.config(plan)

    def packed_layers(
        self,
        config: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, int]],
        tensors: Collection[str],
    ) -> dict[str, PackedLayer]:
        """Return how every quantized layer is held: those with a ``qweight``.

        Raises:
            FormatError: the version is not gemm, or a value in the config is illegal.
        """
        version = str(config.get("version") or "gemm").lower()
        if version != "gemm":
            raise FormatError(f"AWQ version {version!r} cannot be read; legal: gemm")
        where = "of the model"
        # The tensors are the same: where weights are symmetric, all are the middle level.
        sym = awq_config.symmetric(config)
        offered = [Candidate(read_scheme({**config, "sym": sym}, where), where)]
        headers = headers_in(tensors)
        # Layers that are kept need no list: the files hold no qweight of theirs.
        return {
            name: PackedLayer(
                choose_scheme(name, offered, AWQ, headers=headers, shape=shapes[name]), AWQ.name
            )
            for name in packed_by(("qweight", "qzeros"), shapes, tensors)
        }


FORMATS = (AwqFormat(),)
