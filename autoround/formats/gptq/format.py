"""The formats ``auto_gptq`` and ``gptq_v2``, and reading GPTQ checkpoints of any program."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from autoround.errors import FormatError
from autoround.formats import engine_notes
from autoround.formats.format import Float16Format, Layout, PackedLayer, packed_by
from autoround.formats.gptq import config as gptq_config
from autoround.formats.gptq.layout import (
    AUTO_ROUND_V1,
    AUTO_ROUND_V2,
    GPTQ_V1,
    GPTQ_V2,
    GptqLayout,
)
from autoround.formats.schemes import read_scheme
from autoround.types import LayerPlan, OutputPlan, Plan

#: Layouts by what configs call them, with and without the group of each input.
_VERSIONS = {"gptq": (GPTQ_V1, AUTO_ROUND_V1), "gptq_v2": (GPTQ_V2, AUTO_ROUND_V2)}


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
        """Return what a reader of the plan should know about clients."""
        notes = engine_notes.gptq_notes(self.name, layers)
        if self.layouts[0].lowest_zero and any(x.scheme and not x.scheme.sym for x in layers):
            notes.append(
                f"{self.name}: it holds no zero point of 0, so asymmetric groups keep to 1 and "
                "above in all formats of this run; GPTQModel reads asymmetric files of other "
                "programs only as gptq_v2, which has no such limit"
            )
        return notes

    def packed_layers(
        self,
        config: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, int]],
        tensors: Collection[str],
    ) -> dict[str, PackedLayer]:
        """Return how every quantized layer is held: those with a ``qweight``.

        Raises:
            FormatError: the version is unknown, or a value or a rule in the config is illegal.
        """
        version = str(config.get("checkpoint_format") or config.get("format") or "gptq")
        if version not in _VERSIONS:
            raise FormatError(
                f"GPTQ checkpoint_format {version!r} cannot be read; legal: {', '.join(_VERSIONS)}"
            )
        indexed, bare = _VERSIONS[version]
        # Kept layers need no rule: the files hold no qweight of theirs.
        rules = config.get("dynamic") or {}
        if not isinstance(rules, Mapping):
            raise FormatError("quantization_config.dynamic is not a table of rules")
        layers = {}
        for name in packed_by("qweight", shapes, tensors):
            scheme = read_scheme({**config, **_rule(rules, name)}, f"of layer {name}")
            # Files without g_idx have the very layout of AutoRound's packings.
            layout = indexed if f"{name}.g_idx" in tensors else bare
            layers[name] = PackedLayer(scheme, layout.name)
        return layers


def _rule(rules: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return what the first rule that matches a layer sets."""
    for rule, values in rules.items():
        try:
            matched = re.match(rule.removeprefix("+:"), name) is not None
        except re.error as error:
            raise FormatError(f"dynamic rule {rule!r} is not a regex: {error}") from None
        if not rule.startswith("-:") and matched:
            if not isinstance(values, Mapping):
                raise FormatError(f"dynamic rule {rule!r} is not a table of keys")
            return values
    return {}


FORMATS = (GptqFormat("auto_gptq", GPTQ_V1), GptqFormat("gptq_v2", GPTQ_V2))
