"""Quantize with this package."""

from __future__ import annotations

import time
from typing import Any

import worker


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Quantize by a recipe with the bench's scheme and samples; the row's overrides win."""
    import numpy as np
    import torch

    import autoround
    from autoround.planning.hyperparameters import learning_rate
    from autoround.recipe.load import load_recipe

    rest = "|".join(map(str, range(job["blocks"], job["all_blocks"])))
    recipe = load_recipe(
        job["variant"],
        overrides=[
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
        ],
    )
    ids = torch.from_numpy(np.load(job["calibration"]))
    started = time.perf_counter()
    result = autoround.quantize(
        job["model"], recipe, output_dir=job["out"], data=ids, device=job["device"]
    )
    tuning = recipe.tuning
    uses_text = tuning.iters > 0 or tuning.init_scale == "search"
    return {
        "tuning_s": round(result.tuning_seconds, 2),
        "quantize_s": round(time.perf_counter() - started, 2),
        "block_s": [round(block.seconds, 3) for block in result.blocks],
        "device_peak_gb": round(result.peak_bytes / 1e9, 3),
        "dtype": result.plan.compute_dtype,
        "version": autoround.__version__,
        "scheme": recipe.to_dict()["scheme"],
        "lr": learning_rate(recipe),
        "effort": {
            "steps": tuning.iters,
            "batch": tuning.batch_size * tuning.gradient_accumulate_steps,
            "passes": 2 if uses_text else 0,
            "checked": tuning.num_validations * tuning.validation_samples if tuning.iters else 0,
            "distill_steps": recipe.end_to_end.steps,
            "distill_batch": recipe.end_to_end.batch_size,
        },
    }


if __name__ == "__main__":
    worker.run(work)
