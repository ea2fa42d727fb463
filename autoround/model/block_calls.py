"""How a model calls its blocks, learned by running it with blocks that pass their input on.

What blocks are given beside their hidden states (masks, rotary tables, positions, what a vision
tower saw) may be the same for all samples or differ from one to the next. What differs is kept
by sample and put together again for each batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoround.errors import ModelError

#: Inputs of a model that go with one sample beside its tokens, such as pixel values.
Media = Mapping[str, Tensor]


@dataclass(frozen=True)
class Call:
    """How the model calls one block, apart from its hidden states (args[0])."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def leaves(self) -> list[Any]:
        """The arguments without their nesting."""
        return pytree.tree_flatten((self.args, self.kwargs))[0]

    def with_leaves(self, leaves: Sequence[Any]) -> Call:
        """Return the call with other arguments in the same nesting."""
        spec = pytree.tree_flatten((self.args, self.kwargs))[1]
        args, kwargs = pytree.tree_unflatten(list(leaves), spec)
        return Call(args, kwargs)


class Pass(NamedTuple):
    """One run of a model whose blocks pass their input on.

    hidden: [batch, seq, hidden], what enters every block; None for one that was not run.
    calls: how it was called. as_tuple: what the model expects back.
    """

    hidden: tuple[Tensor | None, ...]
    calls: tuple[Call | None, ...]
    as_tuple: bool

    @property
    def first(self) -> Tensor:
        """What enters the first block that is run."""
        return next(hidden for hidden in self.hidden if hidden is not None)

    def added(self) -> list[Tensor | None]:
        """Return what the model adds to the stream before every block, None for nothing."""
        found: list[Tensor | None] = []
        before: Tensor | None = None
        for hidden in self.hidden:
            differs = before is not None and hidden is not None and not torch.equal(before, hidden)
            found.append(hidden - before if differs and hidden is not None else None)  # type: ignore[operator]
            before = before if hidden is None else hidden
        return found


#: Runs the model for (ids, media), its blocks returning their input times a factor.
Rehearse = Callable[[Tensor, Sequence[Media], float], Pass]


def together(media: Sequence[Media]) -> dict[str, Tensor]:
    """Put the inputs of several samples one after the other, as a processor does for a batch."""
    if not media:
        return {}
    return {key: torch.cat([one[key] for one in media]) for key in media[0]}


class Calls:
    """How each block is called, for batches of any samples of one calibration set."""

    def __init__(self, ids: Tensor, media: Sequence[Media], rehearse: Rehearse) -> None:
        """Learn from the samples; only two of them are run where blocks are given the same.

        ids: int64 [n, seq]. media: what goes with each sample, or nothing.

        Raises:
            ModelError: the model does something between its blocks that is no addition.
        """
        self._ids, self._media, self._rehearse = ids, media, rehearse
        self._shapes: dict[int, Pass] = {}
        one = rehearse(ids[:1], media[:1], 1.0)
        self.runs = tuple(call is not None for call in one.calls)
        self._differs: list[set[int]] = [set() for _ in one.calls]
        self._samples: list[list[dict[int, Any]]] = []
        self._added: list[list[Tensor | None]] = []
        other = ids[-1:].flip(1) if not media else ids[-1:]
        two = rehearse(other, media[-1:], 1.0)
        if media or _differences(one, two) or any(x is not None for x in one.added()):
            self._refuse_unlike_sums(one, ids[:1], media[:1])
            self._learn_samples(one)
        self._axes = self._batch_axes(one) if self._samples else []

    @property
    def by_sample(self) -> bool:
        """Whether samples are called differently, so that a batch must say which it holds."""
        return bool(self._samples)

    def call(self, index: int, batch: int, rows: Tensor | None) -> Call | None:
        """Return how a block is called for a batch; None for a block that is not run."""
        base = self._shape(batch).calls[index]
        if base is None or not self._samples or not self._differs[index]:
            return base
        chosen = self._rows(rows, batch)
        leaves = base.leaves
        for leaf in self._differs[index]:
            values = [self._samples[row][index][leaf] for row in chosen]
            leaves[leaf] = _joined(values, self._axes[index].get(leaf))
        return base.with_leaves(leaves)

    def added(self, index: int, batch: int, rows: Tensor | None) -> Tensor | None:
        """Return what the model adds to the stream before a block, [batch, seq, hidden]."""
        if not self._samples:
            return None
        chosen = self._rows(rows, batch)
        parts = [self._added[row][index] for row in chosen]
        some = next((part for part in parts if part is not None), None)
        if some is None:
            return None
        return torch.cat([torch.zeros_like(some) if part is None else part for part in parts])

    def _rows(self, rows: Tensor | None, batch: int) -> list[int]:
        if rows is None:
            if batch != 1 or len(self._ids) != 1:
                raise ModelError("blocks of this model are called differently for each sample")
            return [0]
        return [int(row) for row in rows]

    def _shape(self, batch: int) -> Pass:
        """Return a run of the first sample, ``batch`` times over."""
        if batch not in self._shapes:
            media = [self._media[0]] * batch if self._media else []
            self._shapes[batch] = self._rehearse(self._ids[:1].expand(batch, -1), media, 1.0)
        return self._shapes[batch]

    def _learn_samples(self, first: Pass) -> None:
        """Run every sample, and keep what differs from the first one."""
        passes = [first]
        for row in range(1, len(self._ids)):
            media = [self._media[row]] if self._media else []
            passes.append(self._rehearse(self._ids[row : row + 1], media, 1.0))
            for index, leaves in _differences(first, passes[-1]).items():
                self._differs[index] |= leaves
        for found in passes:
            self._samples.append(
                [
                    {} if call is None else {leaf: call.leaves[leaf] for leaf in differing}
                    for call, differing in zip(found.calls, self._differs, strict=True)
                ]
            )
            self._added.append(found.added())

    def _batch_axes(self, one: Pass) -> list[dict[int, int]]:
        """Return along which axis each argument holds the samples of a batch."""
        two = self._shape(2)
        axes: list[dict[int, int]] = []
        for single, double in zip(one.calls, two.calls, strict=True):
            found: dict[int, int] = {}
            if single is not None and double is not None:
                for leaf, (a, b) in enumerate(zip(single.leaves, double.leaves, strict=True)):
                    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.dim() == b.dim():
                        grown = [i for i in range(a.dim()) if a.shape[i] != b.shape[i]]
                        if len(grown) == 1:
                            found[leaf] = grown[0]
            axes.append(found)
        return axes

    def _refuse_unlike_sums(self, one: Pass, ids: Tensor, media: Sequence[Media]) -> None:
        """Refuse a model that changes the stream between blocks other than by adding to it."""
        plain = one.added()
        if all(part is None for part in plain):
            return
        half = self._rehearse(ids, media, 0.5)
        before: Tensor | None = None
        for index, (hidden, part) in enumerate(zip(half.hidden, plain, strict=True)):
            if hidden is None:
                continue
            if before is not None:
                wanted = before * 0.5 if part is None else before * 0.5 + part
                if not torch.allclose(hidden, wanted, rtol=1e-2, atol=1e-3):
                    raise ModelError(
                        f"the model changes what it hands from block {index - 1} to block {index} "
                        "in a way that is no addition; such models cannot be tuned block by block: "
                        "use tuning.iters=0 with init=minmax"
                    )
            before = hidden


def _differences(one: Pass, two: Pass) -> dict[int, set[int]]:
    """Return which arguments of which blocks are not the same in two runs."""
    found: dict[int, set[int]] = {}
    for index, (a, b) in enumerate(zip(one.calls, two.calls, strict=True)):
        if (a is None) != (b is None):
            raise ModelError(
                f"block {index} is run for some samples only; give all of them an image, or none"
            )
        if a is None or b is None:
            continue
        left, right = a.leaves, b.leaves
        if len(left) != len(right):
            raise ModelError(f"block {index} is given other arguments for some samples")
        differing = {i for i, pair in enumerate(zip(left, right, strict=True)) if not _same(*pair)}
        if differing:
            found[index] = differing
    return found


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left is right or (left.shape == right.shape and torch.equal(left, right))
    # Anything else (flags, caches, configs) is not made of token values.
    return type(left) is type(right)


def _joined(values: Sequence[Any], axis: int | None) -> Any:
    """Put the values of an argument for several samples together."""
    if len(values) == 1:
        return values[0]
    if axis is None:
        if all(_same(values[0], value) for value in values[1:]):
            return values[0]
        raise ModelError(
            f"an argument of the blocks ({_words(values[0])}) depends on the sample and holds no "
            "batch: use tuning.batch_size=1"
        )
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        raise ModelError(
            "an argument of the blocks has a shape of its own for each sample "
            f"({_words(values[0])}): give all samples images of one size, or use "
            "tuning.batch_size=1"
        )
    return torch.cat(list(values), dim=axis)


def _words(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
