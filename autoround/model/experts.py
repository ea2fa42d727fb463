"""Experts that a model holds in one tensor, and the matrices that files have in their place.

transformers stacks the experts of a layer: [experts, out, in], the two matrices before the
activation as one. Programs that serve quantized models want a matrix for each expert, named
``experts.3.gate_proj``. Rows do not share scales, so one is cut out of the other exactly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoround.core.part_rows import part_rows
from autoround.model.positions import hidden_size

#: Matrices that are one tensor with their rows one after the other, or taking turns.
GATED = "gate_up"
GATED_PARTS = ("gate_proj", "up_proj")
#: A matrix has at least this many rows and columns; smaller 3-D parameters are something else.
LEAST = 8
#: Name of one expert's matrix as it is written where the checkpoint has none of its own.
PART = re.compile(r"^(?P<experts>.*)\.(?P<expert>\d+)\.(?P<part>\w+)\.weight$")


@dataclass(frozen=True, slots=True)
class ExpertTensor:
    """A stacked weight.

    name: of the tensor. count: of experts. shape: (out, in) of one. transposed: each is stored
    as [in, out]. parts: the matrices files have instead. interleaved: their rows take turns.
    """

    name: str
    count: int
    shape: tuple[int, int]
    transposed: bool
    parts: tuple[str, ...]
    interleaved: bool

    def rows(self, part: int) -> slice:
        """Return which rows of an expert are one of its parts."""
        return part_rows(self.shape[0], part, len(self.parts), interleaved=self.interleaved)

    def merge(self, matrices: Mapping[tuple[int, int], Tensor]) -> Tensor:
        """Stack matrices [out, in], given by (part, expert), to the tensor as it is stored.

        Raises:
            KeyError: a matrix is missing, or is one too many.
        """
        wanted = {(part, expert) for part in range(len(self.parts)) for expert in range(self.count)}
        for part, expert in sorted(wanted.symmetric_difference(matrices)):
            word = "missing" if (part, expert) in wanted else "one too many"
            raise KeyError(f"{self.parts[part]} of expert {expert} is {word}")
        first = matrices[0, 0]
        whole = torch.empty((self.count, *self.shape), dtype=first.dtype, device=first.device)
        for (part, expert), matrix in matrices.items():
            whole[expert, self.rows(part)] = matrix
        return whole.transpose(1, 2).contiguous() if self.transposed else whole


def expert_tensors(model: nn.Module) -> dict[str, ExpertTensor]:
    """Find the stacked weights of a model by their shapes; the names of modules do not matter."""
    hidden = hidden_size(model)
    return {
        found.name: found
        for path, module in model.named_modules()
        for found in stacked_in(module, path, hidden)
    }


def stacked_in(module: nn.Module, path: str, hidden: int) -> list[ExpertTensor]:
    """List the stacked weights that a module owns."""
    if type(module).__module__.startswith("torch.nn"):
        return []  # a convolution's kernel
    owned = {n: p for n, p in module.named_parameters(recurse=False) if p.dim() == 3}
    owned = {n: p for n, p in owned.items() if min(p.shape[1:]) >= LEAST}
    counts = {p.shape[0] for p in owned.values()}
    if not owned or (len(counts) != 1 and not all(_named_as_experts(n) for n in owned)):
        return []
    turned = _stored_turned(module, owned, hidden)
    found = []
    for name, parameter in owned.items():
        count, first, second = parameter.shape
        gated = GATED in name
        found.append(
            ExpertTensor(
                f"{path}.{name}" if path else name,
                int(count),
                (int(second), int(first)) if turned else (int(first), int(second)),
                turned,
                GATED_PARTS if gated else (name,),
                gated and not getattr(module, "is_concatenated", True),
            )
        )
    return found


def _stored_turned(module: nn.Module, owned: Mapping[str, nn.Parameter], hidden: int) -> bool:
    """Tell whether experts are stored as [in, out]: by what the module says, or by shapes."""
    stated = getattr(module, "is_transposed", None)
    if isinstance(stated, bool):
        return stated
    down = next((p for n, p in owned.items() if "down" in n or n == "w2"), None)
    first = next((p for n, p in owned.items() if "up" in n or n == "w1"), None)
    if first is None:
        return False
    if down is not None and first.shape[1] != 2 * down.shape[2]:
        # [in, 2 out] and [out, in]: the longer side of the first is twice the rows of the second.
        return bool(first.shape[2] == 2 * down.shape[1])
    return down is None and bool(first.shape[1] == hidden != first.shape[2])


def _named_as_experts(name: str) -> bool:
    """Tell whether a parameter has a name that only matrices of feed-forward parts have."""
    return GATED in name or name in ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
