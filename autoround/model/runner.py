"""Blocks as pure functions: inputs of the first, call arguments of each, and running one.

Weights are substituted for one call (``torch.func.functional_call``); no module is
wrapped or replaced, and nothing stays on the model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoround.errors import ModelError
from autoround.model.block_calls import (
    BlockCalls,
    Call,
    CallRecorder,
    LastBlockReached,
    Media,
    Trace,
    as_returned,
    batch_media,
    substitute_forward,
)
from autoround.model.block_code import call_code, module_code
from autoround.model.blocks import head_path
from autoround.model.skeleton import Skeleton

#: Lengths of the tuples that blocks return: 0 for a tensor by itself.
_RETURNED = (0, 1, 2, 3)


class _HeadReached(Exception):  # noqa: N818 (control flow, not an error)
    """Ends a forward pass of the model where its head begins."""


#: Calls a module with substituted tensors, by name, and arguments.
BlockCall = Callable[[nn.Module, dict[str, Tensor], tuple[Any, ...], dict[str, Any]], Any]


def call_block(
    block: nn.Module,
    tensors: dict[str, Tensor],
    arguments: tuple[Any, ...],
    named: dict[str, Any],
) -> Any:
    """Call a block with substituted tensors.

    Args:
        block: The block's modules, whose own parameters may be on meta.
        tensors: Parameters and buffers by name inside the block.
        arguments: What the block is called with, hidden states first.
        named: Keyword arguments of the call.

    Returns:
        What the block returns: hidden states, or a tuple that begins with them.
    """
    return functional_call(block, tensors, arguments, named)


def hidden_of(output: Any) -> Any:
    """Return the hidden states of what a block returns, which may have more behind them.

    Args:
        output: Hidden states, or a tuple or list that begins with them.
    """
    return output[0] if isinstance(output, tuple | list) else output


class BlockRunner:
    """Runs blocks of one model on one device, in one dtype."""

    def __init__(
        self,
        skeleton: Skeleton,
        *,
        device: torch.device,
        dtype: torch.dtype,
        compiled_call: BlockCall = call_block,
        attention: str | None = None,
        float32: Collection[str] = (),
    ) -> None:
        """Bind a model to a device and a dtype; nothing is read.

        Args:
            skeleton: The model.
            device: Where blocks run.
            dtype: What floating-point tensors are computed in.
            compiled_call: The compiled callable for training steps.
            attention: Name of an attention implementation of transformers; None for the model's
                own.
            float32: The model's own names of tensors that stay in float32 whatever the dtype.
        """
        self._float32 = frozenset(float32)
        self._compiled_call, self._attention = compiled_call, attention
        self._skeleton = skeleton
        self._device = device
        self._dtype = dtype
        self._calls: BlockCalls | None = None
        self._outer: dict[str, Tensor] | None = None
        self._returned = 0

    def place(self, tensors: Mapping[str, Tensor], *, under: str = "") -> dict[str, Tensor]:
        """Move tensors to the device, floating-point ones in the compute dtype.

        Args:
            tensors: By name.
            under: The module path that their names are below; empty for whole names.

        Returns:
            Tensors by the same names; those that stay in float32 are left in their dtype.
        """
        prefix = f"{under}." if under else ""
        return {
            name: t.to(self._device, self._dtype)
            if t.is_floating_point() and prefix + name not in self._float32
            else t.to(self._device)
            for name, t in tensors.items()
        }

    def embed(self, ids: Tensor, media: Sequence[Media] = ()) -> Tensor:
        """Return the inputs of the first block.

        Args:
            ids: Token ids, int64 [n, seq].
            media: Further inputs of the model for each sample, such as pixel values.

        Returns:
            [n, seq, hidden] in the compute dtype.

        Raises:
            ModelError: The model cannot be run block by block.
        """
        return self._trace(ids, media).first.to(self._dtype)

    def prepare(self, ids: Tensor, media: Sequence[Media] = ()) -> None:
        """Trace how the model calls its blocks, on all samples that will be run.

        Args:
            ids: Token ids, int64 [n, seq]; later batches have the same seq.
            media: As for :meth:`embed`.

        Raises:
            ModelError: What happens between blocks depends on their outputs.
        """
        self._calls = BlockCalls(ids, media, self._trace)

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
        compiled: bool = False,
    ) -> Tensor:
        """Run one block, after adding what the model adds to its input.

        Args:
            index: The block's number.
            weights: All tensors of the block by name inside it, on the device.
            hidden: Block inputs, [batch, seq, hidden], seq as prepared.
            rows: Sample numbers, int64 [batch]; needed where :attr:`by_sample` is true.
            compiled: Whether to use the compiled callable.

        Returns:
            The block's outputs, [batch, seq, hidden].
        """
        assert self._calls is not None, "prepare() comes before run()"
        had_outer = self._outer is not None
        call = self._calls.call(index, hidden.shape[0], rows)
        addition = self._calls.addition(index, hidden.shape[0], rows)
        if not had_outer:
            # A new batch shape needs a trace, which reads the embeddings; they would otherwise
            # occupy memory for the rest of the run.
            self.release()
        if call is None:
            return hidden
        if addition is not None:
            hidden = hidden + addition.to(hidden.dtype)
        block = self._skeleton.model.get_submodule(self._skeleton.blocks[index])
        call_with = self._compiled_call if compiled else call_block
        with _use_attention(self._skeleton, self._attention):
            out = call_with(block, dict(weights), (hidden, *call.args), call.kwargs)
        output: Tensor = hidden_of(out)
        return output

    def code(self, index: int, batch: int) -> tuple[Hashable, dict[str, Tensor]]:
        """Return what tells blocks of a kind where all samples are alike.

        Args:
            index: The block's number; one that is run.
            batch: Samples that it is run for at a time.

        Returns:
            What code it runs, and the tensors that it is called with beside the hidden states.
        """
        assert self._calls is not None, "prepare() comes before code()"
        had_outer = self._outer is not None
        call = self._calls.call(index, batch, None)
        if not had_outer:
            self.release()
        assert call is not None, "it is run"
        called, tensors = call_code(call)
        block = self._skeleton.model.get_submodule(self._skeleton.blocks[index])
        return (module_code(block), called, batch), tensors

    def release(self) -> None:
        """Free the embeddings; they are read again for another batch shape."""
        self._outer = None

    def outer(self) -> dict[str, Tensor]:
        """Read all tensors outside the blocks, the output head included, for :meth:`head`."""
        tensors = self._skeleton.read(self._skeleton.names_outside_blocks())
        return self.place(tensors) | _outer_buffers(self._skeleton, self._device)

    def head(self, outer: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        """Turn outputs of the last block into logits, by the model's own code.

        Comes after :meth:`embed`, which traces what blocks return.

        Args:
            outer: Tensors outside the blocks, from :meth:`outer`.
            hidden: Outputs of the last block, [batch, seq, hidden], of any seq: norm and head
                treat each position by itself.

        Returns:
            Logits, [batch, seq, vocabulary].
        """
        skeleton = self._skeleton
        ids = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=self._device)
        arguments = {"input_ids": ids, "use_cache": False}
        output = as_returned(hidden, self._returned)
        # Every block returns the given hidden states, so only norm and head compute anything.
        with substitute_forward(
            _block_modules(skeleton), lambda index: lambda *args, **kwargs: output
        ):
            out = functional_call(skeleton.model, dict(outer), (), arguments)
        logits: Tensor = out.logits
        return logits

    def head_inputs(self, outer: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        """Return the inputs of the output head: the final norm and scalings of the model.

        Args:
            outer: As for :meth:`head`.
            hidden: Outputs of the last block, [batch, seq, hidden].

        Returns:
            [batch, seq, hidden].

        Raises:
            ModelError: The model does not run its output head.
        """
        head = self._skeleton.model.get_output_embeddings()  # type: ignore[operator]
        caught: list[Tensor] = []

        def catch(module: nn.Module, args: tuple[Any, ...]) -> None:
            caught.append(args[0].detach())
            # Logits of a whole vocabulary are large, and not needed.
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

    def _trace(self, ids: Tensor, media: Sequence[Media] = (), factor: float = 1.0) -> Trace:
        """Run the model with blocks that return their input times a factor."""
        skeleton = self._skeleton
        if self._outer is None:
            # The head is large, and only used after the blocks.
            head = f"{head_path(skeleton.model)}."
            names = [n for n in skeleton.names_outside_blocks() if not n.startswith(head)]
            self._outer = self.place(skeleton.read(names))
            self._outer |= _outer_buffers(skeleton, self._device)
        placed = self.place({"input_ids": ids, **batch_media(media)})
        count = len(skeleton.blocks)
        reached = 0
        # What a model expects of its blocks is not written anywhere: try a tensor, then tuples.
        for returned in _RETURNED:
            recorded: dict[int, tuple[Tensor, Call]] = {}
            recorder = CallRecorder(recorded, returned=returned, factor=factor, last=count - 1)
            attention = _use_attention(skeleton, self._attention)
            with (
                substitute_forward(_block_modules(skeleton), recorder.block),
                attention,
                torch.no_grad(),
            ):
                try:
                    functional_call(skeleton.model, self._outer, (), {**placed, "use_cache": False})
                except LastBlockReached:
                    pass
                except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
                    # A model that expects tuples from its blocks fails on tensors.
                    if returned == _RETURNED[-1]:
                        raise ModelError(
                            f"{type(skeleton.model).__name__} cannot be run block by block: "
                            f"{' '.join(str(error).split())[:200]}; quantize it without data: "
                            "tuning.iters=0 with tuning.init_scale=minmax"
                        ) from error
                    continue
            reached = max(reached, len(recorded))
            shapes = {tuple(hidden.shape) for hidden, _ in recorded.values()}
            if count - 1 in recorded and len(shapes) == 1 and not recorder.repeated:
                self._returned = returned
                records = [recorded.get(i) for i in range(count)]
                return Trace(
                    tuple(None if record is None else record[0] for record in records),
                    tuple(None if record is None else record[1] for record in records),
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


def _block_modules(skeleton: Skeleton) -> list[nn.Module]:
    return [skeleton.model.get_submodule(path) for path in skeleton.blocks]


@contextmanager
def _use_attention(skeleton: Skeleton, attention: str | None) -> Iterator[None]:
    """Let a model compute its attention by another implementation, for a while."""
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
