"""Whole runs on tiny models: recipes that take a second, and a quick and even device."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from autoround.device.protocol import Speed
from autoround.device.registry import open_device
from autoround.events import Event, ignore
from autoround.model.blocks import decoder_blocks, tied_names
from autoround.model.files.source import ModuleSource
from autoround.model.names import SavedNames
from autoround.model.skeleton import Skeleton, adopt_model, match_names, open_model
from autoround.pipeline import quantize_pass
from autoround.preparation import Prepared, Request, open_session, prepare
from autoround.recipe.load import load_recipe
from autoround.recipe.schema import Recipe
from autoround.session.block_output import BlockOutput
from autoround.session.session import Session
from autoround.types import QuantizedTensor
from autoround_backends._processor import Processor

#: What makes the default recipe fit tiny models.
SMALL: dict[str, object] = {
    "scheme.group_size": 32,
    "tuning.iters": 4,
    "tuning.batch_size": 2,
    "tuning.num_validations": 2,
    "tuning.validation_samples": 4,
    "tuning.compute_dtype": "float32",
    "calibration.nsamples": 4,
    "calibration.seqlen": 16,
    "output.dtype": "float32",
}
#: What a report measures anew in every run.
MEASURED = ("seconds", "peak_bytes", "peak_reserved_bytes")
#: Files that are nothing but what a run measured: its times, and the page made of them.
MEASURED_FILES = ("run.json", "report.html")
#: Plain rounding of the weights, which needs no data.
NEAREST: dict[str, object] = {"tuning.iters": 0, "tuning.init_scale": "minmax"}


def small(values: dict[str, object] | None = None) -> Recipe:
    """Return the default recipe made small, with values by their dotted paths on top."""
    return load_recipe("default", values={**SMALL, **(values or {})})


def make_prepared(
    model: Path | nn.Module | Skeleton,
    values: dict[str, object] | None = None,
    *,
    data: object | None = None,
    sink: Any = ignore,
) -> Prepared:
    """Prepare a run of a small recipe on the CPU."""
    if not isinstance(model, Skeleton):
        model = adopt_model(model) if isinstance(model, nn.Module) else open_model(model)
    request = Request(model, small(values), open_device("cpu"), "tiny", None, data)
    return prepare(request, sink=sink)


def make_session(
    model: Path | nn.Module | Skeleton,
    values: dict[str, object] | None = None,
    *,
    data: object | None = None,
    sink: Any = ignore,
) -> Session:
    """Open the first pass of a run of a small recipe on the CPU."""
    return open_session(make_prepared(model, values, data=data, sink=sink), sink=sink)


def run_pass(session: Session) -> list[BlockOutput]:
    """Quantize all blocks of a pass, and what lies outside them."""
    outputs: list[BlockOutput] = []
    quantize_pass(session, outputs.append)
    return outputs


def quantized(session: Session) -> dict[str, QuantizedTensor]:
    """Quantize all blocks of a pass; return the quantized layers by name."""
    return {
        name: layer
        for output in run_pass(session)
        for name, layer in output.layers.items()
        if isinstance(layer, QuantizedTensor)
    }


def same(one: dict[str, QuantizedTensor], other: dict[str, QuantizedTensor]) -> bool:
    """Tell whether two sets of layers are equal, bit for bit."""
    return one.keys() == other.keys() and all(
        torch.equal(one[n].codes, other[n].codes)
        and torch.equal(one[n].scale, other[n].scale)
        and torch.equal(one[n].zero, other[n].zero)
        for n in one
    )


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a folder of safetensors files."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            found.update({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
    return found


def content(folder: Path) -> dict[str, bytes]:
    """Read all files of an output; times and peaks of memory are left out of the reports."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.name in MEASURED_FILES:
            continue
        data = path.read_bytes()
        if path.name == "report.jsonl":
            rows = [json.loads(line) for line in data.splitlines()]
            data = json.dumps(
                [{k: v for k, v in row.items() if k not in MEASURED} for row in rows]
            ).encode()
        found[str(path.relative_to(folder))] = data
    return found


def names_of(events: list[Event]) -> list[str]:
    """Return the classes of events, runs of equal ones as one."""
    names = [type(event).__name__ for event in events]
    return [n for i, n in enumerate(names) if i == 0 or n != names[i - 1]]


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    """Run a model without a cache."""
    found: Tensor = model(input_ids=ids, use_cache=False).logits
    return found


@contextmanager
def one_core() -> Iterator[None]:
    """Let the processor be the one of ``even_device``, for what is made once for many tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autoround_backends.cpu.read_processor", _one_core)
        yield


def _one_core() -> Processor:
    return Processor(1, bfloat16=False)


@pytest.fixture(autouse=True)
def even_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute in one thread and in float32, and take speeds as given, on every machine."""

    def speed(device: object, dtype: torch.dtype, **others: object) -> Speed:
        return Speed(dtype, 1e10 if dtype == torch.float32 else 1e9)

    monkeypatch.setattr("autoround.device.runtime.measure_matmul", speed)
    monkeypatch.setattr("autoround_backends.cpu.read_processor", _one_core)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def skeleton_on_meta(model: Any) -> Skeleton:
    """Describe a model that has no weights: enough for a plan, and nothing can be read."""
    source = ModuleSource(model)
    return Skeleton(
        model=model,
        config=model.config,
        source=source,
        blocks=tuple(decoder_blocks(model)),
        keys=match_names(model, source)[0],
        unmapped=(),
        tied=tied_names(model),
        folder=None,
        names=SavedNames(model),
    )
