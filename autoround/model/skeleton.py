"""A model whose structure is in memory and whose weights are wherever they are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoround.errors import ModelError, UsageError
from autoround.events import Sink, StageStarted
from autoround.model.adopted import copy_modules, unwrap
from autoround.model.blocks import decoder_blocks, is_matrix, tied_names
from autoround.model.build import build_empty
from autoround.model.convert import ConvertedSource
from autoround.model.experts import ExpertTensor, expert_tensors
from autoround.model.files.hub import HubModel
from autoround.model.files.locate import (
    ModelFiles,
    find_model,
    read_config,
    read_quantization,
    refuse_unquantizable,
)
from autoround.model.files.packed import FLOAT8, UnpackedSource
from autoround.model.files.source import WeightSource
from autoround.model.files.streamed_source import StreamedSource
from autoround.model.files.weights import open_weights
from autoround.model.names import CheckpointNames, Names, SavedNames
from autoround.model.wide import kept_by_class, wide_tensors


@dataclass(frozen=True)
class Skeleton:
    """A causal language model: modules (possibly on meta), block paths, and weights.

    Attributes:
        model: The modules; parameters are on meta for a model opened from files.
        config: The model's transformers config.
        source: Its weights, by the checkpoint's names.
        blocks: Module paths of the decoder blocks, in order.
        keys: The checkpoint's name of each tensor, by the model's name.
        unmapped: Checkpoint tensors that the model class does not know.
        tied: The first name of each parameter that shares another one's storage, by its name.
        folder: Where config and tokenizer files come from; None for a model in memory.
        names: The names its tensors have in checkpoints, and are written under.
        hub: The hub's model it was opened from; its weights may not be here yet.
        stream: What fetches and deletes the files of weights as they are read, where it was opened
            so.
    """

    model: nn.Module
    config: Any
    source: WeightSource
    blocks: tuple[str, ...]
    keys: dict[str, str]
    unmapped: tuple[str, ...]
    tied: dict[str, str]
    folder: Path | None
    names: Names
    hub: HubModel | None = None
    stream: StreamedSource | None = None

    @cached_property
    def stacked(self) -> dict[str, ExpertTensor]:
        """The weights in which experts are stacked, by name."""
        return expert_tensors(self.model)

    def fetch_weights(self, sink: Sink) -> None:
        """Fetch the weights of a model on the hub, where they are not here yet.

        Args:
            sink: Is told before it begins, and nothing where all are here, or come one by one.

        Raises:
            ModelError: The hub does not have or give them.
        """
        missing = [] if self.hub is None else self.hub.missing()
        if self.hub is None or self.stream is not None or not missing:
            return
        size = sum(math.prod(s) * d.itemsize for s, d in self.source.headers().values())
        files = f"{len(missing)} of {len(self.hub.shards())} files"
        sink(StageStarted("fetch", f"{files} of {self.hub.name}, {size / 1e9:.1f} GB in all"))
        self.hub.fetch_weights()

    @cached_property
    def wide(self) -> frozenset[str]:
        """The tensors that stay in float32 where others are in 16 bit, by the model's own names."""
        return wide_tensors(self.model, {name: self.header(name) for name in self.keys})

    def names_under(self, prefix: str) -> list[str]:
        """Return the model's tensor names below a module path, those shared with others too."""
        return [name for name in (*self.keys, *self.tied) if name.startswith(prefix + ".")]

    def names_outside_blocks(self) -> list[str]:
        """Return the model's tensor names that belong to no block."""
        prefixes = tuple(block + "." for block in self.blocks)
        return [name for name in self.keys if not name.startswith(prefixes)]

    def header(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        """Return shape and stored dtype of a tensor, by the model's own name."""
        return self.source.headers()[self.keys[name]]

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read tensors onto the CPU in their stored dtype.

        Args:
            names: The model's own names.

        Returns:
            Tensors by the model's own names, in the order asked for.

        Raises:
            ModelError: A tensor holds NaN, which would spread through the whole model.
        """
        # A weight that blocks share is stored under the first one's name.
        wanted = {name: self.keys[self.tied.get(name, name)] for name in names}
        tensors = self.source.read(dict.fromkeys(wanted.values()))
        for key, tensor in tensors.items():
            if tensor.is_floating_point() and bool(tensor.isnan().any()):
                raise ModelError(f"{self.folder or type(self.model).__name__}: {key} holds NaN")
        return {name: tensors[key] for name, key in wanted.items()}


def open_model(model: str | Path, *, stream: bool = False) -> Skeleton:
    """Open a checkpoint by path or hub id; no weight is read, or fetched.

    Args:
        model: A folder, or the id of a model on the hub: ``owner/name``, ``owner/name@revision``.
        stream: Whether a file of weights is fetched when it is read, and deleted when no block that
            is still to come needs it.

    Returns:
        The model with parameters on meta.

    Raises:
        ModelError: It is missing, damaged, already quantized, or has no decoder blocks.
        UsageError: It is to be streamed, and is none of the hub.
    """
    model_files = find_model(model)
    folder = model_files.folder
    config = read_config(folder)
    quantization = read_quantization(folder, config)
    refuse_unquantizable({**config, "quantization_config": quantization}, where=str(folder))
    stream_source = _open_stream(model_files, str(model)) if stream else None
    files: WeightSource = stream_source or open_weights(model_files)
    if any(dtype in FLOAT8 for _, dtype in files.headers().values()) or quantization is not None:
        files = UnpackedSource(files, quantization or {})
    built = build_empty(folder)
    # Unpacked first, then converted: rules of a class apply to 16-bit tensors.
    source = ConvertedSource(files, built)
    keys, missing = match_names(built, source)
    if missing:
        if missing[0] in source.headers():
            raise ModelError(f"{folder}: {describe_missing(built, source, missing[0])}")
        hint = f"; it has {source.unknown[0]!r}, which is unknown" if source.unknown else ""
        raise ModelError(
            f"{folder} lacks {len(missing)} tensors of its model class, such as "
            f"{missing[0]!r}{hint}; check that config.json and the weights are of the same model"
        )
    opened = _skeleton(built, source, keys, folder, CheckpointNames(source))
    if stream_source is not None:
        _assign_blocks(stream_source, opened, source)
    return replace(opened, hub=model_files.hub, stream=stream_source)


def _open_stream(files: ModelFiles, model: str) -> StreamedSource:
    if files.hub is None:
        raise UsageError(not_streamed(f"{model!r} is a local folder"))
    return StreamedSource(files.hub)


def not_streamed(what: str) -> str:
    """Return a message: a model that is here cannot be streamed."""
    return f"--stream-hub (stream_hub) fetches models of the hub, and {what}: leave it out"


def _assign_blocks(stream: StreamedSource, skeleton: Skeleton, source: ConvertedSource) -> None:
    """Tell a streamed source which of its tensors each block is made of."""

    def names_in_files(names: Iterable[str]) -> list[str]:
        return source.stored_names(skeleton.keys[skeleton.tied.get(n, n)] for n in names)

    stream.assign(
        [names_in_files(skeleton.names_under(block)) for block in skeleton.blocks],
        outside=names_in_files(skeleton.names_outside_blocks())
        + source.stored_names(skeleton.unmapped),
    )


def describe_missing(model: nn.Module, source: ConvertedSource, name: str) -> str:
    """Return a message: a tensor of the model class is missing, or has another shape in the files.

    Args:
        model: The modules, possibly on meta.
        source: The checkpoint's tensors.
        name: The model's own name of the tensor.
    """
    wanted = tuple(model.state_dict()[name].shape)
    if name in source.headers():
        stored = source.headers()[name][0]
        return f"tensor {name} should have shape {wanted}; the files have {stored}"
    layer = name.removesuffix(".weight")
    if layer != name and is_matrix(model.get_submodule(layer)):
        text = f"layer {layer}: the files hold neither its codes nor its weight"
    else:
        text = f"tensor {name} should have shape {wanted}; the files have nothing"
    if source.unknown:
        text += f" (they have {len(source.unknown)} tensors unknown to the model class, such as "
        text += f"{source.unknown[0]})"
    return text


def fill_weights(skeleton: Skeleton, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Read all weights of a model that was opened into its modules.

    Args:
        skeleton: From :func:`open_model`; its modules are changed.
        dtype: Of floating-point tensors, but those that the class keeps in float32.

    Returns:
        The model on the CPU, in evaluation mode.
    """
    model = skeleton.model
    keeps = kept_by_class(model)
    for name in skeleton.keys:
        tensor = skeleton.read([name])[name]
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float32 if keeps(name) else dtype)
        set_tensor(model, name, tensor)
    model.tie_weights()  # type: ignore[operator]
    return model.eval()


def set_tensor(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor in the place of one that may be on meta.

    Args:
        model: Whose modules are changed.
        name: Of a parameter or buffer.
        tensor: To be put there.
    """
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    # Set in the tables themselves: a meta parameter cannot be copied into.
    if attribute in module._parameters:
        module._parameters[attribute] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[attribute] = tensor


def adopt_model(model: nn.Module) -> Skeleton:
    """Use a model that is in memory; it is read, and never changed.

    Args:
        model: A causal language model of transformers, in any mode, wrapped or not.

    Returns:
        A copy of its modules in evaluation mode, with the weights it holds.

    Raises:
        ModelError: It is quantized already, has adapters or no weights, or is an encoder-decoder
            or without decoder blocks.
    """
    model = unwrap(model)
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        raise ModelError(f"{type(model).__name__} is not a transformers model: it has no config")
    refuse_unquantizable(config.to_dict(), where=type(model).__name__)
    plain, source = copy_modules(model)
    keys, _ = match_names(plain, source)
    return _skeleton(plain, source, keys, None, SavedNames(plain))


def _skeleton(
    model: nn.Module,
    source: WeightSource,
    keys: dict[str, str],
    folder: Path | None,
    names: Names,
) -> Skeleton:
    known = set(keys.values()) | set(keys) | set(tied_names(model))
    unmapped = tuple(name for name in source.headers() if name not in known)
    return Skeleton(
        model=model,
        config=model.config,
        source=source,
        blocks=tuple(decoder_blocks(model)),
        keys=keys,
        unmapped=unmapped,
        tied=tied_names(model),
        folder=folder,
        names=names,
    )


def match_names(
    model: nn.Module, source: WeightSource, *, tied: Mapping[str, str] | None = None
) -> tuple[dict[str, str], list[str]]:
    """Match the model's tensor names with the checkpoint's.

    A checkpoint saved from the bare decoder lacks the prefix of the causal model, and
    the other way round.

    Args:
        model: The modules, possibly on meta.
        source: The checkpoint's tensors.
        tied: The first name of each parameter that shares another one's storage, by its name;
            None to look at the model, whose parameters are tied then.

    Returns:
        The checkpoint's name by the model's name, and the model's names without a match; a tied
        parameter needs none of its own.
    """
    headers = source.headers()
    prefix = str(getattr(model, "base_model_prefix", "")) + "."
    tied = tied_names(model) if tied is None else tied
    keys, missing = {}, []
    for name, tensor in model.state_dict().items():
        if name in tied:
            continue
        alternatives = [name, prefix + name, name.removeprefix(prefix)]
        # A tied weight may be stored under the name of any parameter that shares it.
        alternatives += [other for other, first in tied.items() if first == name]
        key = next(
            (a for a in alternatives if a in headers and headers[a][0] == tuple(tensor.shape)),
            None,
        )
        if key is None:
            missing.append(name)
        else:
            keys[name] = key
    return keys, missing
