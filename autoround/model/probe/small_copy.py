"""A small model of the same class with random weights, to see what its code does.

Nothing of the real weights is read: the copy has the class's own modules at narrow widths, and
every kind of block that the model has, twice where the model has it twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoround.model.blocks import decoder_blocks, tied_names, vision_blocks
from autoround.model.build import build_from
from autoround.model.probe.narrow import VOCABULARY, layer_count, narrow_config

#: Parameters of a copy at most: 768 MB in float32.
LARGEST = 192 * 2**20
#: Numbers of layers that are tried, until every kind of block is there.
_LAYERS = (2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32)
#: What marks a kind of block beside the classes of its modules.
Signature = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class SmallCopy:
    """A small model on the CPU in float32, in evaluation mode.

    model: the modules. blocks: paths of its decoder blocks. kinds: the kind of each of them.
    uncovered: kinds of the model's blocks that the copy has none of.
    """

    model: nn.Module
    blocks: tuple[str, ...]
    kinds: tuple[Signature, ...]
    uncovered: frozenset[Signature]

    def batch(self, rows: int, length: int, *, seed: int) -> Tensor:
        """Draw token ids, int64 [rows, length], away from the special ones at both ends."""
        tokens: Any = self.model.get_input_embeddings()  # type: ignore[operator]
        known = int(getattr(tokens, "num_embeddings", VOCABULARY))
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(known // 16, known // 2, (rows, length), generator=generator)


def signature(block: nn.Module) -> Signature:
    """Return what tells kinds of blocks apart: classes of modules, and their flags and words."""
    return tuple(
        (path, type(module).__name__, *_marks(module)) for path, module in block.named_modules()
    )


def _marks(module: nn.Module) -> Iterator[str]:
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or name == "training" or "layer_idx" in name:
            continue
        if isinstance(value, bool | str):
            yield f"{name}={value}"
        elif value is None:
            yield f"{name}=None"


def make_small_copy(
    model: type[nn.Module], config: Any, kinds: Counter[Signature]
) -> SmallCopy | str:
    """Make a small copy of a model.

    Args:
        model: its class.
        config: its config, of transformers.
        kinds: how many blocks of each kind it has.

    Returns:
        The copy; or why there is none, in words.
    """
    made: SmallCopy | str = "its config takes no other widths"
    for widths in (True, False):
        made = _cover(config, kinds, widths=widths)
        if isinstance(made, SmallCopy):
            break
    if isinstance(made, SmallCopy) and type(made.model) is not model:
        return f"transformers makes a {type(made.model).__name__} of the config"
    return made


def describe_error(error: Exception) -> str:
    """Return an error of somebody else's code in one line."""
    return " ".join(str(error).split())[:160] or repr(error)


def _cover(config: Any, wanted: Counter[Signature], *, widths: bool) -> SmallCopy | str:
    """Build modules with the fewest layers that show every kind of block."""
    total = layer_count(config)
    best: SmallCopy | None = None
    least = sum(wanted.values()) + 1
    reason = "a small copy of it would not be small"
    for layers in [n for n in _LAYERS if n < total] + [min(total, _LAYERS[-1])]:
        try:
            with _fixed_seed():
                model = build_from(narrow_config(config, layers, widths=widths))
            blocks = tuple(decoder_blocks(model))
        except Exception as error:  # not every class takes every number of layers
            reason = describe_error(error)
            continue
        if _size(model, blocks) > LARGEST:
            break
        kinds = tuple(signature(model.get_submodule(path)) for path in blocks)
        counts = Counter(kinds)
        lacking = sum(min(2, n) - min(2, counts[kind], n) for kind, n in wanted.items())
        if lacking >= least:
            continue
        uncovered = frozenset(kind for kind in wanted if not counts[kind])
        made = SmallCopy(model, blocks, kinds, uncovered)
        failure = _why_not_run(made)
        if failure:
            reason = failure
            continue
        best, least = made, lacking
        if not lacking:
            break
    return best or reason


def _why_not_run(copy: SmallCopy) -> str:
    """Give a copy its weights and run it; returns what its code raised, or an empty text."""
    _fill(copy.model, copy.blocks)
    try:
        with torch.no_grad():
            copy.model(input_ids=copy.batch(2, 6, seed=0), use_cache=False)
    except Exception as error:  # code that does not fit fails in many unrelated ways
        return describe_error(error)
    return ""


@contextmanager
def _fixed_seed() -> Iterator[None]:
    """Draw the same numbers always, and leave the caller's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _towers(model: nn.Module, blocks: tuple[str, ...]) -> tuple[str, ...]:
    """Return the paths of blocks that text does not run through, as prefixes."""
    text = blocks[0].rpartition(".")[0]
    lists = {path.rpartition(".")[0] for path in vision_blocks(model, blocks)}
    words = ("vis", "audio", "image")
    return tuple(f"{_beside(path, text)}." for path in lists if any(word in path for word in words))


def _beside(path: str, other: str) -> str:
    """Return the topmost module above a path that is not above the other one as well."""
    parts = path.split(".")
    above = (".".join(parts[: i + 1]) for i in range(len(parts)))
    return next(p for p in above if not f"{other}.".startswith(f"{p}."))


def _size(model: nn.Module, blocks: tuple[str, ...]) -> int:
    towers = _towers(model, blocks)
    return sum(p.numel() for n, p in model.named_parameters() if not n.startswith(towers))


def _fill(model: nn.Module, blocks: tuple[str, ...]) -> None:
    """Give parameters random values of a size that keeps activations near one."""
    towers, tied = _towers(model, blocks), tied_names(model)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in list(model.named_parameters()):
        if name in tied or parameter.device.type != "meta":
            continue
        path, _, attribute = name.rpartition(".")
        owner = model.get_submodule(path)
        if name.startswith(towers):
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
