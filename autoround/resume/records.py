"""Finished blocks as files: packed weights as the first format has them, everything else as it is.

Written aside, synced, and renamed, so a record is there whole or not at all.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autoround.errors import OutputError
from autoround.session.block_output import PackedWeight
from autoround.storage.checksum import checksum
from autoround.storage.durable import replace_synced
from autoround.types import BlockResult

#: Key of a file's metadata that holds everything but tensors.
KEY = "record"


class UnusableJournalError(OutputError):
    """What an interrupted run left cannot be gone on from as the command stands."""


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
        UnusableJournalError: it is damaged.
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
        raise UnusableJournalError(
            f"{path} is damaged ({error}); begin again with --restart"
        ) from error
    if not whole:
        raise UnusableJournalError(
            f"{path} is damaged: its checksum is another; begin again with --restart"
        )
    return tensors, facts


def read_facts(path: Path) -> dict[str, Any]:
    """Read what a record says, without its tensors.

    Raises:
        UnusableJournalError: it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata()
        text = metadata[KEY]
        whole = zlib.crc32(text.encode()) == int(metadata["crc"])
        facts: dict[str, Any] = json.loads(text)["facts"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UnusableJournalError(
            f"{path} is damaged ({error}); begin again with --restart"
        ) from error
    if not whole:
        raise UnusableJournalError(
            f"{path} is damaged: its checksum is another; begin again with --restart"
        )
    return facts


def record_weights(
    packed: Mapping[str, PackedWeight],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return packed weights as the tensors of a record, and what else they are."""
    tensors = {
        f"{name}|{part}": tensor
        for name, weight in packed.items()
        for part, tensor in weight.tensors.items()
    }
    facts = {n: {"packing": weight.packing, **weight.facts} for n, weight in packed.items()}
    return tensors, facts


def recorded_weights(
    tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> dict[str, PackedWeight]:
    """Undo :func:`record_weights`."""
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in facts}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition("|")
        if name in parts:
            parts[name][part] = tensor
    weights: dict[str, PackedWeight] = {}
    for name, about in facts.items():
        rest = {key: value for key, value in about.items() if key != "packing"}
        weights[name] = PackedWeight(str(about["packing"]), parts[name], rest)
    return weights


def result_of(values: Mapping[str, Any]) -> BlockResult:
    """Build figures from JSON, which has lists for tuples, and null for NaN in reports."""
    tokens = {path: tuple(seen) for path, seen in values["expert_tokens"].items()}
    plain: dict[str, Any] = {
        name: float("nan") if value is None else value for name, value in values.items()
    }
    return BlockResult(**{**plain, "expert_tokens": tokens})
