"""Values of other programs' configs, read for what they mean and not for their type.

Programs write ``4``, ``4.0`` and ``"4"``, and ``true``, ``"true"`` and ``1``, for the same things.
"""

from __future__ import annotations

import re

from autoround.errors import FormatError
from autoround.types import LEGAL_BITS, PER_CHANNEL, PER_TENSOR

_WHOLE = re.compile(r"\s*[+-]?\d+(\.0*)?\s*", re.ASCII)
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read_whole(value: object) -> int | None:
    """Return the whole number that a value stands for.

    Args:
        value: of a config: a number without fraction, or the digits of one.

    Returns:
        The number; None for anything else, booleans among it.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value.partition(".")[0])
    return None


def read_flag(value: object, *, key: str, where: str, missing: bool) -> bool:
    """Return the truth value that a value stands for.

    Args:
        value: of a config: a boolean, 0 or 1, or one of these as a text.
        key: its key, for messages.
        where: what it is about, for messages.
        missing: what null and an absent key mean.

    Raises:
        FormatError: it is none of these.
    """
    if value is None:
        return missing
    word = str(value).strip().lower()
    if not isinstance(value, bool | int | str) or word not in _FLAGS:
        raise FormatError(
            f"quantization_config: {key} {where} is {value!r}, which is neither true nor false"
        )
    return _FLAGS[word]


def read_bits(value: object, *, where: str) -> int:
    """Return the width of codes, or one of 16 and more for what is not quantized.

    Args:
        value: of a config.
        where: what it is about, for messages.

    Raises:
        FormatError: there is no such width.
    """
    bits = read_whole(value)
    if bits is None or (bits < 16 and bits not in LEGAL_BITS):
        raise FormatError(
            f"quantization_config: bits {where} is {value!r}; legal: "
            f"{', '.join(map(str, LEGAL_BITS))}"
        )
    return bits


def read_group_size(value: object, *, where: str) -> int:
    """Return the weights that share a scale; null is one scale an output channel.

    Args:
        value: of a config.
        where: what it is about, for messages.

    Returns:
        1 and more, -1 for one a channel, or 0 for one a tensor.

    Raises:
        FormatError: there is no such group.
    """
    size = PER_CHANNEL if value is None else read_whole(value)
    if size is None or (size < 1 and size not in (PER_CHANNEL, PER_TENSOR)):
        raise FormatError(
            f"quantization_config: group_size {where} is {value!r}; legal: 1 and more, "
            f"{PER_CHANNEL} or null (channel), {PER_TENSOR} (tensor)"
        )
    return size
