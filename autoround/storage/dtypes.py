"""The types of stored numbers by their names, for headers: nothing here makes a tensor.

Names are torch's without its prefix: ``bfloat16`` is ``torch.bfloat16``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

#: Shape of a tensor, and the name of its dtype.
StoredHeader: TypeAlias = tuple[tuple[int, ...], str]
#: Those of tensors by name.
StoredHeaders: TypeAlias = Mapping[str, StoredHeader]

#: Bytes of one number.
ITEM_BYTES: Mapping[str, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "uint32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
}
#: Dtypes that tensors beside the packed ones are kept in.
KEPT_DTYPES = ("float16", "bfloat16", "float32")
#: What safetensors calls the dtypes that a kept or quantized tensor may have.
SAFETENSORS: Mapping[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "U32": "uint32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


def is_floating(dtype: str) -> bool:
    """Tell whether numbers of a dtype are floating-point ones.

    Args:
        dtype: its name.
    """
    return "float" in dtype
