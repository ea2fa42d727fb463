"""Quantize with GPTQ as GPTQModel does it, in the Python that has it."""

from __future__ import annotations

import os
import time
from typing import Any

import worker


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Quantize the blocks of the bench and write them in GPTQ's second format."""
    # Its pool asks for 2 workers and gives a machine with 2 cores 1.
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    import gptqmodel
    import numpy as np
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    options: dict[str, Any] = {
        "bits": job["bits"],
        "group_size": job["group_size"],
        "sym": not job["asym"],
        "desc_act": False,
        "format": "gptq_v2",
        **job["set"],
    }
    rest = range(job["blocks"], job["all_blocks"])
    if rest:
        numbers = "|".join(map(str, rest))
        options["dynamic"] = {rf"-:.*\.({numbers})\..*": {}}  # a minus leaves modules alone
    config = QuantizeConfig(**options)
    rows = [
        {"input_ids": row.tolist(), "attention_mask": [1] * len(row)}
        for row in np.load(job["calibration"])
    ]
    model = GPTQModel.load(job["model"], config, device=job["device"])
    started = time.perf_counter()
    model.quantize(rows, batch_size=job["batch_size"], backend=BACKEND.TORCH)
    tuned = time.perf_counter()
    model.save(job["out"])
    return {
        "tuning_s": round(tuned - started, 2),
        "quantize_s": round(time.perf_counter() - started, 2),
        "dtype": "its own",
        "version": getattr(gptqmodel, "__version__", ""),
        "scheme": {key: options[key] for key in ("bits", "group_size", "sym")},
        "effort": {"passes": 2, "hessian": True},
    }


if __name__ == "__main__":
    worker.run(work)
