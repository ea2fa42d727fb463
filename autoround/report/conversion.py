"""What a conversion between formats did, in words."""

from __future__ import annotations

from autoround.checkpoints.convert import Conversion


def conversion_lines(conversion: Conversion) -> list[str]:
    """Return what a conversion did as lines of text.

    Args:
        conversion: its counts of layers that are equal, and what changed in the others.
    """
    total = conversion.exact + len(conversion.lossy)
    lines = [
        f"{conversion.method} to {', '.join(conversion.formats)}: {conversion.exact} of {total} "
        f"layers equal bit for bit, {conversion.disk_bytes / 1e6:.1f} MB in {conversion.output_dir}"
    ]
    if conversion.shifted:
        lines.append(f"{conversion.shifted} groups moved by a level, codes and zero point together")
    lines += [f"changed: {name}: {loss}" for name, loss in conversion.lossy.items()]
    return [*lines, *(f"note: {note}" for note in conversion.notes)]
