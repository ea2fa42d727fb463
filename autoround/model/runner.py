"""Blocks as pure functions: their first inputs, their arguments, and running them.

Weights are substituted for one call (``torch.func.functional_call``); no module is
wrapped or replaced, and nothing stays on the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoround.errors import ModelError
from autoround.model.skeleton import Skeleton


@dataclass(frozen=True)
class Call:
    """How the model calls one block, apart from its hidden states (args[0])."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _LastBlockReached(Exception):  # noqa: N818 (control flow, not an error)
    """Ends a rehearsal of the model before its head runs."""


class BlockRunner:
    """Runs blocks of one model on one device, in one dtype."""

    def __init__(self, skeleton: Skeleton, *, device: torch.device, dtype: torch.dtype) -> None:
        self._skeleton = skeleton
        self._device = device
        self._dtype = dtype
        self._calls: dict[tuple[int, int], tuple[Call, ...]] = {}
        self._example: Tensor | None = None
        self._outer: dict[str, Tensor] | None = None
        self._as_tuple = False

    def place(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Move tensors to the device, floating-point ones in the compute dtype."""
        return {
            name: t.to(self._device, self._dtype) if t.is_floating_point() else t.to(self._device)
            for name, t in tensors.items()
        }

    def embed(self, ids: Tensor) -> Tensor:
        """Return the inputs of the first block.

        ids: int64 [n, seq]. Returns [n, seq, hidden] in the compute dtype.
        """
        return self._rehearse(ids)[0]

    def prepare(self, ids: Tensor) -> None:
        """Learn how the model calls its blocks, from example tokens.

        ids: int64 [n, seq], seq being that of every later batch.

        Raises:
            ModelError: what blocks are given depends on the tokens.
        """
        self._example = ids[:2]
        self._call((1, ids.shape[1]), 0)

    def run(self, index: int, weights: Mapping[str, Tensor], *, hidden: Tensor) -> Tensor:
        """Run one block.

        weights: all of its tensors, by their names inside the block, on the device.
        hidden: [batch, seq, hidden], seq as prepared. Returns the same shape.
        """
        call = self._call((hidden.shape[0], hidden.shape[1]), index)
        block = self._skeleton.model.get_submodule(self._skeleton.blocks[index])
        out = functional_call(block, dict(weights), (hidden, *call.args), call.kwargs)
        output: Tensor = out[0] if isinstance(out, tuple) else out
        return output

    def release(self) -> None:
        """Free the embeddings; they are read again if another batch shape comes up."""
        self._outer = None

    def outer(self) -> dict[str, Tensor]:
        """Read what lies outside the blocks, the head too, for :meth:`head`."""
        tensors = self._skeleton.read(self._skeleton.names_outside_blocks())
        return self.place(tensors) | _outer_buffers(self._skeleton, self._device)

    def head(self, outer: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        """Turn what the last block puts out into logits, by the model's own code.

        Comes after :meth:`embed`, which learns what blocks return.

        outer: from :meth:`outer`. hidden: [batch, seq, hidden], any seq: what follows the
        blocks looks at each position by itself. Returns [batch, seq, vocabulary].
        """
        skeleton = self._skeleton
        ids = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=self._device)
        arguments = {"input_ids": ids, "use_cache": False}
        answer = (hidden,) if self._as_tuple else hidden
        with _blocks_as(skeleton, lambda *args, **kwargs: answer):
            out = functional_call(skeleton.model, dict(outer), (), arguments)
        logits: Tensor = out.logits
        return logits

    def _call(self, shape: tuple[int, int], index: int) -> Call:
        """Return a block's arguments for a batch shape, rehearsing it the first time."""
        if shape not in self._calls:
            assert self._example is not None, "prepare() comes before run()"
            held = self._outer is not None
            ids = self._example[:, : shape[1]]
            first = ids[:1].expand(shape[0], -1)
            second = torch.flip(ids[-1:], (1,)).expand(shape[0], -1)
            calls, other = self._rehearse(first)[1], self._rehearse(second)[1]
            for block, one, two in zip(self._skeleton.blocks, calls, other, strict=True):
                _refuse_token_arguments(block, one, two)
            self._calls[shape] = calls
            if not held:
                # Read for this alone: embeddings would stay for the rest of the run.
                self.release()
        return self._calls[shape][index]

    def buffers(self, index: int) -> dict[str, Tensor]:
        """Return a block's buffers that no checkpoint holds, on the device."""
        path = self._skeleton.blocks[index]
        block = self._skeleton.model.get_submodule(path)
        return {
            name: buffer.to(self._device)
            for name, buffer in block.named_buffers()
            if f"{path}.{name}" not in self._skeleton.keys
        }

    def _rehearse(self, ids: Tensor) -> tuple[Tensor, tuple[Call, ...]]:
        """Run the model with its blocks passing their input on; record what they get."""
        skeleton = self._skeleton
        if self._outer is None:
            outer = skeleton.read(skeleton.names_outside_blocks())
            for name in [n for n in outer if _is_head(skeleton, n)]:
                del outer[name]
            self._outer = self.place(outer)
            self._outer |= _outer_buffers(skeleton, self._device)
        for as_tuple in (False, True):
            recorded: list[tuple[Tensor, Call]] = []
            with _passing_blocks(skeleton, recorded, as_tuple=as_tuple), torch.no_grad():
                try:
                    functional_call(
                        skeleton.model,
                        self._outer,
                        (),
                        {"input_ids": ids.to(self._device), "use_cache": False},
                    )
                except _LastBlockReached:
                    pass
                except (IndexError, TypeError, AttributeError, ValueError, RuntimeError):
                    # A model that expects tuples from its blocks trips over tensors.
                    if as_tuple:
                        raise
                    continue
            hidden = [h for h, _ in recorded]
            if len(recorded) == len(skeleton.blocks) and all(
                h.shape == hidden[0].shape for h in hidden
            ):
                self._as_tuple = as_tuple
                return hidden[0].to(self._dtype), tuple(call for _, call in recorded)
        raise ModelError(
            f"{type(skeleton.model).__name__} does not run its {len(skeleton.blocks)} blocks "
            f"({skeleton.blocks[0]} …) one after the other; only {len(recorded)} were reached"
        )


def _is_head(skeleton: Skeleton, name: str) -> bool:
    """Tell whether a tensor is only used after the blocks: the output projection."""
    get = getattr(skeleton.model, "get_output_embeddings", None)
    head = get() if get is not None else None
    if head is None or not isinstance(head.weight, nn.Parameter):
        return False
    path = next((n for n, m in skeleton.model.named_modules() if m is head), None)
    return path is not None and name.startswith(path + ".")


def _outer_buffers(skeleton: Skeleton, device: torch.device) -> dict[str, Tensor]:
    """Return the buffers outside the blocks that no checkpoint holds."""
    prefixes = tuple(block + "." for block in skeleton.blocks)
    return {
        name: buffer.to(device)
        for name, buffer in skeleton.model.named_buffers()
        if not name.startswith(prefixes) and name not in skeleton.keys
    }


@contextmanager
def _passing_blocks(
    skeleton: Skeleton, recorded: list[tuple[Tensor, Call]], *, as_tuple: bool
) -> Iterator[None]:
    """Make every block return its input and note its arguments, for the time of a call."""

    def passing(*args: Any, **kwargs: Any) -> Any:
        arguments = dict(kwargs)
        hidden = args[0] if args else arguments.pop("hidden_states")
        recorded.append((hidden, Call(tuple(args[1:]), arguments)))
        if len(recorded) == len(skeleton.blocks):
            raise _LastBlockReached
        return (hidden,) if as_tuple else hidden

    with _blocks_as(skeleton, passing):
        yield


@contextmanager
def _blocks_as(skeleton: Skeleton, forward: Callable[..., Any]) -> Iterator[None]:
    """Let every block do what the given function does, for the time of a call."""
    modules = [skeleton.model.get_submodule(path) for path in skeleton.blocks]
    try:
        for module in modules:
            module.forward = forward
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)


def _refuse_token_arguments(block: str, first: Call, second: Call) -> None:
    for name in first.kwargs.keys() | second.kwargs.keys():
        if not _same(first.kwargs.get(name), second.kwargs.get(name)):
            raise ModelError(
                f"block {block} is given {name!r}, which depends on the tokens; such models "
                "cannot be tuned block by block yet: use tuning.iters=0 with init=minmax"
            )
    if not all(map(_same, first.args, second.args)):
        raise ModelError(
            f"block {block} is given positional arguments that depend on the tokens; such "
            "models cannot be tuned block by block yet: use tuning.iters=0 with init=minmax"
        )


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.shape == right.shape and torch.equal(left, right)
    if isinstance(left, (tuple, list)) and isinstance(right, (tuple, list)):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[k], right[k]) for k in left)
    # Anything else (flags, caches, configs) is not made of token values.
    return type(left) is type(right)
