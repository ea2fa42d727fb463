"""How strongly each input channel of a layer is driven: the diagonal of its Hessian, or all of it.

Experts see the tokens that are routed to them, so each has a diagonal of its own. They are
counted as well: what few tokens say of an expert is not to be trusted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

#: Tokens that the mean of all experts counts for beside those an expert saw itself.
PRIOR_TOKENS = 64


#: Least columns of a Gram matrix that are computed at once, and how many parts it is cut into.
PANEL, PARTS = 256, 8


def _panels(width: int) -> Iterator[tuple[int, int]]:
    """Yield the columns of a symmetric matrix in turn, some at a time."""
    step = max(PANEL, -(-width // PARTS))
    return ((start, min(start + step, width)) for start in range(0, width, step))


def _add_gram(flat: Tensor, into: Tensor) -> None:
    """Add the products of all pairs of channels: of each pair once, above the diagonal.

    flat: [tokens, in]. into: float32 [in, in]. A batch that came in 16 bit on a CPU is summed up
    in its own dtype by the product, a third of the time, and in float32 over batches: two or three
    digits, where a tenth is added to the diagonal. Elsewhere factors are cut short without loss:
    TF32 has the digits of both 16-bit types.
    """
    short = flat.dtype in (torch.bfloat16, torch.float16)
    on_cpu = flat.device.type == "cpu"
    if not (on_cpu and flat.dtype == torch.bfloat16):
        flat = flat.float()
    with _short_factors() if short and not on_cpu else nullcontext():
        for start, end in _panels(flat.shape[1]):
            into[start:end, start:].add_(flat[:, start:end].t() @ flat[:, start:])


def _mirrored(gram: Tensor) -> Tensor:
    """Fill in what lies below the diagonal, in place."""
    for start, end in _panels(len(gram)):
        gram[end:, start:end] = gram[start:end, end:].t()
    return gram


@contextmanager
def _short_factors() -> Iterator[None]:
    """Let products of float32 cut their factors short; sums stay in float32."""
    whole = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(whole)


class Importance:
    """Sums of squared activations by layer, over the tokens that count.

    grams: whether products of any two channels are summed up as well. Layers that are given
    the same tensor share them.
    """

    def __init__(self, *, grams: bool = False) -> None:
        self._grams: dict[str, Tensor] | None = {} if grams else None
        self._owners: dict[str, str] = {}
        self._last: tuple[Tensor, str] | None = None
        self._sums: dict[str, Tensor] = {}
        self._tokens: dict[str, Tensor] = {}
        self._mask: Tensor | None = None

    def mask(self, mask: Tensor | None) -> None:
        """Set which positions of the next batch count: bool [batch, seq], or None for all."""
        self._mask = mask
        self._last = None

    def add(self, name: str, activations: Tensor) -> None:
        """Add one batch of a layer's inputs: [batch, seq, in] or [tokens, in]."""
        flat = activations.detach()
        if self._mask is not None and flat.shape[:-1] == self._mask.shape:
            flat = flat[self._mask]
        flat = flat.reshape(-1, flat.shape[-1])
        if self._grams is not None:
            if self._last is None or self._last[0] is not activations:
                self._last = (activations, name)
                if name not in self._grams:
                    width = flat.shape[1]
                    self._grams[name] = torch.zeros((width, width), device=flat.device)
                # Tokens of a batch at a time: the product is of the inputs' width only.
                _add_gram(flat, self._grams[name])
            self._owners[name] = self._last[1]
            return  # squares are what lies on the diagonal
        self._add(name, flat.float().square().sum(0))

    def gram(self, name: str) -> tuple[str, Tensor] | None:
        """Return a layer's Gram matrix, float32 [in, in], and which layer's it is; None of none."""
        held = self._held(name)
        return None if held is None else (held[0], _mirrored(held[1]))

    def _held(self, name: str) -> tuple[str, Tensor] | None:
        """Return a layer's Gram matrix as it is summed up, its upper half, and whose it is."""
        owner = self._owners.get(name)
        return None if self._grams is None or owner is None else (owner, self._grams[owner])

    def add_routed(self, name: str, squares: Tensor) -> None:
        """Add sums of squared inputs of every expert: float32 [experts, in]."""
        self._add(name, squares)

    def count(self, module: str, tokens: Tensor) -> None:
        """Add how many tokens came to every expert of a module: int64 [experts]."""
        seen = self._tokens.get(module)
        self._tokens[module] = tokens if seen is None else seen + tokens

    def counting(self, positions: int) -> Tensor | None:
        """Return which of the flattened positions count, bool [positions]; None when all do."""
        if self._mask is None or self._mask.numel() != positions:
            return None
        return self._mask.reshape(-1)

    def _add(self, name: str, squares: Tensor) -> None:
        self._sums[name] = self._sums[name] + squares if name in self._sums else squares

    def get(self, name: str) -> Tensor | None:
        """Return a layer's importance, float32 [in]; None when it was never run.

        Of stacked experts: float32 [experts, in], drawn towards the mean of all where an
        expert saw few tokens.
        """
        held = self._held(name)
        if held is not None:
            return held[1].diagonal().clone()
        sums = self._sums.get(name)
        tokens = self._tokens.get(name.rpartition(".")[0])
        if sums is None or sums.dim() == 1 or tokens is None:
            return sums
        tokens = tokens.to(sums.device)
        mean = sums.sum(0) / tokens.sum().clamp(min=1)
        return (sums + PRIOR_TOKENS * mean) / (tokens[:, None] + PRIOR_TOKENS)

    @property
    def tokens(self) -> Mapping[str, Tensor]:
        """How many tokens came to every expert, int64 [experts], by module."""
        return self._tokens


@contextmanager
def observing(
    block: nn.Module,
    names: Sequence[str],
    *,
    into: Importance,
    stacked: Mapping[str, int] | None = None,
) -> Iterator[None]:
    """Record the inputs of a block's layers while the context lasts.

    names: module paths inside the block. stacked: paths of stacked weights inside the block,
    and how many experts each holds; their tokens are counted.
    """

    def hook_for(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], torch.Tensor):
                into.add(name, args[0])

        return hook

    def experts_hook(path: str, count: int, own: list[str]) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = [*args, *kwargs.values()]
            if given and isinstance(given[0], torch.Tensor):
                _observe_experts(module, given, into=into, path=path, count=count, own=own)

        return hook

    owners: dict[str, tuple[int, list[str]]] = {}
    for name, count in (stacked or {}).items():
        path, _, own = name.rpartition(".")
        owners.setdefault(path, (count, []))[1].append(own)
    handles = [block.get_submodule(n).register_forward_pre_hook(hook_for(n)) for n in names]
    handles += [
        block.get_submodule(path).register_forward_pre_hook(
            experts_hook(path, count, own), with_kwargs=True
        )
        for path, (count, own) in owners.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _observe_experts(
    module: nn.Module,
    given: Sequence[Any],
    *,
    into: Importance,
    path: str,
    count: int,
    own: list[str],
) -> None:
    """Note what comes to every expert, and what comes out of its first matrices.

    given: hidden states [tokens, in], and the experts of each token, int64 [tokens, chosen].
    """
    hidden: Tensor = given[0].detach().reshape(-1, given[0].shape[-1])
    others = (g for g in given[1:] if isinstance(g, Tensor))
    chosen = next((g for g in others if not g.is_floating_point()), None)
    if chosen is None or chosen.dim() != 2 or len(chosen) != len(hidden):
        return
    real = into.counting(len(hidden))
    hit = torch.zeros((len(hidden), count + 1), device=hidden.device)
    hit.scatter_(1, chosen.clamp(0, count), 1.0)
    hit = hit[:, :count] if real is None else hit[:, :count] * real[:, None].to(hit.device)
    into.count(path, hit.sum(0).long().to("cpu"))
    squares = hit.t() @ hidden.float().square()
    for name in own:
        if "down" not in name and name != "w2":
            into.add_routed(f"{path}.{name}", squares)
            continue
        inner = _inner_squares(module, hidden, hit)
        if inner is not None:
            into.add_routed(f"{path}.{name}", inner)


def _inner_squares(module: nn.Module, hidden: Tensor, hit: Tensor) -> Tensor | None:
    """Return sums of squares of what enters every expert's last matrix, [experts, in].

    Done once a batch, not once a step: the experts may be gone through one by one. None
    where the module does not say how its halves are joined.
    """
    weight = getattr(module, "gate_up_proj", None)
    join = getattr(module, "_apply_gate", None)
    if not isinstance(weight, Tensor) or join is None or not getattr(module, "has_gate", True):
        return None
    bias = getattr(module, "gate_up_proj_bias", None)
    sums = []
    for expert in range(hit.shape[1]):
        x = hidden[hit[:, expert] > 0].to(weight.dtype)
        y = x @ (weight[expert] if getattr(module, "is_transposed", False) else weight[expert].t())
        sums.append(join(y if bias is None else y + bias[expert]).float().square().sum(0))
    return torch.stack(sums)
