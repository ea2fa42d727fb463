"""From a GGUF file with its config beside it to a transformers model, unpacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoround.device.registry import open_device
from autoround.errors import FormatError
from autoround.gguf.architectures import text_part
from autoround.gguf.reader import Reader
from autoround.model.blocks import tied_names
from autoround.model.build import build_empty
from autoround.model.files.gate_mark import warn_if_failed
from autoround.model.files.locate import gguf_file, locate_model


def load_gguf(model: str | Path, *, device: str = "auto") -> Any:
    """Load a folder with a GGUF file and a config.json, in float32.

    What is loaded are the very weights of the file; programs that serve such files also
    round activations to 8 bits, and may so differ a little.

    Raises:
        ModelError, FormatError: what is wrong, and where.
    """
    folder = locate_model(model)
    file = gguf_file(folder)
    if file is None:
        raise FormatError(f"{folder} holds no GGUF file")
    warn_if_failed(folder)
    built = build_empty(folder)
    tied = tied_names(built)
    state = {name: tensor for name, tensor in built.state_dict().items() if name not in tied}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    config = built.config.to_dict()  # type: ignore[operator,union-attr]
    reader = Reader(folder / file, config, shapes)
    missing = sorted(set(state) - set(reader.names()))
    if missing and text_part(config) is not config:
        raise FormatError(
            f"{folder / file} holds the text part of a {config['model_type']} model only, and "
            f"{missing[0]} is not in it: load it with llama.cpp"
        )
    if missing:
        raise FormatError(f"{folder / file}: nothing in it becomes {missing[0]} of the model")
    for name in state:
        path, _, own = name.rpartition(".")
        module = built.get_submodule(path)
        tensor = reader.read(name)
        if own in module._parameters:
            module._parameters[own] = nn.Parameter(tensor, requires_grad=False)
        else:
            module._buffers[own] = tensor
    built.tie_weights()  # type: ignore[operator]
    return built.to(open_device(device).device, torch.float32).eval()
