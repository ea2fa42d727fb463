"""A device that is none: numbers lie in the host's memory, and nothing mixes with the host's own.

It stands for an accelerator where there is no one: an operation on tensors of both devices fails,
as it does there, and results are real numbers. torch lets a backend be written in Python
(``torch.utils.backend_registration``); this one does every operation on the CPU. What it registers
stays for the process, so tests use it in one of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration

NAME = "toy"
_MAKE = "_setup_privateuseone_for_python_backend"
#: Why there is none; empty where there is.
WHY_NOT = "" if hasattr(backend_registration, _MAKE) else "torch is older than such devices"
#: Operations that take tensors of both devices on real ones, too: copies, and rows to pick.
BOTH = ("aten.copy_", "aten._to_copy", "aten.index.", "aten.index_put")
#: Told of the host's tensor behind each one that is made, by whoever counts bytes.
WATCHERS: list[Callable[[Tensor], None]] = []


class ToyTensor(Tensor):
    """A tensor of a device of the kind, by its number; ``raw`` holds what it holds."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor, index: int = 0) -> ToyTensor:
        made: ToyTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=f"{NAME}:{index}",
            requires_grad=False,
        )
        made.raw = raw
        for watcher in WATCHERS:
            watcher(raw)
        return made

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(op, *args, **(kwargs or {}))

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


def run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Do an operation on the numbers, and put the result where it belongs."""
    name = str(op)
    tensors = list(tensors_of((args, kwargs)))
    ours = [t for t in tensors if isinstance(t, ToyTensor)]
    strangers = [t for t in tensors if not isinstance(t, ToyTensor) and t.dim() > 0]
    if ours and strangers and not name.startswith(BOTH):
        raise RuntimeError(f"{name}: a tensor on {strangers[0].device} beside one on {NAME}")
    places = sorted({t.device.index for t in ours if t.dim() > 0})
    if len(places) > 1 and not name.startswith(BOTH):
        raise RuntimeError(f"{name}: tensors on {NAME}:{places[0]} and {NAME}:{places[1]}")
    target = kwargs.get("device")
    if target is not None:
        kwargs["device"] = "cpu"
    if name.startswith("aten.histc"):  # of integers, which accelerators count and CPUs do not
        args = (args[0].float(), *args[1:])
    held, named = map_tensors(lambda t: getattr(t, "raw", t), (args, kwargs))
    out = op(*held, **named)
    home = torch.device(target).type if target is not None else NAME if ours else "cpu"
    index = (torch.device(target).index if target is not None else places[0] if places else 0) or 0
    if name.startswith("aten.copy_"):
        return args[0]
    if home != NAME:
        return out

    def wrapped(found: Tensor) -> Tensor:
        same = [t for t in ours if t.raw is found]  # done in place
        return same[0] if same else ToyTensor(found, index)

    return map_tensors(wrapped, out)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in arguments or results, in less time than torch's own way takes."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_of(each)
    elif isinstance(value, dict):
        yield from tensors_of(list(value.values()))


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return arguments or results with their tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        changed = [map_tensors(change, each) for each in value]
        return changed if isinstance(value, list) else tuple(changed)
    if isinstance(value, dict):
        return {name: map_tensors(change, each) for name, each in value.items()}
    return value


def register() -> torch.library.Library:
    """Make the device known to torch; lasts as long as what is returned."""
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("_", "IMPL")
    library.fallback(run, "PrivateUse1")
    return library
