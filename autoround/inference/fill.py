"""Tensors of a checkpoint put into the modules of its model, one module's at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autoround.errors import FormatError
from autoround.inference.linear import QuantLinear
from autoround.inference.opening import Opened
from autoround.inference.replace import check_header
from autoround.model.blocks import tied_names
from autoround.model.wide import kept_by_class


class Place(NamedTuple):
    """Where packed layers are to run, and by which kernel."""

    device: torch.device
    backend: str


@dataclass(frozen=True)
class Filler:
    """Fills modules of one model from one checkpoint.

    opened: the checkpoint. packed: the names in the files of packed layers, by their paths. tied:
    names of parameters that are another one, by the name of that one. keeps: tells whether the
    model's class keeps a tensor in float32. dtype: of the other kept tensors. place: packed layers
    are laid out for their kernel there as they come; None not to.
    """

    opened: Opened
    packed: Mapping[str, str]
    tied: Mapping[str, str]
    keeps: Callable[[str], bool]
    dtype: torch.dtype
    place: Place | None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        opened: Opened,
        packed: Mapping[str, str],
        *,
        dtype: torch.dtype,
        place: Place | None,
    ) -> Filler:
        """Bind a model, whose packed layers are in their places, to its checkpoint."""
        return cls(opened, packed, tied_names(model), kept_by_class(model), dtype, place)

    def fill(self, path: str, module: nn.Module, *, tied: bool = False) -> None:
        """Read a module's own tensors, not those of modules inside it.

        Args:
            path: of the module in its model.
            module: it; its parameters and buffers are replaced.
            tied: read tied parameters as well, for a module that runs without its model's others.

        Raises:
            FormatError: a tensor is missing, of another shape or dtype, or not finite.
        """
        source = self.opened.files if path in self.packed else self.opened.tensors
        wanted = self._file_names(path, module, tied=tied)
        for name, key in wanted.items():
            check_header(source.headers().get(key), getattr(module, name), f"tensor {key}")
        read = source.read(dict.fromkeys(wanted.values()))
        for name, key in wanted.items():
            tensor = read[key]
            if tensor.is_floating_point() and bool(tensor.isnan().any()):
                raise FormatError(f"tensor {key} holds NaN")
            if isinstance(module, QuantLinear) and not _finite(tensor):
                raise FormatError(f"tensor {key} holds infinity")
            wide = tensor.dtype == torch.float32 and self.keeps(f"{path}.{name}")
            _assign(module, name, tensor, torch.float32 if wide else self.dtype)
        if isinstance(module, QuantLinear):
            module.note_order(path)
            # Experts are unpacked for the model's own code, so no kernel multiplies with them.
            if self.place is not None and not module.of_experts:
                module.to(self.place.device).prepare(self.dtype, backend=self.place.backend)

    def _file_names(self, path: str, module: nn.Module, *, tied: bool) -> dict[str, str]:
        """Return the names in the files of a module's own tensors."""
        names = [n for n, _ in module.named_parameters(recurse=False)]
        names += [
            n
            for n, _ in module.named_buffers(recurse=False)
            if n not in module._non_persistent_buffers_set
        ]
        if path in self.packed:
            return {n: f"{self.packed[path]}.{n}" for n in names}
        full = {n: f"{path}.{n}" if path else n for n in names}
        firsts = {n: self.tied.get(f, f) if tied else f for n, f in full.items()}
        return {n: self.opened.keys.get(f, f) for n, f in firsts.items() if f not in self.tied}


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _assign(module: nn.Module, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    packed = isinstance(module, QuantLinear) and name != "bias"
    if tensor.is_floating_point() and not packed:
        tensor = tensor.to(dtype)
    if name in module._parameters:
        module._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[name] = tensor
