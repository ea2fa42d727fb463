"""Token sequences for calibration, ready to be fed to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Token sequences of one calibration set.

    ids: int64 [n, width], padded on the right with the pad id. The width is the sequence length
    asked; for tokens that a caller gave, it is that of the longest sample if that is less.
    lengths: int64 [n], how many tokens of each row are real (1 to width).
    description: what exactly was used, for the plan and the report.
    media: what a model is given with each sample beside its tokens (pixel values and the like),
    tensors whose first axis is a batch's; empty for text alone.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    description: str
    media: tuple[Mapping[str, torch.Tensor], ...] = ()

    @property
    def mask(self) -> torch.Tensor:
        """Return bool [n, width], True where a token is real."""
        import torch

        return torch.arange(self.ids.shape[1])[None, :] < self.lengths[:, None]

    @property
    def padded(self) -> bool:
        """Tell whether any row holds padding."""
        return bool((self.lengths < self.ids.shape[1]).any())


def build_tokens(
    samples: Sequence[Sequence[int]], *, seqlen: int, pad_id: int, description: str
) -> Tokens:
    """Lay token lists of 1 to ``seqlen`` ids out as one right-padded tensor."""
    import torch

    ids = torch.full((len(samples), seqlen), pad_id, dtype=torch.int64)
    for row, sample in enumerate(samples):
        ids[row, : len(sample)] = torch.tensor(sample, dtype=torch.int64)
    lengths = torch.tensor([len(sample) for sample in samples], dtype=torch.int64)
    return Tokens(ids, lengths, description)
