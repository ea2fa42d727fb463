"""Quantize with this package."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import worker


class Clock:
    """Notes when stages begin and blocks end; seconds since it was made.

    parts: a clock of the parts of a run, read after each block; None for none.
    """

    def __init__(self, parts: Any = None) -> None:
        self._began, self._parts = time.perf_counter(), parts
        self.tune, self.end = 0.0, 0.0
        self.blocks: list[float] = []
        self.compiled = self.streams_on_device = False
        self.parts: list[dict[str, float]] = []

    def __call__(self, event: Any) -> None:
        now, kind = time.perf_counter() - self._began, type(event).__name__
        if kind == "Planned":
            self.compiled = event.plan.compiled
            self.streams_on_device = event.estimate.streams_on_device
        elif kind == "StageStarted" and event.stage == "tune":
            self.tune = now
        elif kind == "BlockDone":
            self.blocks.append(now)
            if self._parts is not None:
                self.parts.append(self._parts.seconds_by_part())
        elif kind == "Finished":
            self.end = now

    def figures(self) -> dict[str, Any]:
        """Return the seconds of the start, of each block until it is kept, and of the end."""
        begins = [self.tune, *self.blocks]
        spans = [round(b - a, 3) for a, b in zip(begins, self.blocks, strict=False)]
        end = self.end - self.blocks[-1]
        return {"start": round(self.tune, 3), "blocks": spans, "end": round(end, 3)}


def as_the_whole(job: dict[str, Any], recipe: Any, data: Any) -> tuple[list[str], int]:
    """Return what a run of the whole model would decide otherwise, and the bytes it would write.

    job: its ``whole`` is how many blocks that has.
    """
    import autoround
    from autoround.device.registry import open_device
    from autoround.planning.estimate import layer_bytes
    from autoround.planning.hyperparameters import compiles_blocks

    plan, estimate = autoround.plan(job["model"], recipe, device=job["device"], data=data)
    times = -(-job["whole"] // len(plan.blocks))
    compiled = compiles_blocks(
        recipe,
        open_device(job["device"]),
        blocks=plan.blocks * times,
        compute_dtype=plan.compute_dtype,
    )
    packing = plan.outputs[0].packing
    block = sum(layer_bytes(layer, packing) for layer in plan.blocks[0].quantized)
    more = (job["whole"] - len(plan.blocks)) * block
    return [f"tuning.compile={'true' if compiled else 'false'}"], estimate.disk_bytes + more


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Quantize by a recipe with the bench's scheme and samples; the row's overrides win."""
    import numpy as np
    import torch

    import autoround
    from autoround.recipe.load import load_recipe

    rest = "|".join(map(str, range(job["blocks"], job["all_blocks"])))
    overrides = [
        f"scheme.bits={job['bits']}",
        f"scheme.group_size={job['group_size']}",
        f"scheme.sym={'false' if job['asym'] else 'true'}",
        f"tuning.batch_size={job['batch_size']}",
        f"tuning.compute_dtype={job['dtype']}",
        f"calibration.nsamples={job['nsamples']}",
        f"calibration.seqlen={job['seqlen']}",
        f"seed={job['seed']}",
        *([f"ignore=['re:{job['prefix']}\\.({rest})\\.']"] if rest else []),
        *job["set"],
    ]
    recipe = load_recipe(job["variant"], overrides=overrides)
    ids = torch.from_numpy(np.load(job["calibration"]))
    if job.get("fresh"):
        ids = torch.cat([ids, torch.from_numpy(np.load(job["fresh"]))])
    whole_bytes = 0
    if "whole" in job:
        decided, whole_bytes = as_the_whole(job, recipe, ids)
        recipe = load_recipe(job["variant"], overrides=[*overrides, *decided])
    with ExitStack() as stack:
        clock = Clock(part_clock(stack, job["device"]) if job.get("parts") else None)
        started = time.perf_counter()
        result = autoround.quantize(
            job["model"],
            recipe,
            output_dir=job["out"],
            data=ids,
            device=job["device"],
            sink=clock,
        )
        quantize_s = time.perf_counter() - started
    return {**clock_figures(clock, quantize_s, whole_bytes), **result_figures(result, recipe)}


def clock_figures(clock: Clock, quantize_s: float, whole_bytes: int) -> dict[str, Any]:
    """Return what the clock noted."""
    return {
        "quantize_s": round(quantize_s, 2),
        "clocks": clock.figures(),
        "parts": clock.parts,
        "compiled": clock.compiled,
        "streams_on_device": clock.streams_on_device,
        "whole_bytes": whole_bytes,
    }


def result_figures(result: Any, recipe: Any) -> dict[str, Any]:
    """Return what the run says of itself."""
    import autoround
    from autoround.planning.hyperparameters import settle_layer

    tuning = recipe.tuning
    uses_text = tuning.iters > 0 or tuning.init_scale == "search"
    return {
        "tuning_s": round(result.tuning_seconds, 2),
        "disk_bytes": result.disk_bytes,
        "block_s": [round(block.seconds, 3) for block in result.blocks],
        "device_peak_gb": round(result.peak_bytes / 1e9, 3),
        "device_peak_reserved_gb": round(worker.reserved_bytes() / 1e9, 3),
        "dtype": result.plan.compute_dtype,
        "version": autoround.__version__,
        "scheme": recipe.to_dict()["scheme"],
        "lr": settle_layer(recipe).lr,
        "effort": {
            "steps": tuning.iters,
            "batch": tuning.batch_size * tuning.gradient_accumulate_steps,
            "passes": 2 if uses_text else 0,
            "checked": tuning.num_validations * tuning.validation_samples if tuning.iters else 0,
            "distill_steps": recipe.end_to_end.steps,
            "distill_batch": recipe.end_to_end.batch_size,
            "fresh": result.plan.tuning.end_to_end.nsamples,
        },
    }


def part_clock(stack: ExitStack, device: str) -> Any:
    """Return a clock of the parts of a run, which watches as long as the stack is open."""
    from part_clock import PartClock
    from parts import watch

    from autoround.device.registry import open_device

    clock = PartClock(open_device(device).device)
    stack.enter_context(watch(clock))
    return clock


if __name__ == "__main__":
    worker.run(work)
