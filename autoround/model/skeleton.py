"""A model whose structure is in memory and whose weights are wherever they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoround.errors import ModelError
from autoround.model.blocks import decoder_blocks, tied_names
from autoround.model.locate import (
    locate_model,
    read_config,
    read_quantization,
    refuse_unquantizable,
)
from autoround.model.source import CheckpointSource, ModuleSource, WeightSource


@dataclass(frozen=True)
class Skeleton:
    """A causal language model: modules (possibly on meta), block paths, and weights.

    keys maps each of the model's own tensor names to the checkpoint's name for it;
    extras are checkpoint tensors the model class does not know.
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
    source: WeightSource = CheckpointSource(folder)
    built = build_empty(folder)
    keys, missing = match_names(built, source)
    if missing:
        # Names or shapes differ from the files' own: let transformers convert, in memory.
        built = _load_converted(folder, missing)
        source = ModuleSource(built)
        keys, missing = match_names(built, source)
    return _skeleton(built, source, keys, folder)


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
    return _skeleton(model, source, keys, None)


def _skeleton(
    model: nn.Module, source: WeightSource, keys: dict[str, str], folder: Path | None
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
    )


def build_empty(folder: Path) -> nn.Module:
    """Build the model's modules with parameters on meta and buffers computed.

    Raises:
        ModelError: transformers does not know the architecture as a causal language model.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with init_empty_weights(include_buffers=False):
            model: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # an odd config fails in many unrelated ways
        reason = " ".join(str(error).split())[:300] or repr(error)
        raise ModelError(
            f"{folder} cannot be built as a causal language model: {reason}"
        ) from error
    model.tie_weights()  # type: ignore[operator]
    return model.eval()


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


def _load_converted(folder: Path, missing: list[str]) -> nn.Module:
    """Load the whole model through transformers, which renames and reshapes tensors."""
    from transformers import AutoModelForCausalLM

    try:
        loading: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype="auto",
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        model, report = loading
    except (ValueError, RuntimeError, OSError) as error:
        raise ModelError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    absent = sorted(report["missing_keys"])
    if absent:
        raise ModelError(
            f"{folder} lacks {len(absent)} tensors of its model class, such as {absent[0]!r} "
            f"(searched for {missing[0]!r})"
        )
    loaded: nn.Module = model.eval()
    return loaded
