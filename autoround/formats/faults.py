"""What may be wrong with weights: flags on their device, read together by who packs or reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core.packing import no_room, out_of_range
from autoround.types import QuantizedTensor


class Fault(NamedTuple):
    """What would be wrong with a weight.

    present: bool [], on the weight's device. error: what is raised where it is true.
    """

    present: Tensor
    error: Exception


def raise_first(faults: Sequence[Fault]) -> None:
    """Read the flags of faults, all at once, and raise the first that is present.

    Args:
        faults: on one device.

    Raises:
        Exception: the error of the first fault that is present.
    """
    if faults:
        raise_present(faults, torch.stack([fault.present for fault in faults]).to("cpu"))


def raise_present(faults: Sequence[Fault], present: Tensor) -> None:
    """Raise the first fault that is present, by flags that were read.

    Args:
        faults: of which each has a flag.
        present: bool [faults], on the CPU.

    Raises:
        Exception: the error of the first fault that is present.
    """
    flags: list[bool] = present.tolist()
    for fault, is_present in zip(faults, flags, strict=True):
        if is_present:
            raise fault.error


def spilt_codes(layer: QuantizedTensor) -> Fault:
    """Return whether a code has more bits than the scheme; nothing is read.

    Args:
        layer: with at least one code, not on meta.
    """
    bits = layer.scheme.bits
    return Fault(out_of_range(layer.codes, bits), ValueError(no_room(bits)))


def differences(layer: QuantizedTensor, other: QuantizedTensor, error: Exception) -> list[Fault]:
    """Return whether a weight differs from another of its shape, by value; nothing is read.

    Args:
        layer: one of them; one scale a tensor equals as many of its value.
        other: the other one.
        error: what a difference raises.
    """
    pairs = ((layer.codes, other.codes), (layer.scale, other.scale), (layer.zero, other.zero))
    # What is not a number differs from everything, itself included.
    return [Fault((ours != theirs).any(), error) for ours, theirs in pairs]
