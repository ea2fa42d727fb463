"""Finished blocks as files: codes packed to their bits, everything else as it is.

Written aside, synced, and renamed, so a record is there whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autoround.core.packing import BLOCK, pack_rows, unpack_rows
from autoround.errors import OutputError
from autoround.formats.gguf.blocks import GgufTensor
from autoround.session.block_output import QuantizedWeight
from autoround.storage.checksum import checksum
from autoround.storage.durable import replace_synced
from autoround.types import QuantizedTensor, Scheme

#: What a record may hold, by the name it is written under.
KINDS: Mapping[str, type[QuantizedWeight]] = {"plain": QuantizedTensor, "gguf": GgufTensor}
#: Key of a file's metadata that holds everything but tensors.
KEY = "record"


def write_record(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and facts as one file, for good.

    Raises:
        OutputError: the disk is full, or cannot be written to.
    """
    sums = {name: checksum(tensor) for name, tensor in tensors.items()}
    text = json.dumps({"facts": facts, "sums": sums})
    metadata = {KEY: text, "crc": str(zlib.crc32(text.encode()))}
    held = {n: t.contiguous() for n, t in tensors.items()}
    replace_synced(path, lambda aside: save_file(held, aside, metadata=metadata))


def read_record(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a record back, and check it.

    Raises:
        OutputError: it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata()
            text = metadata[KEY]
            whole = zlib.crc32(text.encode()) == int(metadata["crc"])
            # Copied: a view would keep the file mapped.
            tensors = {n: opened.get_tensor(n).clone() for n in opened.keys()}  # noqa: SIM118
        held = json.loads(text)
        whole = whole and {n: checksum(t) for n, t in tensors.items()} == held["sums"]
        facts: dict[str, Any] = held["facts"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise OutputError(f"{path} is damaged ({error}); begin again with --restart") from error
    if not whole:
        raise OutputError(f"{path} is damaged: its checksum is another; begin again with --restart")
    return tensors, facts


def read_facts(path: Path) -> dict[str, Any]:
    """Read what a record says, without its tensors.

    Raises:
        OutputError: it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata()
        text = metadata[KEY]
        whole = zlib.crc32(text.encode()) == int(metadata["crc"])
        facts: dict[str, Any] = json.loads(text)["facts"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise OutputError(f"{path} is damaged ({error}); begin again with --restart") from error
    if not whole:
        raise OutputError(f"{path} is damaged: its checksum is another; begin again with --restart")
    return facts


def pack_layers(layers: Mapping[str, QuantizedWeight]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Turn layers into tensors on the CPU, and what else they are; codes take the bits they need.

    Codes are packed where they are.
    """
    tensors: dict[str, Tensor] = {}
    facts: dict[str, Any] = {}
    for name, layer in layers.items():
        own: dict[str, Any] = {"held": next(k for k, v in KINDS.items() if isinstance(layer, v))}
        for field in dataclasses.fields(layer):
            value = getattr(layer, field.name)
            if isinstance(value, Tensor):
                if field.name == "codes":
                    own["shape"], own["bits"] = list(value.shape), _bits(value)
                    value = pack_codes(value, own["bits"])
                tensors[f"{name}|{field.name}"] = value.to("cpu")
            else:
                own[field.name] = dataclasses.asdict(value) if isinstance(value, Scheme) else value
        facts[name] = own
    return tensors, facts


def unpack_layers(
    tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> dict[str, QuantizedWeight]:
    """Undo :func:`pack_layers`."""
    found: dict[str, QuantizedWeight] = {}
    for name, own in facts.items():
        kind = KINDS[own["held"]]
        parts: dict[str, Any] = {}
        for field in dataclasses.fields(kind):
            tensor = tensors.get(f"{name}|{field.name}")
            value = own.get(field.name)
            if tensor is not None:
                value = tensor
                if field.name == "codes":
                    value = unpack_codes(tensor, own["bits"], shape=own["shape"])
            elif field.name == "scheme":
                value = Scheme(**own["scheme"])
            parts[field.name] = value
        found[name] = kind(**parts)
    return found


def _bits(codes: Tensor) -> int:
    return max(1, int(codes.max()).bit_length()) if codes.numel() else 1


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack codes of any shape; uint8, values 0 … 2**bits - 1. Returns int32 [1 * bits, n / 32]."""
    flat = codes.reshape(-1)
    short = -flat.numel() % BLOCK
    if short:
        flat = torch.cat([flat, flat.new_zeros(short)])
    return pack_rows(flat.reshape(BLOCK, -1), bits)


def unpack_codes(words: Tensor, bits: int, *, shape: list[int]) -> Tensor:
    """Undo :func:`pack_codes`."""
    count = int(torch.tensor(shape).prod())
    return unpack_rows(words, bits).reshape(-1)[:count].reshape(shape).clone()
