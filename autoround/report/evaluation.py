"""The quality of a model in words: perplexity, and how far it is from the original."""

from __future__ import annotations

from pathlib import Path

from autoround.mixed_precision.budget import predicted_kl
from autoround.types import EvalResult


def evaluation_lines(result: EvalResult) -> list[str]:
    """Return scores as lines of text.

    Args:
        result: of a model alone, or beside its original.
    """
    if result.reference_perplexity is None:
        return [f"perplexity {result.perplexity:.3f} over {result.tokens} tokens"]
    change = 100 * (result.perplexity / result.reference_perplexity - 1)
    return [
        f"perplexity of the original   {result.reference_perplexity:.3f}",
        f"perplexity of the quantized  {result.perplexity:.3f}  ({change:+.1f} %)",
        f"KL divergence                {result.kl:.4f} nats per token",
        f"top-1 agreement              {100 * (result.top1_agreement or 0):.1f} %",
        f"tokens                       {result.tokens}",
    ]


def prediction_lines(folder: str | Path, result: EvalResult) -> list[str]:
    """Return the KL divergence that was predicted for a model beside the measured one.

    Args:
        folder: of the quantized model; no lines where no bit budget made it.
        result: its scores; no lines where it was not compared with its original.
    """
    predicted = predicted_kl(Path(folder))
    if predicted is None or result.kl is None:
        return []
    return [
        f"predicted KL                 {predicted:.4f} nats per token for searched scales; the "
        f"measured one is {result.kl / predicted:.2f} times that"
    ]
