"""How a model calls its blocks: an identity forward that records call arguments.

Arguments beside the hidden states (masks, rotary tables, positions, features of a vision
tower) may be the same for all samples or differ from one to the next. Those that differ are
stored by sample and concatenated again for each batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoround.errors import ModelError

#: Inputs of a model for one sample beside its tokens, such as pixel values.
Media = Mapping[str, Tensor]


@dataclass(frozen=True)
class Call:
    """Arguments of one call of a block, without its hidden states (args[0])."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def leaves(self) -> list[Any]:
        """The arguments without their nesting."""
        return pytree.tree_flatten((self.args, self.kwargs))[0]

    def with_leaves(self, leaves: Sequence[Any]) -> Call:
        """Return the call with other leaves in the same nesting.

        Args:
            leaves: As many as :attr:`leaves`, in their order.
        """
        spec = pytree.tree_flatten((self.args, self.kwargs))[1]
        args, kwargs = pytree.tree_unflatten(list(leaves), spec)
        return Call(args, kwargs)


class Trace(NamedTuple):
    """One forward pass of a model whose blocks return their input.

    Attributes:
        hidden: Input of every block, [batch, seq, hidden]; None for a block that was not run.
        calls: Arguments of every block; None for a block that was not run.
    """

    hidden: tuple[Tensor | None, ...]
    calls: tuple[Call | None, ...]

    @property
    def first(self) -> Tensor:
        """Input of the first block that is run, [batch, seq, hidden]."""
        return next(hidden for hidden in self.hidden if hidden is not None)

    def additions(self) -> list[Tensor | None]:
        """Return what the model adds to the hidden states before every block, None for nothing."""
        additions: list[Tensor | None] = []
        before: Tensor | None = None
        for hidden in self.hidden:
            # Blocks return their input here, so any difference was made between two of them; where
            # nothing was, it is the same tensor, and no device is asked.
            differs = not (
                before is None or hidden is None or before is hidden
            ) and not torch.equal(before, hidden)
            additions.append(hidden - before if differs and hidden is not None else None)  # type: ignore[operator]
            before = before if hidden is None else hidden
        return additions


class LastBlockReached(Exception):  # noqa: N818 (control flow, not an error)
    """Ends a trace of the model before its head runs."""


def as_returned(hidden: Tensor, returned: int) -> Any:
    """Return hidden states as a block does: alone, or in a tuple whose other entries are None.

    Args:
        hidden: Hidden states.
        returned: Length of the tuple; 0 for none.
    """
    return (hidden, *[None] * (returned - 1)) if returned else hidden


@contextmanager
def substitute_forward(
    blocks: Sequence[nn.Module], forward: Callable[[int], Callable[..., Any]]
) -> Iterator[None]:
    """Give every block the forward that a function returns for its number, for a while.

    Args:
        blocks: Modules.
        forward: Returns what takes the place of a block's own.
    """
    # A block may have a forward of its own, beside its class.
    replaced = [module.__dict__.get("forward") for module in blocks]
    try:
        for index, module in enumerate(blocks):
            module.forward = forward(index)
        yield
    finally:
        for module, before in zip(blocks, replaced, strict=True):
            module.__dict__.pop("forward", None)
            if before is not None:
                module.forward = before


class CallRecorder:
    """Identity forward of blocks that records call arguments.

    Args:
        recorded: Where to, by the blocks' numbers.
        returned: Length of the tuples that blocks return; 0 for a tensor.
        factor: That blocks multiply their input with.
        last: Number of the last block, which ends the trace.
    """

    def __init__(
        self, recorded: dict[int, tuple[Tensor, Call]], *, returned: int, factor: float, last: int
    ) -> None:
        self._recorded, self._returned = recorded, returned
        self._factor, self._last = factor, last
        self.repeated = False

    def block(self, index: int) -> Callable[..., Any]:
        """Return the forward of one block."""

        def identity(*args: Any, **kwargs: Any) -> Any:
            arguments = dict(kwargs)
            hidden = args[0] if args else arguments.pop("hidden_states")
            # Blocks that share weights, or run again, are not run one after the other.
            self.repeated |= bool(self._recorded) and index <= max(self._recorded)
            self._recorded[index] = (hidden, Call(tuple(args[1:]), arguments))
            if index == self._last:
                raise LastBlockReached
            out = hidden if self._factor == 1.0 else hidden * self._factor
            return as_returned(out, self._returned)

        return identity


#: Runs the model on (ids, media), its blocks returning their input times a factor.
TraceModel = Callable[[Tensor, Sequence[Media], float], Trace]


def batch_media(media: Sequence[Media]) -> dict[str, Tensor]:
    """Concatenate the media of several samples, as a processor does for a batch.

    Args:
        media: Tensors by name for each sample, all with the same names.

    Returns:
        Tensors by name, concatenated along their first axis; empty without media.
    """
    if not media:
        return {}
    return {key: torch.cat([sample[key] for sample in media]) for key in media[0]}


class BlockCalls:
    """Call arguments of every block, for batches of any samples of one calibration set."""

    def __init__(self, ids: Tensor, media: Sequence[Media], trace: TraceModel) -> None:
        """Trace the samples; two are enough where blocks get the same arguments.

        Args:
            ids: Token ids, int64 [n, seq].
            media: Further inputs of the model for each sample, or nothing.
            trace: Runs the model on some samples.

        Raises:
            ModelError: The model changes hidden states between blocks other than by addition.
        """
        self._ids, self._media, self._trace = ids, media, trace
        self._shapes: dict[int, Trace] = {}
        first = trace(ids[:1], media[:1], 1.0)
        self.runs = tuple(call is not None for call in first.calls)
        self._differs: list[set[int]] = [set() for _ in first.calls]
        self._samples: list[list[dict[int, Any]]] = []
        self._additions: list[list[Tensor | None]] = []
        # Reversed tokens: a set of a single sample still shows which arguments depend on them.
        # Placeholders of images must stay where they are.
        other = ids[-1:].flip(1) if not media else ids[-1:]
        last = trace(other, media[-1:], 1.0)
        if media or _differences(first, last) or any(x is not None for x in first.additions()):
            self._refuse_unless_additive(first, ids[:1], media[:1])
            self._trace_samples(first)
        self._axes = self._batch_axes(first) if self._samples else []

    @property
    def by_sample(self) -> bool:
        """Whether arguments differ between samples, so that a batch must name its samples."""
        return bool(self._samples)

    def call(self, index: int, batch: int, rows: Tensor | None) -> Call | None:
        """Return the arguments of a block for a batch; None for a block that is not run.

        Args:
            index: The block's number.
            batch: Number of samples in the batch.
            rows: Sample numbers, int64 [batch]; may be None where :attr:`by_sample` is false.

        Raises:
            ModelError: Arguments of several samples cannot be concatenated, or rows is missing.
        """
        base = self._batch_trace(batch).calls[index]
        if base is None or not self._samples or not self._differs[index]:
            return base
        chosen = self._rows(rows, batch)
        leaves = base.leaves
        for leaf in self._differs[index]:
            values = [self._samples[row][index][leaf] for row in chosen]
            leaves[leaf] = _concatenate(values, self._axes[index].get(leaf))
        return base.with_leaves(leaves)

    def addition(self, index: int, batch: int, rows: Tensor | None) -> Tensor | None:
        """Return what the model adds to the hidden states before a block.

        Args:
            index: The block's number.
            batch: Number of samples in the batch.
            rows: Sample numbers, int64 [batch]; may be None where :attr:`by_sample` is false.

        Returns:
            [batch, seq, hidden], or None where nothing is added.
        """
        if not self._samples:
            return None
        chosen = self._rows(rows, batch)
        parts = [self._additions[row][index] for row in chosen]
        example = next((part for part in parts if part is not None), None)
        if example is None:
            return None
        # A sample without an image adds nothing: zeros keep it in the batch.
        return torch.cat([torch.zeros_like(example) if part is None else part for part in parts])

    def _rows(self, rows: Tensor | None, batch: int) -> list[int]:
        if rows is None:
            if batch != 1 or len(self._ids) != 1:
                raise ModelError("blocks of this model are called differently for each sample")
            return [0]
        return [int(row) for row in rows]

    def _batch_trace(self, batch: int) -> Trace:
        """Return a trace of the first sample, repeated ``batch`` times."""
        if batch not in self._shapes:
            media = [self._media[0]] * batch if self._media else []
            self._shapes[batch] = self._trace(self._ids[:1].expand(batch, -1), media, 1.0)
        return self._shapes[batch]

    def _trace_samples(self, first: Trace) -> None:
        """Trace every sample, and store the arguments that differ from the first one."""
        traces = [first]
        for row in range(1, len(self._ids)):
            media = [self._media[row]] if self._media else []
            traces.append(self._trace(self._ids[row : row + 1], media, 1.0))
            for index, leaves in _differences(first, traces[-1]).items():
                self._differs[index] |= leaves
        # Only now is it known which arguments differ anywhere: those are stored, the rest freed.
        for trace in traces:
            self._samples.append(
                [
                    {} if call is None else {leaf: call.leaves[leaf] for leaf in differing}
                    for call, differing in zip(trace.calls, self._differs, strict=True)
                ]
            )
            self._additions.append(trace.additions())

    def _batch_axes(self, one: Trace) -> list[dict[int, int]]:
        """Return the batch axis of each argument: the one that grows from one sample to two."""
        two = self._batch_trace(2)
        axes: list[dict[int, int]] = []
        for single, double in zip(one.calls, two.calls, strict=True):
            axis_of: dict[int, int] = {}
            if single is not None and double is not None:
                for leaf, (a, b) in enumerate(zip(single.leaves, double.leaves, strict=True)):
                    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.dim() == b.dim():
                        grown = [i for i in range(a.dim()) if a.shape[i] != b.shape[i]]
                        if len(grown) == 1:
                            axis_of[leaf] = grown[0]
            axes.append(axis_of)
        return axes

    def _refuse_unless_additive(self, one: Trace, ids: Tensor, media: Sequence[Media]) -> None:
        """Refuse a model that changes hidden states between blocks other than by addition."""
        additions = one.additions()
        if all(part is None for part in additions):
            return
        # An addition stays the same when the blocks return half of their input.
        half = self._trace(ids, media, 0.5)
        before: Tensor | None = None
        for index, (hidden, part) in enumerate(zip(half.hidden, additions, strict=True)):
            if hidden is None:
                continue
            if before is not None:
                wanted = before * 0.5 if part is None else before * 0.5 + part
                if not torch.allclose(hidden, wanted, rtol=1e-2, atol=1e-3):
                    raise ModelError(
                        f"the model changes the hidden states between blocks {index - 1} and "
                        f"{index} other than by addition; such models cannot be tuned block by "
                        "block: use tuning.iters=0 with tuning.init_scale=minmax"
                    )
            before = hidden


def _differences(one: Trace, two: Trace) -> dict[int, set[int]]:
    """Return which arguments of which blocks differ between two traces."""
    differing_leaves: dict[int, set[int]] = {}
    # Most arguments are those of all blocks: a device is asked once for each, not once a block.
    compared: dict[tuple[int, int], bool] = {}

    def same(left: Any, right: Any) -> bool:
        pair = id(left), id(right)
        if pair not in compared:
            compared[pair] = _same(left, right)
        return compared[pair]

    for index, (a, b) in enumerate(zip(one.calls, two.calls, strict=True)):
        if (a is None) != (b is None):
            raise ModelError(
                f"block {index} is run for some samples only; give all of them an image, or none"
            )
        if a is None or b is None:
            continue
        left, right = a.leaves, b.leaves
        if len(left) != len(right):
            raise ModelError(
                f"the model calls block {index} with more arguments for some samples than for "
                "others; give all samples the same kinds of inputs"
            )
        differing = {i for i, pair in enumerate(zip(left, right, strict=True)) if not same(*pair)}
        if differing:
            differing_leaves[index] = differing
    return differing_leaves


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left is right or (left.shape == right.shape and torch.equal(left, right))
    # Anything else (flags, caches, configs) is not made of token values.
    return type(left) is type(right)


def _concatenate(values: Sequence[Any], axis: int | None) -> Any:
    """Concatenate the values of an argument for several samples."""
    if len(values) == 1:
        return values[0]
    if axis is None:
        if all(_same(values[0], value) for value in values[1:]):
            return values[0]
        raise ModelError(
            f"an argument of the blocks ({_describe(values[0])}) depends on the sample and has no "
            "batch axis: use tuning.batch_size=1"
        )
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        raise ModelError(
            "an argument of the blocks has another shape for each sample "
            f"({_describe(values[0])}): give all samples images of one size, or use "
            "tuning.batch_size=1"
        )
    return torch.cat(list(values), dim=axis)


def _describe(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
