"""From the name of a model to one that does tasks, by torch or by llama.cpp."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from autoround.errors import UsageError
from autoround.evaluate.models import load_any
from autoround.evaluate.tasks import llama_cpp
from autoround.evaluate.tasks.model import TaskModel
from autoround.evaluate.tasks.torch_model import TorchTaskModel
from autoround.gguf.header_check import check_header
from autoround.model.files.gate_mark import warn_if_failed
from autoround.model.files.locate import gguf_file, locate_model
from autoround.model.files.tokenizer import load_tokenizer

#: Programs that run a model: torch, with dequantized weights in float32; llama.cpp, GGUF files.
ENGINES = ("auto", "torch", "llama.cpp")


def open_task_model(
    model: str | Path, *, engine: str = "auto", device: str = "auto", batch_size: int = 8
) -> TaskModel:
    """Open a model for tasks.

    Args:
        model: Folder or hub id, or a GGUF file, which only llama.cpp opens.
        engine: One of ENGINES; auto takes llama.cpp for GGUF files where it is installed.
        device: Name of a device for torch, or ``auto``.
        batch_size: Sequences that torch runs at once.

    Raises:
        UsageError: The engine does not run such files, or is not installed.
        ModelError, FormatError, DataError: The model or its tokenizer cannot be loaded.
    """
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: legal engines are {', '.join(ENGINES)}")
    path = Path(os.path.expanduser(model))
    if path.is_file() and path.suffix == ".gguf":
        if engine == "torch":
            raise UsageError(
                f"{path}: torch opens folders; name the one the file is in, or --engine llama.cpp"
            )
        return _open_gguf(path)
    folder = locate_model(model)
    file = gguf_file(folder)
    if file is None and engine == "llama.cpp":
        raise UsageError(f"--engine llama.cpp runs GGUF files, and {folder} holds none")
    if file is not None and (
        engine == "llama.cpp" or (engine == "auto" and llama_cpp.is_installed())
    ):
        warn_if_failed(folder)
        return _open_gguf(folder / file)
    # The tokenizer first: it fails sooner than the model is loaded.
    tokenizer = load_tokenizer(folder)
    return TorchTaskModel(load_any(folder, device=device), tokenizer, batch_size=batch_size)


def _open_gguf(path: Path) -> TaskModel:
    if not llama_cpp.is_installed():
        raise UsageError(
            f"{path} is run by llama.cpp, whose bindings are not installed; run: "
            f"{llama_cpp.INSTALL}"
        )
    check_header(path)
    process, address = llama_cpp.start_server(path, threads=torch.get_num_threads())
    return llama_cpp.LlamaCppTaskModel(address, process)
