"""Datasets of the hub: reading them, and knowing beforehand whether they can be had."""

from __future__ import annotations

import glob
import importlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoround.data.records import Record, to_record
from autoround.data.spec import DatasetSpec
from autoround.errors import DataError

#: Seconds that the question "is the hub there?" may take.
REACH_SECONDS = 3.0


def hub_records(spec: DatasetSpec) -> Iterator[Record]:
    """Yield the records of a hub dataset, split after split (``train`` when none is named).

    Streamed, so that only what is used travels; a dataset in the local cache is read from there.
    No code of the dataset is ever run.

    Raises: DataError when the dataset cannot be loaded or read.
    """
    for split in spec.splits or ("train",):
        rows = _rows(spec.name, split)
        index = 0
        while True:
            try:
                row = next(rows)
            except StopIteration:
                break
            except Exception as error:
                # The loader raises errors of many libraries, down to the network's own.
                raise _cannot_load(spec.name, split, error=error) from error
            where = f"{spec.name} ({split}) record {index}"
            yield to_record(row, where, key=spec.text_key, prefer_chat=spec.apply_chat_template)
            index += 1


def is_offline() -> bool:
    """Tell whether the hub library has been told to stay off the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def is_cached(name: str) -> bool:
    """Tell whether a hub dataset lies prepared in the local cache of ``datasets``."""
    owner, _, base = name.rpartition("/")
    prefix = f"{owner}___" if owner else ""
    if not any(_cache_folder().glob(f"{glob.escape(prefix)}*")):
        # Importing the library takes more time than the rest of a small plan.
        return False
    try:
        config: Any = importlib.import_module("datasets.config")
        naming: Any = importlib.import_module("datasets.naming")
    except ImportError:
        return False
    folder = prefix + naming.camelcase_to_snakecase(base)
    root = Path(config.HF_DATASETS_CACHE).expanduser() / folder
    # config / version / fingerprint: the layout that the loader itself looks for.
    return any(path.is_dir() for path in root.glob("*/*/*"))


def _cache_folder() -> Path:
    """Return where ``datasets`` keeps what it prepared."""
    from huggingface_hub import constants

    library = sys.modules.get("datasets.config")
    if library is not None:
        return Path(library.HF_DATASETS_CACHE).expanduser()
    chosen = os.environ.get("HF_DATASETS_CACHE")
    return Path(chosen or Path(constants.HF_HOME) / "datasets").expanduser()


def is_reachable(name: str) -> bool:
    """Ask the hub about a dataset, for REACH_SECONDS at most. Never asks when offline is set."""
    if is_offline():
        return False
    answers: list[bool] = []

    def ask() -> None:
        from huggingface_hub import HfApi

        try:
            HfApi().dataset_info(name, timeout=REACH_SECONDS)
        except Exception:
            # Whatever stands in the way, the dataset cannot be had.
            return
        answers.append(True)

    # A thread, because looking up a host name knows no timeout of its own.
    thread = threading.Thread(target=ask, daemon=True, name="hub-reachable")
    thread.start()
    thread.join(REACH_SECONDS)
    return bool(answers)


def _rows(name: str, split: str) -> Iterator[Any]:
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"dataset {name}: hub datasets need the package datasets: pip install datasets"
        ) from error
    streaming = not (is_offline() or is_cached(name))
    try:
        return iter(datasets.load_dataset(name, split=split, streaming=streaming))
    except Exception as error:
        raise _cannot_load(name, split, error=error) from error


def _cannot_load(name: str, split: str, *, error: Exception) -> DataError:
    lines = str(error).strip().splitlines()
    detail = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
    state = (
        "offline mode is on, and it is not in the local cache"
        if is_offline()
        else ("the hub could not be reached, or does not have it")
    )
    return DataError(
        f"dataset {name} (split {split}) cannot be loaded: {state} ({detail}). Name a local file "
        "(.txt, .jsonl, .json, .parquet), or use '--dataset embedded'"
    )
