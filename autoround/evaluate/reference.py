"""The original's logits on a text, after its blocks have left the memory.

KL divergence needs whole distributions: of 16,384 tokens and 150,000 words, 10 GB in float32. What
the last block puts out is a hundredth of that, and norm and head make the same logits of it again.
So the original is gone before the quantized model is loaded, all but its head and embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from autoround.errors import ModelError
from autoround.evaluate.perplexity import OnWindow, check_windows, window_logits, windows
from autoround.model.block_calls import LastBlockReached, as_returned, substitute_forward
from autoround.model.blocks import decoder_blocks
from autoround.model.positions import hidden_size

#: What the last block puts out, [1, n, hidden], by the tokens of the window.
States: TypeAlias = dict[tuple[int, ...], Tensor]


class RecordedModel:
    """What is kept of a model: its logits on the windows that it was recorded on, and no others.

    Args:
        model: whose blocks are not run any more.
        blocks: of the model.
        states: what the last one put out.
        returned: length of the tuples that they return; 0 for a tensor.
    """

    def __init__(
        self,
        model: Any,
        blocks: Sequence[nn.Module],
        states: Mapping[tuple[int, ...], Tensor],
        *,
        returned: int,
    ) -> None:
        self._model, self._blocks = model, blocks
        self._states, self._returned = states, returned

    @property
    def device(self) -> torch.device:
        """That logits are computed on."""
        device: torch.device = self._model.device
        return device

    @torch.no_grad()
    def __call__(self, *, input_ids: Tensor, use_cache: bool = False) -> Any:
        """Return what the model returned for a window, as its head makes it again.

        Args:
            input_ids: of a window that was recorded, int64 [1, n].
            use_cache: passed on.

        Raises:
            KeyError: the window was not recorded.
        """
        hidden = self._states[_key(input_ids[0])].to(self.device)
        output = as_returned(hidden, self._returned)
        # All blocks return the same: only norm and head compute anything.
        with substitute_forward(self._blocks, lambda index: lambda *args, **kwargs: output):
            return self._model(input_ids=input_ids, use_cache=use_cache)


@torch.no_grad()
def record(model: Any, ids: Tensor, *, seqlen: int, on_window: OnWindow | None = None) -> Any:
    """Run a model over a text, and keep of it only what its logits there are made of.

    Args:
        model: a causal language model of transformers, and nobody else's: its blocks are emptied.
        ids: token ids of the text, int64 [n].
        seqlen: tokens of a window.
        on_window: called with the number of windows that are done, and of all.

    Returns:
        What takes the model's place in :func:`evaluate` for this text. The model itself, untouched,
        where what is kept would be larger than its blocks, or does not make the same logits again,
        bit by bit.

    Raises:
        DataError, UsageError: the text cannot be scored by the model.
    """
    check_windows(model, ids, seqlen=seqlen)
    blocks = _blocks(model)
    taken = len(ids) * hidden_size(model) * torch.float32.itemsize
    weights = sum(p.nbytes for block in blocks for p in block.parameters())
    parts = list(windows(ids, seqlen))
    returned = _tuple_length(model, blocks, parts[0]) if 0 < taken < weights else None
    if returned is None:
        return model
    states: States = {}
    for number, window in enumerate(parts, start=1):
        with _catching(blocks[-1], stops=True) as caught, suppress(LastBlockReached):
            window_logits(model, window)
        states[_key(window)] = _hidden(caught[0]).to("cpu")
        if on_window is not None:
            on_window(number, len(parts))
    for block in blocks:
        block.to("meta")
    return RecordedModel(model, blocks, states, returned=returned)


def count_from(on_window: OnWindow, start: int, total: int) -> OnWindow:
    """Return a function that counts the windows of one model among those of several.

    Args:
        on_window: is told of the windows that are done, and of all.
        start: windows of the models before.
        total: of all models.
    """

    def count(done: int, of: int) -> None:
        on_window(start + done, total)

    return count


def _blocks(model: Any) -> list[nn.Module]:
    """Return the blocks of a model; none where it has none that are known."""
    try:
        return [model.get_submodule(path) for path in decoder_blocks(model)]
    except (ModelError, AttributeError):
        return []


def _tuple_length(model: Any, blocks: Sequence[nn.Module], window: Tensor) -> int | None:
    """Return the length of the tuples that blocks return, 0 for a tensor.

    Returns:
        None where the logits of a window cannot be made again from what the last block puts out.
    """
    with _catching(blocks[-1]) as caught:
        logits = window_logits(model, window)
    # A model may run its blocks more than once, or do something else with what they return.
    if len(caught) != 1:
        return None
    hidden = _hidden(caught[0])
    if not isinstance(hidden, Tensor):
        return None
    returned = len(caught[0]) if isinstance(caught[0], tuple) else 0
    recorded = RecordedModel(model, blocks, {_key(window): hidden}, returned=returned)
    try:
        again = window_logits(recorded, window)
    except Exception:  # somebody else's code fails in many unrelated ways
        return None
    return returned if torch.equal(logits, again) else None


@contextmanager
def _catching(block: nn.Module, *, stops: bool = False) -> Iterator[list[Any]]:
    """Catch what a block returns, and perhaps stop there."""
    caught: list[Any] = []

    def catch(module: nn.Module, args: Any, output: Any) -> None:
        caught.append(output)
        if stops:
            # The head is run when its logits are compared.
            raise LastBlockReached

    handle = block.register_forward_hook(catch)
    try:
        yield caught
    finally:
        handle.remove()


def _hidden(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) and output else output


def _key(window: Tensor) -> tuple[int, ...]:
    return tuple(window.tolist())
