"""One run from recipe to output folder: the place to start reading."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from autoround._version import __version__
from autoround.core.metrics import weight_bits
from autoround.device.protocol import Runtime
from autoround.events import Finished, Planned, Sink, StageStarted, Warned
from autoround.formats import auto_round
from autoround.model.locate import read_config
from autoround.model.skeleton import Skeleton
from autoround.recipe.schema import Recipe
from autoround.stages.calibrate import calibration_tokens
from autoround.stages.estimate import disk_bytes, make_estimate
from autoround.stages.plan import DTYPES, make_plan
from autoround.stages.tune import BlockOutput, Job, quantize_blocks
from autoround.stages.write import Writer, check_output, check_room
from autoround.types import BlockResult, Plan, QuantizedTensor, RunResult


@dataclass(frozen=True)
class Request:
    """What the user asked for, with every name resolved to a thing.

    model_name: what the user calls the model. data: calibration data given from Python.
    """

    skeleton: Skeleton
    recipe: Recipe
    runtime: Runtime
    model_name: str
    tokenizer: Any = None
    data: object | None = None


def prepare(request: Request, *, sink: Sink) -> Job:
    """Check everything that can be checked before the first block, and plan."""
    tokens, what = calibration_tokens(
        request.recipe, request.skeleton, tokenizer=request.tokenizer, data=request.data
    )
    plan = make_plan(
        request.recipe,
        request.skeleton,
        runtime=request.runtime,
        calibration=what,
        model=request.model_name,
    )
    estimate = make_estimate(plan, request.skeleton, recipe=request.recipe, runtime=request.runtime)
    sink(Planned(plan, estimate))
    free = request.runtime.memory().free
    if 0 < free < estimate.memory_bytes:
        sink(
            Warned(
                f"about {estimate.memory_bytes / 1e9:.1f} GB of memory will be needed, and "
                f"{free / 1e9:.1f} GB are free: lower calibration.nsamples or seqlen, or "
                "tuning.batch_size"
            )
        )
    return Job(plan, request.recipe, request.skeleton, request.runtime, tokens, sink)


def run(request: Request, output: Path, *, sink: Sink) -> RunResult:
    """Quantize a model and write it.

    Raises:
        AutoRoundError: before any work where that is possible; the output folder then
            does not exist, nor does a part of it.
    """
    check_output(output)
    job = prepare(request, sink=sink)
    check_room(output, disk_bytes(job.plan, job.skeleton))
    sink(StageStarted("tune", f"{len(job.plan.blocks)} blocks on {job.plan.device}"))
    return write_blocks(job, quantize_blocks(job), output, tokenizer=request.tokenizer)


def write_blocks(
    job: Job, outputs: Iterable[BlockOutput], output: Path, *, tokenizer: Any
) -> RunResult:
    """Write blocks as they come, then everything around them, and finish the folder."""
    started = time.perf_counter()
    plan, skeleton = job.plan, job.skeleton
    results: list[BlockResult] = []
    with Writer(output, max_shard_bytes=job.recipe.output.max_shard_bytes) as writer:
        for block in outputs:
            writer.add(format_layers(block.layers, plan.packing))
            writer.add(block.kept)
            results.append(block.result)
        tuned = time.perf_counter()
        job.sink(StageStarted("write", str(output)))
        for name in skeleton.names_outside_blocks():
            writer.add(as_written(plan, skeleton.read([name])))
        for name in skeleton.extras:
            writer.add(skeleton.source.read([name]))
        _write_side_files(writer, job, results, tokenizer)
        size = writer.finish(output_config(plan, skeleton))
    seconds = time.perf_counter() - started
    job.sink(Finished(str(output), seconds, size))
    layers = [x for block in plan.blocks for x in block.quantized]
    bits = sum(weight_bits(x.shape, x.scheme) for x in layers if x.scheme is not None)
    return RunResult(
        output_dir=output,
        plan=plan,
        blocks=tuple(results),
        seconds=seconds,
        tuning_seconds=tuned - started,
        peak_bytes=job.runtime.peak_bytes(),
        disk_bytes=size,
        bits_per_weight=bits / sum(x.shape[0] * x.shape[1] for x in layers),
    )


def format_layers(layers: Mapping[str, QuantizedTensor], packing: str) -> dict[str, Tensor]:
    """Lay quantized layers out as named tensors of the output format."""
    return {
        f"{name}.{part}": tensor
        for name, layer in layers.items()
        for part, tensor in auto_round.to_tensors(layer, packing).items()
    }


def as_written(plan: Plan, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give kept tensors the dtype of the output."""
    dtype = DTYPES[plan.dtype]
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}


def output_config(plan: Plan, skeleton: Skeleton) -> dict[str, Any]:
    """Return the config of the result: the original's, and what was quantized how."""
    if skeleton.folder is not None:
        config = read_config(skeleton.folder)
    else:
        config = skeleton.config.to_dict()
    config.setdefault("architectures", None)
    if not config["architectures"]:
        config["architectures"] = [plan.architecture]
    config.pop("torch_dtype", None)
    config["dtype"] = plan.dtype
    config["quantization_config"] = auto_round.config(plan)
    return config


def _write_side_files(writer: Writer, job: Job, results: list[BlockResult], tokenizer: Any) -> None:
    if job.skeleton.folder is not None:
        writer.copy_side_files(job.skeleton.folder)
    else:
        generation = getattr(job.skeleton.model, "generation_config", None)
        if generation is not None:
            generation.save_pretrained(writer.staging)
        if tokenizer is not None:
            tokenizer.save_pretrained(writer.staging)
    writer.add_text("recipe.yaml", job.recipe.to_yaml())
    plan = {"version": __version__, **dataclasses.asdict(job.plan)}
    writer.add_text("plan.json", to_json(plan, indent=1) + "\n")
    lines = [to_json(dataclasses.asdict(result)) for result in results]
    writer.add_text("report.jsonl", "".join(line + "\n" for line in lines))


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Write dicts, lists and scalars as JSON, which has no NaN or infinity: they become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
