"""A model whose structure is in memory and whose weights are wherever they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoround.errors import ModelError
from autoround.model.blocks import decoder_blocks, is_matrix, tied_names
from autoround.model.build import build_empty
from autoround.model.convert import ConvertedSource
from autoround.model.experts import ExpertTensor, expert_tensors
from autoround.model.locate import (
    locate_model,
    read_config,
    read_quantization,
    refuse_unquantizable,
)
from autoround.model.names import CheckpointNames, Names, SavedNames
from autoround.model.packed import FLOAT8, UnpackedSource
from autoround.model.source import CheckpointSource, ModuleSource, WeightSource


@dataclass(frozen=True)
class Skeleton:
    """A causal language model: modules (possibly on meta), block paths, and weights.

    keys maps each of the model's own tensor names to the checkpoint's name for it;
    extras are checkpoint tensors the model class does not know.
    names are those that its tensors have in checkpoints, and are written under.
    folder is where config and tokenizer files come from; None for a model in memory.
    """

    model: nn.Module
    config: Any
    source: WeightSource
    blocks: tuple[str, ...]
    keys: dict[str, str]
    extras: tuple[str, ...]
    tied: dict[str, str]
    folder: Path | None
    names: Names

    @cached_property
    def stacked(self) -> dict[str, ExpertTensor]:
        """The weights in which experts are stacked, by name."""
        return expert_tensors(self.model)

    def names_under(self, prefix: str) -> list[str]:
        """Return the model's tensor names below a module path."""
        return [name for name in self.keys if name.startswith(prefix + ".")]

    def names_outside_blocks(self) -> list[str]:
        """Return the model's tensor names that belong to no block."""
        prefixes = tuple(block + "." for block in self.blocks)
        return [name for name in self.keys if not name.startswith(prefixes)]

    def header(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        """Return shape and stored dtype of one of the model's tensors."""
        return self.source.headers()[self.keys[name]]

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read tensors by the model's own names, onto the CPU in their stored dtype.

        Raises:
            ModelError: one holds NaN, which would spread through the whole model.
        """
        wanted = list(names)
        tensors = self.source.read(dict.fromkeys(self.keys[name] for name in wanted))
        for key, tensor in tensors.items():
            if tensor.is_floating_point() and bool(tensor.isnan().any()):
                raise ModelError(f"{self.folder or type(self.model).__name__}: {key} holds NaN")
        return {name: tensors[self.keys[name]] for name in wanted}


def open_model(model: str | Path) -> Skeleton:
    """Open a checkpoint by path or hub id; no weight is read.

    Raises:
        ModelError: it is missing, damaged, already quantized, or has no decoder blocks.
    """
    folder = locate_model(model)
    config = read_config(folder)
    found = read_quantization(folder, config)
    refuse_unquantizable({**config, "quantization_config": found}, where=str(folder))
    files: WeightSource = CheckpointSource(folder)
    if any(dtype in FLOAT8 for _, dtype in files.headers().values()) or found is not None:
        files = UnpackedSource(files, found or {})
    built = build_empty(folder)
    source = ConvertedSource(files, built)
    keys, missing = match_names(built, source)
    if missing:
        if missing[0] in source.headers():
            raise ModelError(f"{folder}: {what_lacks(built, source, missing[0])}")
        others = f"; it has {source.unknown[0]!r}, which is unknown" if source.unknown else ""
        raise ModelError(
            f"{folder} lacks {len(missing)} tensors of its model class, such as "
            f"{missing[0]!r}{others}"
        )
    return _skeleton(built, source, keys, folder, CheckpointNames(source))


def what_lacks(model: nn.Module, source: ConvertedSource, name: str) -> str:
    """Say that a tensor of the model class is missing, or has another shape in the files."""
    wanted = tuple(model.state_dict()[name].shape)
    if name in source.headers():
        got = source.headers()[name][0]
        return f"tensor {name} should have shape {wanted}; the files have {got}"
    layer = name.removesuffix(".weight")
    if layer != name and is_matrix(model.get_submodule(layer)):
        text = f"layer {layer}: the files hold neither its codes nor its weight"
    else:
        text = f"tensor {name} should have shape {wanted}; the files have nothing"
    if source.unknown:
        text += f" (of {len(source.unknown)} tensors the model class knows nothing, such as "
        text += f"{source.unknown[0]})"
    return text


def filled(skeleton: Skeleton) -> nn.Module:
    """Read all weights of a model that was opened into its modules, in float32."""
    model = skeleton.model
    for name in skeleton.keys:
        tensor = skeleton.read([name])[name]
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        path, _, own = name.rpartition(".")
        module = model.get_submodule(path)
        if own in module._parameters:
            module._parameters[own] = nn.Parameter(tensor, requires_grad=False)
        else:
            module._buffers[own] = tensor
    model.tie_weights()  # type: ignore[operator]
    return model.eval()


def adopt_model(model: nn.Module) -> Skeleton:
    """Use a model that is in memory; it is read, and never changed.

    Raises:
        ModelError: it is quantized already, an encoder-decoder, or has no decoder blocks.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        raise ModelError(f"{type(model).__name__} is not a transformers model: it has no config")
    refuse_unquantizable(config.to_dict(), where=type(model).__name__)
    source = ModuleSource(model)
    keys, _ = match_names(model, source)
    return _skeleton(model, source, keys, None, SavedNames(model))


def _skeleton(
    model: nn.Module,
    source: WeightSource,
    keys: dict[str, str],
    folder: Path | None,
    names: Names,
) -> Skeleton:
    known = set(keys.values()) | set(keys) | set(tied_names(model))
    extras = tuple(name for name in source.headers() if name not in known)
    return Skeleton(
        model=model,
        config=model.config,
        source=source,
        blocks=tuple(decoder_blocks(model)),
        keys=keys,
        extras=extras,
        tied=tied_names(model),
        folder=folder,
        names=names,
    )


def match_names(model: nn.Module, source: WeightSource) -> tuple[dict[str, str], list[str]]:
    """Match the model's tensor names with the checkpoint's.

    A checkpoint saved from the bare decoder lacks the prefix of the causal model, and
    the other way round. Returns the matches and the names that have none; a tied
    parameter needs none of its own.
    """
    headers = source.headers()
    prefix = str(getattr(model, "base_model_prefix", "")) + "."
    tied = tied_names(model)
    keys, missing = {}, []
    for name, tensor in model.state_dict().items():
        if name in tied:
            continue
        alternatives = [name, prefix + name, name.removeprefix(prefix)]
        alternatives += [other for other, first in tied.items() if first == name]
        found = next(
            (a for a in alternatives if a in headers and headers[a][0] == tuple(tensor.shape)),
            None,
        )
        if found is None:
            missing.append(name)
        else:
            keys[name] = found
    return keys, missing
