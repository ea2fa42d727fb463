"""The formats by name: what each can hold, and how it describes itself to loaders."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from autoround.errors import FormatError
from autoround.formats import layouts
from autoround.formats import merged_layers as fused
from autoround.formats.auto_round import config as auto_round
from autoround.formats.awq import config as awq
from autoround.formats.compressed_tensors import config as compressed
from autoround.formats.gguf import type_mix as gguf_mix
from autoround.formats.gptq import config as gptq
from autoround.formats.mlx import config as mlx
from autoround.types import LayerPlan, OutputPlan, Plan, Scheme

#: Packing of each format; the first one depends on the schemes.
PACKINGS = {
    "auto_round": "",
    "auto_round:auto_gptq": auto_round.PACKING_V1,
    "auto_round:auto_awq": auto_round.PACKING_AWQ,
    "auto_gptq": "gptq",
    "gptq_v2": "gptq_v2",
    "auto_awq": layouts.AWQ,
    "compressed-tensors": layouts.COMPRESSED,
    "llm_compressor": layouts.COMPRESSED,
    "mlx": layouts.MLX,
    "fake": layouts.FAKE,
    **{f"{layouts.GGUF}{name}": f"{layouts.GGUF}{name}" for name in gguf_mix.BASES},
}
NAMES = tuple(PACKINGS)
#: Formats whose clients compute in float16, or turn scales into the dtype of the model.
_FLOAT16 = (
    "auto_gptq",
    "gptq_v2",
    "auto_awq",
    "compressed-tensors",
    "llm_compressor",
    "mlx",
    "fake",
)


def plan_output(
    name: str, schemes: Mapping[Scheme, str], *, dtype: str, chosen: bool, folder: str
) -> OutputPlan:
    """Resolve a format for the schemes of a recipe.

    schemes: each with the words for what asked for it, empty for the recipe's own.
    dtype: of kept tensors; chosen: whether the user named it.

    Raises:
        FormatError: the format cannot hold a scheme, or not all of them in one model.
    """
    if name not in PACKINGS:
        close = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise FormatError(f"{name!r} is no format{hint}; legal: {', '.join(NAMES)}")
    packing = PACKINGS[name] or auto_round.packing_for(set(schemes))
    if packing.startswith(layouts.GGUF):
        # A file type says itself what each tensor is held in.
        return OutputPlan(name, packing, "float32", folder)
    reason = unfit(name, packing, schemes)
    if reason:
        fitting = [
            other
            for other in NAMES
            if not unfit(other, PACKINGS[other] or auto_round.PACKING_PLAIN, schemes)
        ]
        raise FormatError(
            f"format {name} cannot hold {reason}; formats that can: {', '.join(fitting)}"
        )
    if name in _FLOAT16 and not chosen:
        dtype = "float16"
    return OutputPlan(name, packing, dtype, folder)


def unfit(name: str, packing: str, schemes: Mapping[Scheme, str]) -> str:
    """Return which schemes a format cannot hold and why, or an empty text."""
    for scheme, asking in schemes.items():
        reason = layouts.illegal(scheme, packing)
        if reason:
            return f"{scheme}{f' of {asking}' if asking else ''}: {reason}"
    if packing == layouts.AWQ and len(schemes) > 1:
        return (
            f"{' and '.join(map(str, schemes))} in one model: its config has one scheme for all "
            "layers"
        )
    return ""


def why_not(shape: tuple[int, int], scheme: Scheme, packings: Sequence[str]) -> str:
    """Return why one of the packings cannot hold a weight, or an empty text."""
    return next(filter(None, (layouts.why_not(shape, scheme, p) for p in packings)), "")


def config(plan: Plan, output: OutputPlan) -> dict[str, Any]:
    """Return the ``quantization_config`` of one output."""
    if output.format in ("auto_gptq", "gptq_v2"):
        return gptq.config(plan, output)
    if output.format == "auto_awq":
        return awq.config(plan)
    if output.packing == layouts.COMPRESSED:
        return compressed.config(plan)
    if output.packing == layouts.MLX:
        return mlx.config(plan)
    return auto_round.config(plan, output)


def config_keys(output: OutputPlan) -> tuple[str, ...]:
    """Return the keys of config.json under which a format describes itself."""
    if output.packing == layouts.FAKE or output.packing.startswith(layouts.GGUF):
        return ()
    if output.packing == layouts.MLX:
        return ("quantization", "quantization_config")
    return ("quantization_config",)


def side_files(output: OutputPlan, quantization: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return JSON files that a format's clients look for beside config.json."""
    if output.format in ("auto_gptq", "gptq_v2"):
        return {"quantize_config.json": quantization}
    return {}


def notes(layers: Sequence[LayerPlan], outputs: Sequence[OutputPlan]) -> list[str]:
    """Return what a reader of the plan should know about these formats."""
    sym = all(layer.scheme is None or layer.scheme.sym for layer in layers)
    clients = []
    for output in outputs:
        clients += gptq.notes(sym, output.packing) + compressed.notes(layers, output.packing)
    # Engines that merge layers read neither GGUF's mixtures nor Apple's files in that way.
    merging = [o for o in outputs if not o.packing.startswith((layouts.GGUF, layouts.MLX))]
    return [*clients, *(fused.notes(layers) if merging else [])]


def is_gguf(output: OutputPlan) -> bool:
    """Tell whether an output is a GGUF file."""
    return output.packing.startswith(layouts.GGUF)
