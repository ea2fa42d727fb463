"""The first blocks of a model at its own widths, for classes that take no narrow ones."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

from torch import nn

from autoround.errors import one_line
from autoround.model.blocks import decoder_blocks
from autoround.model.build import build_from
from autoround.model.probe.narrow import VOCABULARY
from autoround.model.probe.random_weights import fill, fixed_seed, size
from autoround.model.probe.small_copy import (
    Signature,
    SmallCopy,
    signature,
    why_not_run,
)

#: Parameters of the blocks that are run at most: 2 GB in float32, two blocks of an 8B model.
LARGEST = 512 * 2**20
#: Blocks of each kind that are run: one that leaves state and one that meets it.
EACH = 2


def take_first_blocks(
    kind: type[nn.Module], config: Any, wanted: Counter[Signature]
) -> SmallCopy | str:
    """Build a model, cut it after its first blocks, and give these random weights.

    The weights of the checkpoint are not needed to see what code does, so that a plan, which may
    have no weights at hand, finds what a run finds.

    Args:
        kind: class of the model.
        config: its config, of transformers.
        wanted: how many blocks of each kind the model has.

    Returns:
        The blocks with all around them but the tokens that are never used; or why they cannot be
        run, in words.
    """
    full = copy.deepcopy(config)
    if getattr(full, "_attn_implementation", None) not in (None, "eager"):
        # Others (flash attention, for one) do not run on a CPU.
        full._attn_implementation = "sdpa"
    try:
        with fixed_seed():
            model = build_from(full)
        if type(model) is not kind:
            return f"transformers makes a {type(model).__name__} of the config"
        paths = decoder_blocks(model)
        kinds = [signature(model.get_submodule(path)) for path in paths]
        count = _cut(model, paths, kinds)
        _narrow_vocabulary(model)
    except Exception as error:  # somebody else's code fails in many unrelated ways
        return one_line(error)
    blocks = tuple(paths[:count])
    if count < min(EACH, len(paths)) or size(model, blocks) > LARGEST:
        return "a small copy of it would not be small"
    uncovered = frozenset(wanted) - set(kinds[:count])
    taken = SmallCopy(model, blocks, tuple(kinds[:count]), uncovered)
    with fixed_seed():
        fill(model, blocks)
    return why_not_run(taken) or taken


def _cut(model: nn.Module, paths: list[str], kinds: list[Signature]) -> int:
    """Leave the first blocks: each kind as often as needed, as far as memory allows.

    Returns:
        How many are left.
    """
    weights, seen, count = 0, Counter[Signature](), 0
    for number, (path, kind) in enumerate(zip(paths, kinds, strict=True), start=1):
        weights += sum(p.numel() for p in model.get_submodule(path).parameters())
        if weights > LARGEST:
            break
        if seen[kind] < EACH:
            count = number
        seen[kind] += 1
    listed = paths[0].rpartition(".")[0]
    parent, _, name = listed.rpartition(".")
    blocks: Any = model.get_submodule(listed)
    setattr(model.get_submodule(parent), name, nn.ModuleList(list(blocks)[:count]))
    return count


def _narrow_vocabulary(model: Any) -> None:
    """Leave a few tokens of an embedding and of a head, which are large and do nothing else."""
    tokens, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(tokens, nn.Embedding) and tokens.num_embeddings > VOCABULARY:
        tokens.weight = nn.Parameter(tokens.weight[:VOCABULARY], requires_grad=False)
        tokens.num_embeddings = VOCABULARY
        if tokens.padding_idx is not None and tokens.padding_idx >= VOCABULARY:
            tokens.padding_idx = None
    if isinstance(head, nn.Linear) and head.out_features > VOCABULARY:
        head.weight = nn.Parameter(head.weight[:VOCABULARY], requires_grad=False)
        if head.bias is not None:
            head.bias = nn.Parameter(head.bias[:VOCABULARY], requires_grad=False)
        head.out_features = VOCABULARY
    model.tie_weights()
