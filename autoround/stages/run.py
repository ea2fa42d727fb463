"""One run from recipe to output folder: the place to start reading."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoround._version import __version__
from autoround.core.metrics import weight_bits
from autoround.device.protocol import Runtime
from autoround.errors import FormatError, VerificationError
from autoround.events import Finished, Planned, Sink, StageStarted, Warned
from autoround.formats import layouts, registry
from autoround.model.locate import read_config
from autoround.model.skeleton import Skeleton
from autoround.recipe.schema import Recipe
from autoround.stages.calibrate import calibration_tokens
from autoround.stages.estimate import disk_bytes, make_estimate
from autoround.stages.plan import DTYPES, make_plan
from autoround.stages.tune import BlockOutput, Job, quantize_blocks
from autoround.stages.write import Staging, Writer, check_output, check_room
from autoround.types import BlockResult, OutputPlan, Plan, QuantizedTensor, RunResult


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
    with ExitStack() as stack:
        whole, writers = _open_writers(job, output, stack)
        for block in outputs:
            for part, writer in writers:
                writer.add(format_layers(block.layers, part.packing))
                writer.add(as_written(part, block.kept))
            results.append(block.result)
        tuned = time.perf_counter()
        job.sink(StageStarted("write", str(output)))
        for name in skeleton.names_outside_blocks():
            tensors = skeleton.read([name])
            for part, writer in writers:
                writer.add(as_written(part, tensors))
        for name in skeleton.extras:
            tensors = skeleton.source.read([name])
            for _, writer in writers:
                writer.add(tensors)
        size = 0
        for part, writer in writers:
            config = output_config(plan, part, skeleton)
            _write_side_files(writer, job, results, tokenizer)
            for file, content in registry.side_files(part, config["quantization_config"]).items():
                writer.add_text(file, json.dumps(content, indent=2) + "\n")
            size += writer.finish(config)
        if whole is not None:
            size = whole.publish()
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


def _open_writers(
    job: Job, output: Path, stack: ExitStack
) -> tuple[Staging | None, list[tuple[OutputPlan, Writer]]]:
    """Open a writer for each format; several share a folder that appears as a whole."""
    limit = job.recipe.output.max_shard_bytes
    whole = stack.enter_context(Staging(output)) if len(job.plan.outputs) > 1 else None
    root = output if whole is None else whole.staging
    return whole, [
        (part, stack.enter_context(Writer(root / part.folder, max_shard_bytes=limit)))
        for part in job.plan.outputs
    ]


def format_layers(layers: Mapping[str, QuantizedTensor], packing: str) -> dict[str, Tensor]:
    """Lay quantized layers out as named tensors of the output format, and read them back.

    Raises:
        VerificationError: a layer does not come back as it was.
    """
    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        parts = layouts.to_tensors(layer, packing)
        back = layouts.from_tensors(parts, layer.scheme, packing=packing, name=name)
        if not (
            torch.equal(back.codes, layer.codes)
            and bool((back.scale == layer.scale).all())
            and bool((back.zero == layer.zero).all())
        ):
            raise VerificationError(f"layer {name} does not come back from {packing} as it was")
        found |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    return found


def as_written(output: OutputPlan, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give kept tensors the dtype of an output.

    Raises:
        FormatError: a value is too large for it.
    """
    dtype = DTYPES[output.dtype]
    found = {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}
    if dtype == torch.float16:
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and bool((found[name].isinf() & ~tensor.isinf()).any()):
                raise FormatError(
                    f"tensor {name} holds values too large for float16, which format "
                    f"{output.format} is written in; set output.dtype=bfloat16"
                )
    return found


def output_config(plan: Plan, output: OutputPlan, skeleton: Skeleton) -> dict[str, Any]:
    """Return the config of the result: the original's, and what was quantized how."""
    if skeleton.folder is not None:
        config = read_config(skeleton.folder)
    else:
        config = skeleton.config.to_dict()
    config.setdefault("architectures", None)
    if not config["architectures"]:
        config["architectures"] = [plan.architecture]
    config.pop("torch_dtype", None)
    config["dtype"] = output.dtype
    config["quantization_config"] = registry.config(plan, output)
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
