"""A small model of the same class with random weights, to see what its code does.

Nothing of the real weights is read: the copy has the class's own modules at narrow widths, and
every kind of block that the model has, twice where the model has it twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoround.errors import one_line
from autoround.model.blocks import decoder_blocks
from autoround.model.build import build_from
from autoround.model.probe.narrow import VOCABULARY, layer_count, narrow_config
from autoround.model.probe.random_weights import fill, fixed_seed, size

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


def _cover(config: Any, wanted: Counter[Signature], *, widths: bool) -> SmallCopy | str:
    """Build modules with the fewest layers that show every kind of block."""
    total = layer_count(config)
    best: SmallCopy | None = None
    least = sum(wanted.values()) + 1
    reason = "a small copy of it would not be small"
    for layers in [n for n in _LAYERS if n < total] + [min(total, _LAYERS[-1])]:
        try:
            with fixed_seed():
                model = build_from(narrow_config(config, layers, widths=widths))
            blocks = tuple(decoder_blocks(model))
        except Exception as error:  # not every class takes every number of layers
            reason = one_line(error)
            continue
        if size(model, blocks) > LARGEST:
            break
        kinds = tuple(signature(model.get_submodule(path)) for path in blocks)
        counts = Counter(kinds)
        lacking = sum(min(2, n) - min(2, counts[kind], n) for kind, n in wanted.items())
        if lacking >= least:
            continue
        uncovered = frozenset(kind for kind in wanted if not counts[kind])
        made = SmallCopy(model, blocks, kinds, uncovered)
        fill(model, blocks)
        failure = why_not_run(made)
        if failure:
            reason = failure
            continue
        best, least = made, lacking
        if not lacking:
            break
    return best or reason


def why_not_run(copy: SmallCopy) -> str:
    """Run a copy once; returns what its code raised, or an empty text."""
    try:
        with torch.no_grad():
            copy.model(input_ids=copy.batch(2, 6, seed=0), use_cache=False)
    except Exception as error:  # code that does not fit fails in many unrelated ways
        return one_line(error)
    return ""
