"""What engines and loaders refuse or run slowly of the integer formats, for the notes of a plan.

By the source of vLLM 0.32, and loaded by it: see docs/formats.md, "What vLLM 0.32 does with each".
The others were tried in GPTQModel 7.6, auto-round 0.16.1 and optimum 2.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autoround.formats.merged_layers import experts_of
from autoround.formats.schemes import group_key, most_common
from autoround.formats.written import NUMBER, written_layers
from autoround.types import LayerPlan, Scheme

#: Group sizes of vLLM's Marlin kernels; -1 is one group a row.
GROUPS = (-1, 32, 64, 128)
_BITS = (4, 8)
_IN_WORDS = "groups of 32, 64 or 128 or one a row"
#: Experts' hidden width must be a multiple of this for Marlin.
_TILE = 128
#: Last names of experts' projections back to the hidden width.
_DOWN = ("down_proj", "w2")


def gptq_notes(name: str, layers: Sequence[LayerPlan]) -> list[str]:
    """Return what clients refuse of GPTQ's formats.

    Args:
        name: of the format.
        layers: all of the plan.
    """
    schemes = _schemes(layers)
    refused = [s for s in schemes if not s.sym or s.bits not in _BITS or _odd(s)]
    if refused:
        notes = [
            f"{name}: vLLM refuses {_spell(refused)}; of GPTQ it runs symmetric weights of 4 and "
            f"8 bits in {_IN_WORDS}"
        ]
    else:
        notes = _experts_notes(name, layers)
    notes += _optimum_notes(name, layers) + stacked_notes(name, layers)
    return [*notes, *_renamed_notes(name, layers)]


def _optimum_notes(name: str, layers: Sequence[LayerPlan]) -> list[str]:
    """Say what transformers by itself, which reads no rules, cannot load."""
    blocks: dict[str, set[str]] = {}
    inside = [layer for layer in layers if layer.block]
    for layer in inside:
        quantized = blocks.setdefault(layer.block, set())
        if layer.scheme is not None:
            quantized.add(layer.path)
    several = len({x.scheme for x in inside if x.scheme is not None}) > 1
    kept = any(x.scheme is None for x in inside)
    uneven = kept and len(set(map(frozenset, blocks.values()))) > 1
    head = bool(inside) and any(x.scheme is not None and not x.block for x in layers)
    if not (several or uneven or head):
        return []
    return [
        f"{name}: transformers without GPTQModel's own loader (through optimum) knows one scheme, "
        "the same layers of every block and no quantized head, and refuses or misreads this "
        "model; GPTQModel.load reads it"
    ]


def stacked_notes(name: str, layers: Iterable[LayerPlan]) -> list[str]:
    """Say that transformers by itself, which has experts stacked, reads no packed ones.

    Args:
        name: of a format of GPTQ's or AWQ's.
        layers: all of the plan.
    """
    if not any(layer.experts and layer.scheme is not None for layer in layers):
        return []
    return [
        f"{name}: transformers without GPTQModel's own loader does not find packed experts, and "
        "leaves them at random; GPTQModel.load and vLLM read them"
    ]


def _renamed_notes(name: str, layers: Sequence[LayerPlan]) -> list[str]:
    """Say where loaders ask for experts by other names than files have."""
    renamed = [
        x.files[0]
        for x in layers
        if x.scheme is not None and x.experts and x.files
        if x.files[0].partition(".experts.")[0] != x.name.partition(".experts.")[0]
    ]
    if not renamed:
        return []
    return [
        f"{name}: GPTQModel 7.6 and auto-round 0.16.1 ask for experts by transformers' names, do "
        f"not find those of this model's files ({renamed[0].replace(NUMBER, '0')}) and refuse or "
        "misread it; vLLM asks for the names of the files"
    ]


def _experts_notes(name: str, layers: Sequence[LayerPlan]) -> list[str]:
    """Say where vLLM falls back to kernels for experts that know no rules."""
    written = written_layers(layers)
    schemes = [x.scheme for x in written if x.scheme is not None]
    if not schemes:
        return []
    base = most_common(schemes)
    differing = [x for x in written if experts_of(x.name) and x.scheme != base]
    narrow = next((x for x in differing if _narrow(x, group_key(base))), None)
    if narrow is None:
        return []
    return [
        f"{name}: vLLM reads experts of this width ({narrow.name}, {narrow.shape[0]} x "
        f"{narrow.shape[1]}) by the scheme of most layers alone ({base}), and will misread or "
        "refuse those that have another"
    ]


def _narrow(expert: LayerPlan, size: int) -> bool:
    """Tell whether vLLM's Marlin kernel for experts does not take a width."""
    rows, columns = expert.shape
    down = expert.name.rpartition(".")[2] in _DOWN
    hidden, inner = (rows, columns) if down else (columns, rows)
    return hidden % _TILE != 0 or (size > 0 and inner % size != 0)


def auto_round_notes(name: str, packing: str, layers: Sequence[LayerPlan]) -> list[str]:
    """Return what vLLM refuses or runs slowly of AutoRound's packings.

    Args:
        name: of the format.
        packing: one of AutoRound's.
        layers: all of the plan.
    """
    schemes = _schemes(layers)
    renamed = _renamed_notes(name, layers)
    if packing == "auto_round":
        return [
            *renamed,
            f"{name}: vLLM and SGLang refuse packing auto_round, which this model needs because "
            "not all of its layers have 4 bits and a shape that AWQ's layout holds, and some are "
            "asymmetric; auto-round reads it",
        ]
    if packing == "auto_round:auto_awq":
        return awq_notes(name, layers) + _slow_symmetric(name, schemes)
    refused = [s for s in schemes if not s.sym or (s.bits in _BITS and _odd(s))]
    few = [s for s in schemes if s.bits not in _BITS and s not in refused]
    notes = renamed
    if refused:
        notes.append(
            f"{name}: vLLM refuses {_spell(refused)} in packing {packing}, where it runs "
            f"symmetric weights in {_IN_WORDS}"
        )
    if few:
        notes.append(
            f"{name}: vLLM runs {_spell(few)} by its Humming kernels alone, which need a GPU"
        )
    return notes


def _slow_symmetric(name: str, schemes: Iterable[Scheme]) -> list[str]:
    symmetric = [s for s in schemes if s.sym and not _odd(s)]
    if not symmetric:
        return []
    return [
        f"{name}: vLLM runs {_spell(symmetric)} in AWQ's packing on its slow kernels; format "
        "auto_round:auto_gptq has fast ones for symmetric weights"
    ]


def awq_notes(name: str, layers: Sequence[LayerPlan]) -> list[str]:
    """Return what vLLM runs slowly of AWQ's layout.

    Args:
        name: of the format.
        layers: all of the plan.
    """
    odd = [scheme for scheme in _schemes(layers) if _odd(scheme)]
    renamed = _renamed_notes(name, layers)
    if not odd:
        return renamed
    return [
        *renamed,
        f"{name}: vLLM runs {_spell(odd)} on its slow kernels; its fast ones take {_IN_WORDS}",
    ]


def _schemes(layers: Iterable[LayerPlan]) -> list[Scheme]:
    return list(dict.fromkeys(x.scheme for x in layers if x.scheme is not None))


def _odd(scheme: Scheme) -> bool:
    return group_key(scheme) not in GROUPS


def _spell(schemes: Iterable[Scheme]) -> str:
    return ", ".join(map(str, schemes))
