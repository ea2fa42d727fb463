"""What serving engines refuse or run slowly of the integer formats, for the notes of a plan.

By the source of vLLM 0.32, and loaded by it: see docs/formats.md, "What vLLM 0.32 does with each".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autoround.formats.merged_layers import experts_of
from autoround.formats.schemes import group_key, most_common
from autoround.formats.written import written_layers
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
    """Return what vLLM refuses of GPTQ's formats.

    Args:
        name: of the format.
        layers: all of the plan.
    """
    schemes = _schemes(layers)
    refused = [s for s in schemes if not s.sym or s.bits not in _BITS or _odd(s)]
    if refused:
        return [
            f"{name}: vLLM refuses {_spell(refused)}; of GPTQ it runs symmetric weights of 4 and "
            f"8 bits in {_IN_WORDS}"
        ]
    return _experts_notes(name, layers)


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
    if packing == "auto_round":
        return [
            f"{name}: vLLM and SGLang refuse packing auto_round, which this model needs because "
            "not all of its layers have 4 bits and a shape that AWQ's layout holds, and some are "
            "asymmetric; auto-round reads it"
        ]
    if packing == "auto_round:auto_awq":
        return awq_notes(name, layers) + _slow_symmetric(name, schemes)
    refused = [s for s in schemes if not s.sym or (s.bits in _BITS and _odd(s))]
    few = [s for s in schemes if s.bits not in _BITS and s not in refused]
    notes = []
    if refused:
        notes.append(
            f"{name}: vLLM refuses {_spell(refused)} in packing {packing}, where it runs "
            f"symmetric weights in {_IN_WORDS}"
        )
    if few:
        notes.append(f"{name}: vLLM runs {_spell(few)} on CUDA only, by its Humming kernels")
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
    if not odd:
        return []
    return [f"{name}: vLLM runs {_spell(odd)} on its slow kernels; its fast ones take {_IN_WORDS}"]


def _schemes(layers: Iterable[LayerPlan]) -> list[Scheme]:
    return list(dict.fromkeys(x.scheme for x in layers if x.scheme is not None))


def _odd(scheme: Scheme) -> bool:
    return group_key(scheme) not in GROUPS


def _spell(schemes: Iterable[Scheme]) -> str:
    return ", ".join(map(str, schemes))
