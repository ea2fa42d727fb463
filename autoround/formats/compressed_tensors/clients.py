"""What the programs that read compressed-tensors files make of a plan, in sentences for its reader.

Versions before 0.18.0 of the library held values of 3, 5, 6 and 7 bits in words of their own, 32
divided by the width of them a word; 0.18.0 and later have one bit stream a row. vLLM reads the
stream by its own loader, whichever version of the library it comes with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from autoround.formats.compressed_tensors.config import expert_schemes
from autoround.formats.merged_layers import merged_under
from autoround.formats.written import written_layers
from autoround.types import LayerPlan, Scheme

#: The first version of the library whose values cross words.
FIRST_DENSE = "0.18.0"
#: The version of vLLM that these sentences are about.
VLLM = "vLLM 0.32"
#: Groups that its Marlin kernels take, beside one scale a row.
MARLIN_GROUPS = (32, 64, 128)


def notes(layers: Sequence[LayerPlan]) -> list[str]:
    """Return what a reader of the plan should know about clients.

    Args:
        layers: all of the plan, unquantized ones too.

    Returns:
        A sentence for each note.
    """
    schemes = {layer.scheme for layer in layers if layer.scheme is not None}
    written = written_layers(layers)
    experts = expert_schemes(written)
    sentences = (
        _library_note(schemes),
        _transformers_note(schemes, experts),
        _mixed_experts_note(experts),
        _vllm_note(schemes),
        _vllm_experts_note(experts),
        _vllm_zero_points_note(written),
    )
    return [sentence for sentence in sentences if sentence]


def _library_note(schemes: Collection[Scheme]) -> str:
    """Say which version of the library reads widths whose values cross words."""
    crossing = sorted({scheme.bits for scheme in schemes if 32 % scheme.bits})
    if not crossing:
        return ""
    widths = ", ".join(map(str, crossing))
    return (
        f"weights of {widths} bits are read by compressed-tensors {FIRST_DENSE} and later; earlier "
        "versions take other values from them, where symmetric without an error"
    )


def _transformers_note(schemes: Collection[Scheme], experts: Collection[Scheme | None]) -> str:
    """Say how transformers loads zero points, if it does."""
    if all(scheme.sym for scheme in schemes):
        return ""
    if any(scheme is not None and not scheme.sym for scheme in experts):
        return (
            "transformers cannot load asymmetric experts of compressed-tensors files: make the "
            "experts symmetric for it"
        )
    if len(schemes) > 1:
        return (
            "transformers cannot load compressed-tensors files of several schemes where one is "
            "asymmetric: make all symmetric for it"
        )
    return (
        "transformers loads asymmetric compressed-tensors files only with "
        "quantization_config=CompressedTensorsConfig(dequantize=True)"
    )


def _mixed_experts_note(experts: Collection[Scheme | None]) -> str:
    if len(experts) < 2:
        return ""
    return (
        "transformers reads one scheme for all experts of compressed-tensors files, and refuses "
        "this model, whose experts have several"
    )


def _vllm_note(schemes: Collection[Scheme]) -> str:
    """Say which schemes vLLM has a kernel for in an extra package only."""
    rare = sorted(str(scheme) for scheme in schemes if not _is_common(scheme))
    if not rare:
        return ""
    return f"{VLLM} needs the package humming-kernels, and a GPU, for {', '.join(rare)}"


def _vllm_experts_note(experts: Collection[Scheme | None]) -> str:
    """Say which experts vLLM has no kernel for at all."""
    lacking = sorted(
        str(scheme)
        for scheme in experts
        if scheme is not None and not _is_common(scheme) and _lacks_expert_kernel(scheme)
    )
    if not lacking:
        return ""
    return f"{VLLM} has no kernel for experts of {', '.join(lacking)}, and refuses this model"


def _vllm_zero_points_note(written: Iterable[LayerPlan]) -> str:
    """Say which zero points vLLM puts in the wrong place: it merges whole words only."""
    names = [
        layer.name
        for layer in written
        if layer.scheme is not None
        and not layer.scheme.sym
        and layer.shape[0] * layer.scheme.bits % 32
        and merged_under(layer.name)
    ]
    if not names:
        return ""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"{VLLM} misreads the zero points of {names[0]}{more}: it merges these layers, and their "
        "outputs end inside a word; make them symmetric for it"
    )


def _is_common(scheme: Scheme) -> bool:
    """Tell whether a kernel that comes with vLLM multiplies by such weights (Marlin, Exllama)."""
    if scheme.sym:
        return scheme.bits in (4, 8)
    return scheme.bits == 4 and (scheme.group_size <= 0 or scheme.group_size in MARLIN_GROUPS)


def _lacks_expert_kernel(scheme: Scheme) -> bool:
    """Tell whether the extra package has no kernel for experts either."""
    return scheme.group_size <= 0 or (scheme.bits == 8 and not scheme.sym)
