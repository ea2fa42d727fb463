"""What a model's own code does with its weights, seen in one forward pass of a small copy.

A router is what the choice of experts is computed from: every matrix whose output reaches a top-k,
whatever it is called. A layer whose ``weight`` other code reads cannot be packed: packed layers
have none. A block that runs more than once cannot be tuned on its first run alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoround.model.blocks import block_lists, is_matrix
from autoround.model.experts import LEAST
from autoround.model.probe.small_copy import SmallCopy

#: Operations that choose; an index of what is chosen is among their results.
_CHOICES = frozenset({"topk", "sort", "argsort", "argmax"})


@dataclass(frozen=True)
class Observed:
    """What one forward pass showed.

    choosing: modules whose output decides a choice among experts or tokens. read: linear layers
    whose weight is read by other code than their own. runs: how often blocks ran, by path, those
    of other lists included; one that is missing did not run.
    """

    choosing: frozenset[str]
    read: frozenset[str]
    runs: Mapping[str, int]


def observe(copy: SmallCopy) -> Observed:
    """Run a small copy once on text, and note what its code does.

    Args:
        copy: the small copy; it is left as it was.

    Raises:
        Exception: whatever its code raises on layers without a weight of their own.
    """
    model = copy.model
    flow = _Flow(model, copy.blocks)
    runs: Counter[str] = Counter()
    listed = {
        entry: f"{path}.{i}"
        for path, entries in block_lists(model, "")
        for i, entry in enumerate(entries)
    }
    ids = copy.batch(2, 6, seed=0)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_stack_of_modules(flow.enter, flow.leave, listed, runs))
        read = stack.enter_context(_without_weights(model))
        stack.enter_context(flow)
        out = model(input_ids=ids, use_cache=False)
    return Observed(flow.find_choosing(out.logits), frozenset(read), runs)


@contextmanager
def _stack_of_modules(
    enter: Callable[[nn.Module], None],
    leave: Callable[[nn.Module], None],
    listed: Mapping[nn.Module, str],
    runs: Counter[str],
) -> Iterator[None]:
    """Tell which module runs, and count the runs of those that are listed."""

    def before(module: nn.Module, args: Any) -> None:
        enter(module)
        if module in listed:
            runs[listed[module]] += 1

    def after(module: nn.Module, args: Any, output: Any) -> None:
        leave(module)

    handles = [register_module_forward_pre_hook(before), register_module_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Weightless(nn.Module):
    """Stands for a packed layer: computes the same, and notes who asks for its weight."""

    def __init__(self, layer: nn.Module, note: Callable[[], None]) -> None:
        super().__init__()
        # Not a submodule: its parameters are nobody's business.
        self.__dict__["layer"] = layer
        self.__dict__["note"] = note

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute what the layer computes."""
        return self.__dict__["layer"].forward(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            self.__dict__["note"]()
        return getattr(self.__dict__["layer"], name)


@contextmanager
def _without_weights(model: nn.Module) -> Iterator[set[str]]:
    """Put stand-ins without a weight in the place of all linear layers, for a while."""
    read: set[str] = set()
    layers = [(name, module) for name, module in model.named_modules() if is_matrix(module)]
    placed: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for name, layer in layers:
            path, _, attribute = name.rpartition(".")
            parent = model.get_submodule(path)
            placed.append((parent, attribute, layer))
            parent._modules[attribute] = _Weightless(layer, lambda name=name: read.add(name))  # type: ignore[misc]
        yield read
    finally:
        for parent, attribute, layer in placed:
            parent._modules[attribute] = layer


@dataclass
class _Choice:
    """One choice: the module that made it, and the parameters that it was computed from."""

    path: str
    sources: int


class _Flow(TorchDispatchMode):
    """Follows which parameters each tensor was computed from, as bits of an integer.

    Whole numbers carry nothing on: what is only chosen by is told from what is computed with.
    """

    def __init__(self, model: nn.Module, blocks: tuple[str, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._blocks = blocks
        self._stack: list[str] = []
        self._choices: list[_Choice] = []
        self._paths = {module: path for path, module in model.named_modules()}
        self._model = model
        self._names: list[str] = []
        self._bits: dict[int, int] = {}
        # Storages that are alive keep their addresses to themselves.
        self._alive: list[Tensor] = []
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and parameter.device.type != "meta":
                self._bits[_storage(parameter)] = 1 << len(self._names)
                self._names.append(name)

    def enter(self, module: nn.Module) -> None:
        """Note that a module begins to run."""
        self._stack.append(self._paths.get(module, ""))

    def leave(self, module: nn.Module) -> None:
        """Note that a module is done."""
        self._stack.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        bits = 0
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                bits |= self._bits.get(_storage(leaf), 0)
        name = func._schema.name.rpartition("::")[2]
        first = args[0] if args else None
        if name in _CHOICES and isinstance(first, Tensor) and first.is_floating_point():
            inside = next((path for path in reversed(self._stack) if path), "")
            self._choices.append(_Choice(inside, self._bits.get(_storage(first), 0)))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                key = _storage(leaf)
                self._bits[key] = self._bits.get(key, 0) | bits
                self._alive.append(leaf)
        return out

    def find_choosing(self, logits: Tensor) -> frozenset[str]:
        """Return the modules whose outputs the choices were computed from.

        Args:
            logits: what the model returned.
        """
        computed = self._bits.get(_storage(logits), 0)
        sources: set[str] = set()
        for choice in self._choices:
            sources |= self._sources(choice, computed)
        return frozenset(sources)

    def _sources(self, choice: _Choice, computed: int) -> set[str]:
        """Return what a choice was computed from, within the module that it is made in.

        Around a choice of experts that is the module which holds the experts as well; else it is
        the innermost one with a matrix that serves the choice alone.
        """
        block = next((b for b in self._blocks if choice.path.startswith(f"{b}.")), None)
        if block is None:
            return set()
        above = _ancestors(choice.path, block)
        holding = next((p for p in above if _holds_experts(self._model.get_submodule(p))), None)
        if holding is not None:
            return self._within(choice.sources, holding)
        router = self._within(choice.sources, above[0])
        if router and _holds_experts(self._model.get_submodule(block)):
            return router
        alone = choice.sources & ~computed
        return next((serving for p in above if (serving := self._within(alone, p))), set())

    def _within(self, sources: int, path: str) -> set[str]:
        """Return the modules below a path whose weight is among some parameters."""
        return {
            name.rpartition(".")[0]
            for i, name in enumerate(self._names)
            if sources >> i & 1 and name.startswith(f"{path}.")
        }


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _ancestors(path: str, block: str) -> list[str]:
    """Return a path and those above it, strictly below the block, the innermost first."""
    above = []
    while path != block:
        above.append(path)
        path = path.rpartition(".")[0]
    return above


def _holds_experts(module: nn.Module) -> bool:
    """Tell whether a module holds experts: a stack of matrices, or a list of modules with some."""
    for part in module.modules():
        if isinstance(part, nn.ModuleList):
            if len(part) > 1 and all(any(map(is_matrix, m.modules())) for m in part):
                return True
            continue
        if type(part).__module__.startswith("torch.nn"):
            continue
        owned = (p for p in part.parameters(recurse=False) if p.dim() == 3)
        if any(min(p.shape[1:]) >= LEAST for p in owned):
            return True
    return False
