"""What a model folder holds, in words and as plain values."""

from __future__ import annotations

from typing import Any

from autoround.checkpoints.inspect import Inspection, Part


def lines(found: Inspection, *, layers: bool = False) -> list[str]:
    """Return an inspection as lines of text."""
    head = f"{found.path}: {found.architecture}, quantization: {found.method}"
    rows = [
        f"  {part.what:<44} {part.count:>6} tensors {part.weights / 1e6:>10.2f} M weights "
        f"{part.size / 1e6:>10.2f} MB {part.bits_per_weight:>6.2f} bits per weight"
        for part in (*found.quantized, *found.kept, found.total)
        if part.weights
    ]
    listed = [f"  {name}: {scheme}" for name, scheme in found.layers.items()] if layers else []
    return [head, *rows, *listed]


def as_dict(found: Inspection) -> dict[str, Any]:
    """Return an inspection as plain values."""

    def plain(part: Part) -> dict[str, Any]:
        return {
            "what": part.what,
            "count": part.count,
            "weights": part.weights,
            "bytes": part.size,
            "bits_per_weight": part.bits_per_weight if part.weights else None,
        }

    return {
        "path": found.path,
        "architecture": found.architecture,
        "method": found.method,
        "quantized": [plain(part) for part in found.quantized],
        "kept": [plain(part) for part in found.kept],
        "total": plain(found.total),
        "layers": found.layers,
    }
