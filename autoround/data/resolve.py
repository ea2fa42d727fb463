"""What to calibrate on when nobody chose, and the recipe's dataset cannot be had."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from autoround.data.hub import is_cached, is_offline, is_reachable
from autoround.data.sources import EMBEDDED, SUFFIXES
from autoround.data.spec import DatasetSpec, parse_datasets


def resolve_dataset(
    spec: str | Sequence[str], *, explicit: bool
) -> tuple[str | Sequence[str], str | None]:
    """Return the datasets to use, and a note for the plan when they are not those given.

    explicit: the user named the datasets; they are then returned unchanged, whatever happens.
    Otherwise a hub dataset that is neither cached nor reachable is replaced by the embedded text.
    """
    if explicit:
        return spec, None
    for dataset in parse_datasets(spec):
        if _is_hub(dataset) and not _available(dataset.name):
            return EMBEDDED, (
                "calibration uses the embedded text pydoc_data.topics, "
                f"because {dataset.name} cannot be reached"
            )
    return spec, None


def _is_hub(spec: DatasetSpec) -> bool:
    path = Path(spec.name)
    is_local = spec.name == EMBEDDED or path.suffix.lower() in SUFFIXES or os.path.exists(path)
    return not is_local


def _available(name: str) -> bool:
    if is_cached(name):
        return True
    return not is_offline() and is_reachable(name)
