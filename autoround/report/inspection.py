"""What a model folder holds, in words and as plain values."""

from __future__ import annotations

from autoround.checkpoints.inspect import Inspection, Part


def inspection_lines(inspection: Inspection, *, layers: bool = False) -> list[str]:
    """Return an inspection as lines of text.

    Args:
        inspection: of a folder or a GGUF file.
        layers: whether to list every quantized layer with its scheme.
    """
    head = f"{inspection.path}: {inspection.architecture}, quantization: {inspection.method}"
    rows = [
        f"  {part.what:<44} {part.count:>6} tensors {part.weights / 1e6:>10.2f} M weights "
        f"{part.size / 1e6:>10.2f} MB {part.bits_per_weight:>6.2f} bits per weight"
        for part in (*inspection.quantized, *inspection.kept, inspection.total)
        # An empty part has no bits per weight.
        if part.weights
    ]
    rows += [f"  note: {note}" for note in inspection.notes]
    if not layers:
        return [head, *rows]
    return [head, *rows, *(f"  {name}: {scheme}" for name, scheme in inspection.layers.items())]


def inspection_values(inspection: Inspection) -> dict[str, object]:
    """Return an inspection as plain values for JSON; sizes are in bytes."""
    return {
        "path": inspection.path,
        "architecture": inspection.architecture,
        "method": inspection.method,
        "quantized": [_part_values(part) for part in inspection.quantized],
        "kept": [_part_values(part) for part in inspection.kept],
        "total": _part_values(inspection.total),
        "layers": inspection.layers,
        "notes": list(inspection.notes),
    }


def _part_values(part: Part) -> dict[str, object]:
    return {
        "what": part.what,
        "count": part.count,
        "weights": part.weights,
        "bytes": part.size,
        "bits_per_weight": part.bits_per_weight if part.weights else None,
    }
