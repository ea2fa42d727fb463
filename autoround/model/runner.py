"""Blocks as pure functions: their first inputs, their arguments, and running them.

Weights are substituted for one call (``torch.func.functional_call``); no module is
wrapped or replaced, and nothing stays on the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoround.errors import ModelError
from autoround.model.block_calls import Call, Calls, Media, Pass, together
from autoround.model.blocks import head_path
from autoround.model.skeleton import Skeleton


class _LastBlockReached(Exception):  # noqa: N818 (control flow, not an error)
    """Ends a rehearsal of the model before its head runs."""


class _HeadReached(Exception):  # noqa: N818 (control flow, not an error)
    """Ends a run of the model where its head begins."""


#: Runs a module with other tensors, by name, and arguments.
BlockCall = Callable[[nn.Module, dict[str, Tensor], tuple[Any, ...], dict[str, Any]], Any]


def call_block(
    block: nn.Module,
    tensors: dict[str, Tensor],
    arguments: tuple[Any, ...],
    named: dict[str, Any],
) -> Any:
    """Call a block with other tensors than it holds."""
    return functional_call(block, tensors, arguments, named)


class BlockRunner:
    """Runs blocks of one model on one device, in one dtype.

    often: how to call a block in steps that are taken many times. attention: what transformers
    calls the attention to compute with; None is the model's own.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        *,
        device: torch.device,
        dtype: torch.dtype,
        often: BlockCall = call_block,
        attention: str | None = None,
    ) -> None:
        self._often, self._attention = often, attention
        self._skeleton = skeleton
        self._device = device
        self._dtype = dtype
        self._calls: Calls | None = None
        self._outer: dict[str, Tensor] | None = None
        self._as_tuple = False

    def place(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Move tensors to the device, floating-point ones in the compute dtype."""
        return {
            name: t.to(self._device, self._dtype) if t.is_floating_point() else t.to(self._device)
            for name, t in tensors.items()
        }

    def embed(self, ids: Tensor, media: Sequence[Media] = ()) -> Tensor:
        """Return the inputs of the first block.

        ids: int64 [n, seq]. media: what else the model is given with each sample.
        Returns [n, seq, hidden] in the compute dtype.
        """
        return self._rehearse(ids, media).first.to(self._dtype)

    def prepare(self, ids: Tensor, media: Sequence[Media] = ()) -> None:
        """Learn how the model calls its blocks, from all samples that will be run.

        ids: int64 [n, seq], seq being that of every later batch. media: as for :meth:`embed`.

        Raises:
            ModelError: what happens between blocks depends on what they put out.
        """
        self._calls = Calls(ids, media, self._rehearse)

    def runs(self, index: int) -> bool:
        """Tell whether the model runs a block at all for the samples it was prepared with."""
        assert self._calls is not None, "prepare() comes before runs()"
        return self._calls.runs[index]

    @property
    def by_sample(self) -> bool:
        """Whether blocks are called differently for each sample, so that ``run`` needs rows."""
        assert self._calls is not None, "prepare() comes before by_sample"
        return self._calls.by_sample

    def run(
        self,
        index: int,
        weights: Mapping[str, Tensor],
        *,
        hidden: Tensor,
        rows: Tensor | None = None,
        often: bool = False,
    ) -> Tensor:
        """Run one block, with what the model adds to its input.

        weights: all of its tensors, by their names inside the block, on the device.
        hidden: [batch, seq, hidden], seq as prepared. rows: int64 [batch], which samples these
        are; needed where the model calls its blocks differently for each.
        often: whether this is one of many runs that are alike. Returns hidden's shape.
        """
        assert self._calls is not None, "prepare() comes before run()"
        held = self._outer is not None
        call = self._calls.call(index, hidden.shape[0], rows)
        added = self._calls.added(index, hidden.shape[0], rows)
        if not held:
            # Read to learn of a batch's shape alone, embeddings would stay for the whole run.
            self.release()
        if call is None:
            return hidden
        if added is not None:
            hidden = hidden + added.to(hidden.dtype)
        block = self._skeleton.model.get_submodule(self._skeleton.blocks[index])
        run = self._often if often else call_block
        with _attending(self._skeleton, self._attention):
            out = run(block, dict(weights), (hidden, *call.args), call.kwargs)
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
        with _blocks_as(skeleton, lambda index: lambda *args, **kwargs: answer):
            out = functional_call(skeleton.model, dict(outer), (), arguments)
        logits: Tensor = out.logits
        return logits

    def head_inputs(self, outer: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        """Return what enters the output head, by the model's own code: norms and scalings.

        outer, hidden: as for :meth:`head`. Returns [batch, seq, hidden].
        """
        head = self._skeleton.model.get_output_embeddings()  # type: ignore[operator]
        caught: list[Tensor] = []

        def catch(module: nn.Module, args: tuple[Any, ...]) -> None:
            caught.append(args[0].detach())
            raise _HeadReached

        handle = head.register_forward_pre_hook(catch)
        try:
            with torch.no_grad():
                self.head(outer, hidden)
        except _HeadReached:
            pass
        finally:
            handle.remove()
        if not caught:
            raise ModelError(f"{type(self._skeleton.model).__name__} does not run its output head")
        return caught[0]

    def buffers(self, index: int) -> dict[str, Tensor]:
        """Return a block's buffers that no checkpoint holds, on the device."""
        path = self._skeleton.blocks[index]
        block = self._skeleton.model.get_submodule(path)
        return {
            name: buffer.to(self._device)
            for name, buffer in block.named_buffers()
            if f"{path}.{name}" not in self._skeleton.keys
        }

    def _rehearse(self, ids: Tensor, media: Sequence[Media] = (), factor: float = 1.0) -> Pass:
        """Run the model with its blocks passing their input on, times a factor."""
        skeleton = self._skeleton
        if self._outer is None:
            # What is only used after the blocks is not needed.
            head = f"{head_path(skeleton.model)}."
            names = [n for n in skeleton.names_outside_blocks() if not n.startswith(head)]
            self._outer = self.place(skeleton.read(names))
            self._outer |= _outer_buffers(skeleton, self._device)
        placed = self.place({"input_ids": ids, **together(media)})
        count = len(skeleton.blocks)
        reached = 0
        for as_tuple in (False, True):
            recorded: dict[int, tuple[Tensor, Call]] = {}
            passing = _Passing(recorded, as_tuple=as_tuple, factor=factor, last=count - 1)
            how = _attending(skeleton, self._attention)
            with _blocks_as(skeleton, passing.block), how, torch.no_grad():
                try:
                    functional_call(skeleton.model, self._outer, (), {**placed, "use_cache": False})
                except _LastBlockReached:
                    pass
                except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
                    # A model that expects tuples from its blocks trips over tensors.
                    if as_tuple:
                        raise ModelError(
                            f"{type(skeleton.model).__name__} cannot be run block by block: "
                            f"{' '.join(str(error).split())[:200]}; it can be rounded without "
                            "data: tuning.iters=0 with init=minmax"
                        ) from error
                    continue
            reached = max(reached, len(recorded))
            shapes = {tuple(hidden.shape) for hidden, _ in recorded.values()}
            if count - 1 in recorded and len(shapes) == 1 and not passing.twice:
                self._as_tuple = as_tuple
                every = [recorded.get(i) for i in range(count)]
                return Pass(
                    tuple(None if one is None else one[0] for one in every),
                    tuple(None if one is None else one[1] for one in every),
                    as_tuple,
                )
        raise ModelError(
            f"{type(skeleton.model).__name__} does not run its {len(skeleton.blocks)} blocks "
            f"({skeleton.blocks[0]} …) one after the other; only {reached} were reached"
        )


def _outer_buffers(skeleton: Skeleton, device: torch.device) -> dict[str, Tensor]:
    """Return the buffers outside the blocks that no checkpoint holds."""
    prefixes = tuple(block + "." for block in skeleton.blocks)
    return {
        name: buffer.to(device)
        for name, buffer in skeleton.model.named_buffers()
        if not name.startswith(prefixes) and name not in skeleton.keys
    }


class _Passing:
    """Blocks that return their input and note their arguments."""

    def __init__(
        self, recorded: dict[int, tuple[Tensor, Call]], *, as_tuple: bool, factor: float, last: int
    ) -> None:
        self._recorded, self._as_tuple = recorded, as_tuple
        self._factor, self._last = factor, last
        self.twice = False

    def block(self, index: int) -> Callable[..., Any]:
        """Return the forward of one block."""

        def passing(*args: Any, **kwargs: Any) -> Any:
            arguments = dict(kwargs)
            hidden = args[0] if args else arguments.pop("hidden_states")
            # Blocks that share weights, or come back, are not run one after the other.
            self.twice |= bool(self._recorded) and index <= max(self._recorded)
            self._recorded[index] = (hidden, Call(tuple(args[1:]), arguments))
            if index == self._last:
                raise _LastBlockReached
            out = hidden if self._factor == 1.0 else hidden * self._factor
            return (out,) if self._as_tuple else out

        return passing


@contextmanager
def _blocks_as(skeleton: Skeleton, forward: Callable[[int], Callable[..., Any]]) -> Iterator[None]:
    """Let every block do what the given function returns for its number, for a call."""
    modules = [skeleton.model.get_submodule(path) for path in skeleton.blocks]
    try:
        for index, module in enumerate(modules):
            module.forward = forward(index)
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)


@contextmanager
def _attending(skeleton: Skeleton, attention: str | None) -> Iterator[None]:
    """Let a model compute its attention in another way, for a call."""
    if attention is None:
        yield
        return
    config: Any = skeleton.model.config
    before = config._attn_implementation
    config._attn_implementation = attention
    try:
        yield
    finally:
        config._attn_implementation = before
