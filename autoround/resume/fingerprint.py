"""Fingerprint of a run: everything its output bytes depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from autoround._version import __version__
from autoround.data.tokens import Tokens
from autoround.device.protocol import Runtime
from autoround.model.files.side_files import side_files
from autoround.model.skeleton import Skeleton
from autoround.storage.checksum import checksum, checksum_of_all
from autoround.types import Plan

#: What stands for the sums of tensors of a model that is not read for them.
STREAMED = "streamed from the hub"
#: Packages whose versions change numbers.
PACKAGES = ("torch", "transformers")


def fingerprint(
    plan: Plan, skeleton: Skeleton, tokens: Tokens | None, *, fresh: Tokens | None = None
) -> dict[str, Any]:
    """Return what must be the same for a run to go on; values are JSON.

    Args:
        plan: of the first pass, with the further ones.
        skeleton: the model.
        tokens: of the calibration.
        fresh: those that end-to-end tuning alone reads.
    """
    return {
        "autoround": __version__,
        **{name: _version(name) for name in PACKAGES},
        "model": plan.model,
        "revision": plan.revision,
        "device": plan.device,
        "compute dtype": plan.compute_dtype,
        "threads": plan.tuning.threads,
        "recipe": without_evaluation(plan.recipe),
        "calibration": plan.calibration,
        "calibration tokens": tokens_digest(tokens),
        "fresh tokens": tokens_digest(fresh),
        "model files": model_digests(skeleton),
        # Follows from the above, but for what a change of this program does to it.
        "plan": _digest(json.dumps(without_evaluation(plan_values(plan)), sort_keys=True)),
    }


def without_evaluation(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe, or a plan with its recipe, without how the result is judged.

    No byte of a result depends on that, so a run may go on with another gate.

    Args:
        values: plain ones.
    """
    kept = {key: value for key, value in values.items() if key != "evaluation"}
    if isinstance(kept.get("recipe"), Mapping):
        kept["recipe"] = without_evaluation(kept["recipe"])
    if isinstance(kept.get("further"), list | tuple):
        kept["further"] = [
            without_evaluation(x) if isinstance(x, Mapping) else x for x in kept["further"]
        ]
    return kept


def plan_values(plan: Plan) -> dict[str, Any]:
    """Return what a plan does as plain values: without what engines do with its result.

    Args:
        plan: of a pass, with the further ones.
    """
    values = dataclasses.asdict(dataclasses.replace(plan, serving=()))
    for one_pass in (values, *values["further"]):
        del one_pass["serving"]
    return values


def machine_facts(runtime: Runtime) -> dict[str, Any]:
    """Return what may change last bits only: a run goes on with a warning."""
    return {
        "processor": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "operations": type(runtime.ops).__name__,
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in words where two identities differ; the plan only where nothing else does."""
    old, new = dict(_flat(then)), dict(_flat(now))
    found = []
    for key in dict.fromkeys((*old, *new)):
        if old.get(key) != new.get(key):
            found.append(f"{key}: {_shown(old.get(key))} then, {_shown(new.get(key))} now")
    others = [line for line in found if not line.startswith("plan: ")]
    return others or found


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _digest(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    return hashlib.sha256(data).hexdigest()[:16]


def tokens_digest(tokens: Tokens | None) -> str | None:
    """Return a sum of calibration tokens, and of what goes with them."""
    if tokens is None:
        return None
    found = f"{checksum(tokens.ids):08x}{checksum(tokens.lengths):08x}"
    if tokens.media:
        sums = [[checksum(each[name]) for name in sorted(each)] for each in tokens.media]
        found += _digest(json.dumps(sums))
    return found


def is_of_streamed_model(fingerprint: Mapping[str, Any]) -> bool:
    """Tell whether a fingerprint is that of a run whose model was streamed from the hub."""
    files = fingerprint.get("model files")
    return isinstance(files, Mapping) and STREAMED in files.values()


def model_digests(skeleton: Skeleton) -> dict[str, Any]:
    """Return sums of what can be read at once; blocks are compared when they are read again.

    A streamed model is not read for this: the commit, which is in the fingerprint, stands for all
    of its tensors.
    """
    headers = {
        name: [list(shape), str(dtype)]
        for name, (shape, dtype) in skeleton.source.headers().items()
    }
    if skeleton.stream is None:
        names = skeleton.names_outside_blocks()
        outside = f"{checksum_of_all(skeleton.read([name])[name] for name in names):016x}"
    else:
        outside = STREAMED
    return {
        "config": _digest(json.dumps(skeleton.config.to_dict(), sort_keys=True, default=str)),
        "tensors": _digest(json.dumps(headers, sort_keys=True)),
        "tensors outside the blocks": outside,
        **_files(skeleton.folder),
    }


def _files(folder: Path | None) -> dict[str, str]:
    if folder is None:
        return {}
    return {name: _digest(path.read_bytes()) for name, path in side_files(folder).items()}
