"""Random weights for modules that are run to see what their code does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from autoround.model.blocks import tied_names, vision_blocks


@contextmanager
def fixed_seed() -> Iterator[None]:
    """Draw the same numbers always, and leave the caller's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _towers(model: nn.Module, blocks: tuple[str, ...]) -> tuple[str, ...]:
    """Return the paths of blocks that text does not run through, as prefixes.

    Args:
        model: the modules.
        blocks: paths of its decoder blocks.
    """
    text = blocks[0].rpartition(".")[0]
    lists = {path.rpartition(".")[0] for path in vision_blocks(model, blocks)}
    words = ("vis", "audio", "image")
    return tuple(f"{_beside(path, text)}." for path in lists if any(word in path for word in words))


def _beside(path: str, other: str) -> str:
    """Return the topmost module above a path that is not above the other one as well."""
    parts = path.split(".")
    above = (".".join(parts[: i + 1]) for i in range(len(parts)))
    return next(p for p in above if not f"{other}.".startswith(f"{p}."))


def size(model: nn.Module, blocks: tuple[str, ...]) -> int:
    """Count the parameters that text runs through.

    Args:
        model: the modules.
        blocks: paths of its decoder blocks.
    """
    beside = _towers(model, blocks)
    return sum(p.numel() for n, p in model.named_parameters() if not n.startswith(beside))


def fill(model: nn.Module, blocks: tuple[str, ...]) -> None:
    """Give parameters on meta random values of a size that keeps activations near one.

    Args:
        model: the modules; its tied weights are tied again.
        blocks: paths of its decoder blocks.
    """
    beside, tied = _towers(model, blocks), tied_names(model)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in list(model.named_parameters()):
        if name in tied or parameter.device.type != "meta":
            continue
        path, _, attribute = name.rpartition(".")
        owner = model.get_submodule(path)
        if name.startswith(beside):
            # Never computed with: one number in the shape of all.
            zeros = torch.zeros(()).expand(parameter.shape)
            owner._parameters[attribute] = nn.Parameter(zeros, requires_grad=False)
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() < 2:
            value = 0.1 * noise + (1.0 if "norm" in name.lower() and attribute != "bias" else 0.0)
        else:
            value = noise * parameter.shape[-1] ** -0.5
        owner._parameters[attribute] = nn.Parameter(value, requires_grad=False)
    model.tie_weights()  # type: ignore[operator]
