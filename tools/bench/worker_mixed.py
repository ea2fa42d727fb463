"""Allocate bits, or quantize by a recipe, with this package."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import worker


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Do one of: score and allocate, or quantize by a recipe file.

    job: recipe (file or name), set (overrides), calibration (token ids, .npy); out (folder), or
    export (file of the recipe by hand that a budget became).
    """
    import numpy as np
    import torch

    import autoround
    from autoround import api
    from autoround.recipe.load import load_recipe

    recipe = load_recipe(job["recipe"], overrides=job["set"])
    ids = torch.from_numpy(np.load(job["calibration"]))
    started, used = time.perf_counter(), time.process_time()
    if "export" in job:
        by_hand, found, scores = api.allocate(job["model"], recipe, data=ids, device=job["device"])
        seconds, cpu = time.perf_counter() - started, time.process_time() - used
        Path(job["export"]).write_text(by_hand.to_yaml(), "utf-8")
        return {
            "seconds": round(seconds, 2),
            "scoring_s": round(scores.seconds, 2),
            # Of all there is to it: the choosing, and reading scores where they were there.
            "scoring_cpu_s": round(cpu, 2),
            "scoring_peak_gb": round(scores.peak_bytes / 1e9, 3),
            "predicted_kl": found.loss,
            "planned_bits": round(found.bits, 4),
            "layers": found.counts,
        }
    result = autoround.quantize(
        job["model"], recipe, output_dir=job["out"], data=ids, device=job["device"]
    )
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "dtype": result.plan.compute_dtype,
        "iters": recipe.tuning.iters,
        "version": autoround.__version__,
    }


if __name__ == "__main__":
    worker.run(work)
