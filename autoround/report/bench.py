"""The speed and memory of a model in words, alone or beside its original."""

from __future__ import annotations

from collections.abc import Sequence

from autoround.evaluate.bench import Rates


def rate_lines(measured: Sequence[Rates]) -> list[str]:
    """Return what was measured as lines of text.

    Args:
        measured: of the model, and of its original where there is a second one.
    """
    lines = []
    for rates in measured:
        lines += [
            f"{rates.model}: {rates.dtype}, {rates.kernels}",
            f"  prefill  {rates.prefill:.1f} tokens/s",
            f"  decode   {rates.decode:.1f} tokens/s",
            f"  weights  {rates.weight_bytes / 1e6:.1f} MB in memory, peak so far "
            f"{rates.peak_bytes / 1e6:.1f} MB",
        ]
    if len(measured) > 1:
        quantized, original = measured[0], measured[1]
        lines.append(
            f"against the original: prefill {quantized.prefill / original.prefill:.2f} x, decode "
            f"{quantized.decode / original.decode:.2f} x, weights "
            f"{quantized.weight_bytes / original.weight_bytes:.2f} x"
        )
    return lines
