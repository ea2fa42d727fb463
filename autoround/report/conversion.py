"""A conversion in words."""

from __future__ import annotations

from autoround.checkpoints.convert import Conversion


def lines(done: Conversion) -> list[str]:
    """Return what a conversion did as lines of text."""
    total = done.exact + len(done.lossy)
    found = [
        f"{done.method} to {', '.join(done.formats)}: {done.exact} of {total} layers equal bit "
        f"for bit, {done.disk_bytes / 1e6:.1f} MB in {done.output_dir}"
    ]
    if done.shifted:
        found.append(f"{done.shifted} groups moved by a level, codes and zero point together")
    return [*found, *(f"changed: {name}: {lost}" for name, lost in done.lossy.items())]
