"""From what the user names as a model to a folder of checkpoint files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from autoround.errors import ModelError
from autoround.model.files.config_limits import check_limits
from autoround.model.files.hub import HubModel, fetch_side_files, parse_hub_name
from autoround.model.files.hub_headers import HubHeaders
from autoround.model.files.quantization_config import MAX_BYTES, find_quantization
from autoround.model.files.stored import HeaderSource, StoredFiles

#: Methods of a quantization_config whose checkpoints are as good as 16-bit ones: they are unpacked.
UNPACKED = ("fp8", "mxfp4")


class ModelFiles(NamedTuple):
    """A model that is found: its folder, and the hub's model where it comes from there.

    All of a local folder is here. Of the hub's model the weights may be missing.
    """

    folder: Path
    hub: HubModel | None = None

    def headers(self) -> HeaderSource:
        """Return the headers of its weights; no weight is read or fetched.

        Raises:
            ModelError: there are no safetensors, or the index is damaged or points outside.
        """
        if self.hub is not None and self.hub.missing():
            return HubHeaders(self.hub)
        return StoredFiles(self.folder)


def locate_model(model: str | Path) -> Path:
    """Return the folder of a model named by path or hub id, fetching all of it if need be.

    Raises:
        ModelError: there is no such folder, or the hub does not have or give it.
    """
    files = find_model(model)
    if files.hub is not None:
        files.hub.fetch_weights()
    return files.folder


def find_model(model: str | Path) -> ModelFiles:
    """Find a model named by path or hub id; of one on the hub no weights are fetched.

    Args:
        model: a folder, ``owner/name``, or ``owner/name@revision``.

    Raises:
        ModelError: there is no such folder, or the hub does not have or give it.
    """
    # Unlike methods of Path, these take any text for a name: ~nobody, one of 5,000 letters.
    path = Path(os.path.expanduser(model))
    if os.path.isdir(path):
        if (path / "INCOMPLETE").is_file():
            raise ModelError(
                f"{path} is the unfinished output of a run that was cut off, not a model; run it "
                "again, or delete the folder"
            )
        return ModelFiles(path)
    if os.path.isfile(path):
        raise ModelError(
            f"model {str(model)!r} is a file; name the folder that holds config.json and "
            "the .safetensors files"
        )
    name = parse_hub_name(str(model))
    if name is None:
        raise ModelError(
            f"model folder {str(model)!r} does not exist; name a folder with config.json and "
            ".safetensors files, or a hub id such as owner/name"
        )
    hub = fetch_side_files(name)
    return ModelFiles(hub.folder, hub)


def gguf_file(folder: Path) -> str | None:
    """Return the name of the GGUF file that holds a folder's weights, if one does.

    Raises:
        ModelError: there are several, and nothing says which is meant.
    """
    if any(folder.glob("*.safetensors")):
        return None
    files = sorted(path.name for path in folder.glob("*.gguf"))
    if len(files) > 1:
        raise ModelError(f"{folder} holds several GGUF files: {', '.join(files)}; keep one")
    return files[0] if files else None


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json of a checkpoint folder.

    Raises:
        ModelError: the file is missing, too large, not a JSON object, or of a size that no model
            has.
    """
    path = folder / "config.json"
    if not path.is_file():
        inside = sorted(p.parent.name for p in folder.glob("*/config.json"))
        hint = f", but folders that do: name one of {', '.join(inside[:8])}" if inside else ""
        raise ModelError(f"{folder} is not a model: it has no config.json{hint}")
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path} is larger than {MAX_BYTES >> 20} MiB: not a model config")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds a {type(config).__name__}, not an object")
    check_limits(config, str(path))
    return config


def read_quantization(folder: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a checkpoint says of its quantization, or None if it says nothing.

    It may stand under several keys, or, of older programs, in a file of its own.

    Raises:
        ModelError: it is not an object, or that file is not JSON.
    """
    return find_quantization(folder, config)


def refuse_unquantizable(config: dict[str, Any], *, where: str) -> None:
    """Refuse configs of models that are quantized already, or are not decoders.

    Raises:
        ModelError: with the reason.
    """
    method = config.get("quantization_config")
    name = method.get("quant_method", "unknown") if isinstance(method, dict) else "unknown"
    if method and name not in UNPACKED:
        raise ModelError(
            f"{where} is already quantized (quant_method {name!r}); quantizing needs the "
            "16-bit original"
        )
    if config.get("is_encoder_decoder"):
        raise ModelError(
            f"{where} is an encoder-decoder model ({config.get('model_type')!r}); only "
            "decoder-only language models can be quantized"
        )
    if "model_type" not in config:
        raise ModelError(f"{where} is not a transformers model: its config has no model_type")


def foreign_gguf(folder: Path) -> str | None:
    """Return the GGUF file that only transformers can make a model of."""
    return None if (folder / "config.json").is_file() else gguf_file(folder)
