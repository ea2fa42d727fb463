"""The format ``auto_round`` and its variants with a packing that is named."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from autoround.formats.auto_round import config as auto_round_config
from autoround.formats.auto_round import reading
from autoround.formats.awq.layout import AUTO_ROUND_AWQ
from autoround.formats.format import BaseFormat, Layout, PackedLayer, Weight
from autoround.formats.gptq.layout import AUTO_ROUND_V1, AUTO_ROUND_V2
from autoround.types import OutputPlan, Plan, Scheme


class AutoRoundFormat(BaseFormat):
    """Checkpoints as auto-round writes them.

    Args:
        name: of the format.
        layouts: that it uses; with several, the weights of a model decide.
    """

    method = "auto-round"

    def __init__(self, name: str, *layouts: Layout) -> None:
        self.name, self.layouts = name, layouts

    def layout_for(self, schemes: Collection[Scheme], weights: Collection[Weight] = ()) -> Layout:
        """Return the layout of all layers: the first that holds every zero point and weight.

        Symmetric grids have no zero point below the middle level, so that zero points stored minus
        one, which most programs read, do for them; asymmetric ones may have a zero point of 0.
        Those of 4 bits stand as AWQ's do where that costs no layer, because serving engines refuse
        the packing that holds all.
        """
        *better, last = self.layouts
        if all(scheme.sym for scheme in schemes):
            return self.layouts[0]
        plain = [weight for weight in weights if not last.why_not(*weight)]
        if not plain:
            return last
        whole = (one for one in better if not one.lowest_zero and _holds(one, schemes, plain))
        return next(whole, last)

    def config(self, plan: Plan, output: OutputPlan) -> dict[str, Any]:
        """Return the ``quantization_config`` that describes a plan to loaders."""
        return auto_round_config.config(plan, output)

    def reads(self, config: Mapping[str, Any]) -> bool:
        """Tell whether a config is of auto-round, whichever way it spells its name."""
        return reading.is_auto_round(config)

    def packed_layers(
        self,
        config: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, int]],
        tensors: Collection[str],
    ) -> dict[str, PackedLayer]:
        """Return how every quantized layer is held: those with a ``qweight``.

        Raises:
            FormatError: a value in the config is illegal, or no scheme fits a layer's tensors.
        """
        return reading.packed_layers(config, shapes, tensors)


def _holds(layout: Layout, schemes: Collection[Scheme], weights: Collection[Weight]) -> bool:
    schemes = {*schemes, *(weight.scheme for weight in weights)}
    legal = not any(map(layout.illegal, schemes))
    return legal and not any(layout.why_not(*weight) for weight in weights)


#: The last layout is the one that holds every scheme.
AUTO_ROUND = AutoRoundFormat("auto_round", AUTO_ROUND_V1, AUTO_ROUND_AWQ, AUTO_ROUND_V2)
FORMATS = (
    AUTO_ROUND,
    AutoRoundFormat("auto_round:auto_gptq", AUTO_ROUND_V1),
    AutoRoundFormat("auto_round:auto_awq", AUTO_ROUND_AWQ),
)
