"""What is in a GGUF file, from its header alone."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from autoround.checkpoints.inspect import Inspection, Part
from autoround.gguf.opened import open_file
from autoround.model.files.gate_mark import gate_failure

#: Types of numbers that are not quantized.
PLAIN = ("F64", "F32", "F16", "BF16", "I8", "I16", "I32", "I64")


def inspect_gguf(path: Path) -> Inspection:
    """Read what a GGUF file holds; no weight is read.

    Raises:
        FormatError: it is damaged, or is none.
    """
    reader = open_file(path)
    quantized: dict[str, list[Any]] = {}
    kept: dict[str, list[Any]] = {}
    for tensor in reader.tensors:
        kind = str(tensor.tensor_type.name)
        if kind in PLAIN:
            what = f"{_role(tensor)}, {kind}"
            kept.setdefault(what, []).append(tensor)
        else:
            quantized.setdefault(kind, []).append(tensor)
    arch = reader.get_field("general.architecture")
    failure = gate_failure(path.parent)
    return Inspection(
        path=str(path),
        architecture="unknown" if arch is None else str(arch.contents()),
        method="gguf",
        quantized=tuple(_part(what, tensors) for what, tensors in quantized.items()),
        kept=tuple(_part(what, kept[what]) for what in sorted(kept)),
        layers={t.name: kind for kind, tensors in quantized.items() for t in tensors},
        notes=(failure,) if failure else (),
    )


def _role(tensor: Any) -> str:
    if "embd" in tensor.name:
        return "embeddings"
    if tensor.name == "output.weight":
        return "output head"
    return "other matrices" if len(tensor.shape) > 1 else "norms and biases"


def _part(what: str, tensors: list[Any]) -> Part:
    counts: Counter[str] = Counter()
    for tensor in tensors:
        counts["weights"] += math.prod(int(n) for n in tensor.shape)
        counts["bytes"] += int(tensor.n_bytes)
    return Part(what, len(tensors), counts["weights"], counts["bytes"])
