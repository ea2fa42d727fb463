"""Importance of input channels (imatrix): second moments of a layer's inputs, or their Hessian.

With X [tokens, in] the inputs of a layer, its importance is the sum of squares of every column,
the diagonal of the Hessian H = XᵀX (GPTQ's 2 XᵀX without the factor, summed over tokens).

An expert sees only the tokens that are routed to it, so each expert has its own diagonal. The
tokens are counted as well: sums over few tokens are noisy, and are shrunk towards the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor, nn

from autoround.core.float32_products import SHORT, float32_products
from autoround.model.expert_inputs import observe_experts

#: Weight of the mean over all experts in an expert's importance, in tokens.
PRIOR_TOKENS = 64

#: Least width of a column block of the Hessian, and the number of blocks of a wide one.
BLOCK_WIDTH, NUM_BLOCKS = 256, 8


def _column_blocks(width: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each column block of a symmetric matrix."""
    step = max(BLOCK_WIDTH, -(-width // NUM_BLOCKS))
    return ((start, min(start + step, width)) for start in range(0, width, step))


def _mirror(hessian: Tensor) -> Tensor:
    """Copy the upper half of a symmetric matrix to the lower one, in place."""
    for start, end in _column_blocks(len(hessian)):
        hessian[end:, start:end] = hessian[start:end, end:].t()
    return hessian


class _SeenInput(NamedTuple):
    """An input of the batch that is run, and the layer that its Hessian was summed for."""

    tensor: ref[Tensor]
    version: int
    name: str

    def is_of(self, activations: Tensor) -> bool:
        """Tell whether these are the same numbers: the same tensor, not changed in place since."""
        return self.tensor() is activations and self.version == activations._version


class Importance:
    """Sums of squared inputs by layer, over the positions that are not masked.

    Args:
        hessians: Whether to sum XᵀX instead of its diagonal alone. Layers that get the same
            input tensor (q, k and v of an attention) share one Hessian, whatever runs between them.
        wide_product: Multiplies matrices of 16-bit numbers with sums in float32; None where
            the device has no such product.
    """

    def __init__(
        self,
        *,
        hessians: bool = False,
        wide_product: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self._wide_product = wide_product
        self._hessians: dict[str, Tensor] | None = {} if hessians else None
        self._owners: dict[str, str] = {}
        self._seen: list[_SeenInput] = []
        self._sums: dict[str, Tensor] = {}
        self._tokens: dict[str, Tensor] = {}
        self._mask: Tensor | None = None
        self._stop: int | None = None
        self._counted: dict[Hashable, int] = {}

    def mask(self, mask: Tensor | None, *, stop: int | None = None) -> None:
        """Set which positions of the next batch count.

        Args:
            mask: bool [batch, seq], or None for all.
            stop: how many samples have come when the batch is through. A batch that broke off,
                because memory was full, may then come again, whole or in parts: what was added
                of it is not added twice. None where all batches come once.
        """
        self._mask, self._stop = mask, stop
        self._seen = []

    def _once(self, sum_name: Hashable) -> bool:
        """Tell whether a sum lacks this batch; the caller adds it, or says that it failed."""
        return self._stop is None or self._counted.get(sum_name, 0) < self._stop

    def _note_added(self, sum_name: Hashable) -> None:
        if self._stop is not None:
            self._counted[sum_name] = self._stop

    def release_hessians(self) -> None:
        """Give up the Hessians; importance can no longer be read off them."""
        if self._hessians is not None:
            self._hessians, self._owners = {}, {}

    def add(self, name: str, activations: Tensor) -> None:
        """Add one batch of a layer's inputs.

        Args:
            name: The layer's path inside its block.
            activations: [batch, seq, in] or [tokens, in].
        """
        flat = activations.detach()
        # Layers inside a stream of its own have an axis for the streams behind the tokens.
        if self._mask is not None and flat.shape[: self._mask.dim()] == self._mask.shape:
            flat = flat[self._mask]
        flat = flat.reshape(-1, flat.shape[-1])
        if self._hessians is not None:
            # The same tensor again means the same Hessian: it is summed for the first layer only.
            self._seen = [seen for seen in self._seen if seen.tensor() is not None]
            owner = next((seen.name for seen in self._seen if seen.is_of(activations)), None)
            if owner is None:
                owner = name
                self._seen.append(_SeenInput(ref(activations), activations._version, name))
                if name not in self._hessians:
                    width = flat.shape[1]
                    self._hessians[name] = torch.zeros((width, width), device=flat.device)
                self._add_hessian(flat, name, self._hessians[name])
            self._owners[name] = owner
            return  # the importance is read off the diagonal
        self._add_sums(name, flat.float().square().sum(0))

    def _add_hessian(self, flat: Tensor, name: str, into: Tensor) -> None:
        """Add XᵀX to a sum, the blocks on and above the diagonal only.

        Args:
            flat: The inputs X, [tokens, in].
            name: Of the sum.
            into: The sum so far, float32 [in, in]; changed in place.
        """
        is_16_bit = flat.dtype in (torch.bfloat16, torch.float16)
        on_cpu = flat.device.type == "cpu"
        multiply = self._wide_product if is_16_bit else None
        if multiply is None:
            flat, multiply = flat.float(), torch.matmul
        # TF32 holds every digit of both 16-bit types, so it loses nothing on their products.
        with float32_products(SHORT, flat.device) if is_16_bit and not on_cpu else nullcontext():
            for start, end in _column_blocks(flat.shape[1]):
                if self._once((name, start)):
                    into[start:end, start:].add_(multiply(flat[:, start:end].t(), flat[:, start:]))
                    self._note_added((name, start))

    def hessian_owner(self, name: str) -> str | None:
        """Return the name of the layer that a layer's Hessian was summed for.

        Args:
            name: The layer's path inside its block.

        Returns:
            Equal for layers that share one. None for a layer that never ran, or without
            ``hessians``.
        """
        return self._owners.get(name)

    def hessian(self, owner: str) -> Tensor:
        """Return the Hessian XᵀX of the inputs of a layer, float32 [in, in].

        Args:
            owner: The layer that it was summed for, as :meth:`hessian_owner` says.
        """
        assert self._hessians is not None
        return _mirror(self._hessians[owner])

    def _upper_half(self, name: str) -> Tensor | None:
        """Return the upper half of a layer's Hessian."""
        owner = self._owners.get(name)
        return None if self._hessians is None or owner is None else self._hessians[owner]

    def add_routed(self, name: str, squares: Tensor) -> None:
        """Add sums of squared inputs of every expert.

        Args:
            name: Path of the stacked weight inside its block.
            squares: float32 [experts, in].
        """
        self._add_sums(name, squares)

    def count(self, module: str, tokens: Tensor) -> None:
        """Add how many tokens were routed to every expert of a module.

        Args:
            module: Path of the module that holds the experts, inside its block.
            tokens: int64 [experts], on the device of the batch.
        """
        if self._once(("tokens", module)):
            seen = self._tokens.get(module)
            self._tokens[module] = tokens if seen is None else seen.to(tokens.device) + tokens
            self._note_added(("tokens", module))

    def flat_mask(self, positions: int) -> Tensor | None:
        """Return which of the flattened positions count, bool [positions]; None when all do."""
        if self._mask is None or self._mask.numel() != positions:
            return None
        return self._mask.reshape(-1)

    def _add_sums(self, name: str, squares: Tensor) -> None:
        if self._once(("squares", name)):
            self._sums[name] = self._sums[name] + squares if name in self._sums else squares
            self._note_added(("squares", name))

    def get(self, name: str) -> Tensor | None:
        """Return a layer's importance, the sum of squares of each of its input channels.

        Args:
            name: The layer's path inside its block.

        Returns:
            float32 [in]; of stacked experts, the mean square as float32 [experts, in], shrunk
            towards the mean of all experts. None for a layer that never ran.
        """
        upper = self._upper_half(name)
        if upper is not None:
            return upper.diagonal().clone()
        sums = self._sums.get(name)
        tokens = self._tokens.get(name.rpartition(".")[0])
        if sums is None or sums.dim() == 1 or tokens is None:
            return sums
        tokens = tokens.to(sums.device)
        # An expert with few tokens has a noisy mean: the mean of all counts for PRIOR_TOKENS more.
        mean = sums.sum(0) / tokens.sum().clamp(min=1)
        return (sums + PRIOR_TOKENS * mean) / (tokens[:, None] + PRIOR_TOKENS)

    @property
    def tokens(self) -> Mapping[str, Tensor]:
        """How many tokens were routed to every expert, int64 [experts] on the CPU, by module."""
        # Counted on the device, and read when somebody asks: once a block, not once a batch.
        self._tokens = {module: tokens.to("cpu") for module, tokens in self._tokens.items()}
        return self._tokens


@contextmanager
def accumulate_importance(
    block: nn.Module,
    names: Sequence[str],
    *,
    into: Importance,
    stacked: Mapping[str, int] | None = None,
) -> Iterator[None]:
    """Accumulate the importance of a block's layers while the context lasts.

    Args:
        block: The module whose layers are run.
        names: Paths of linear layers inside the block.
        into: The sums to add to.
        stacked: Number of experts by path of each stacked weight inside the block; their tokens
            are counted.
    """

    def input_hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], torch.Tensor):
                into.add(name, args[0])

        return hook

    def experts_hook(
        path: str, count: int, weights: list[str]
    ) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # Models pass hidden states and routing by position or by name.
            tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
            if tensors:
                observe_experts(module, tensors, into=into, path=path, count=count, weights=weights)

        return hook

    # Several stacked weights belong to one module, which is hooked once.
    owners: dict[str, tuple[int, list[str]]] = {}
    for name, count in (stacked or {}).items():
        path, _, weight = name.rpartition(".")
        owners.setdefault(path, (count, []))[1].append(weight)
    handles = [block.get_submodule(n).register_forward_pre_hook(input_hook(n)) for n in names]
    handles += [
        block.get_submodule(path).register_forward_pre_hook(
            experts_hook(path, count, weights), with_kwargs=True
        )
        for path, (count, weights) in owners.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
