"""Allocate bits with auto-round's AutoScheme and quantize by them, in the Python that has it."""

from __future__ import annotations

import os
import time
from typing import Any

import worker


def watched(quantizer: Any) -> dict[str, Any]:
    """Return what will be known once the quantizer has scored layers and chosen."""
    found: dict[str, Any] = {}
    build = quantizer._build_layer_config

    def timed_build() -> None:
        begun, used = time.perf_counter(), time.process_time()
        build()  # where it scores layers and chooses
        found["scoring_cpu_s"] = round(time.process_time() - used, 2)
        found["scoring_s"] = round(time.perf_counter() - begun, 2)
        found["scoring_peak_gb"] = round(worker.peak_bytes() / 1e9, 3)
        found["layer_config"] = {
            name: {key: own.get(key) for key in ("bits", "group_size", "sym")}
            for name, own in quantizer.layer_config.items()
        }

    quantizer._build_layer_config = timed_build
    return found


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Find a scheme for each layer, quantize, and write in its own format.

    job: budget (bits a weight), options (bits of each), text (.jsonl of the samples,
    which it wants as text), calibration (the same as token ids), iters, out.
    """
    # Its own place for scores: what an earlier bench left would make scoring look free.
    os.environ["AR_AUTO_SCHEME_CACHE"] = job["cache"]
    import auto_round  # type: ignore[import-not-found, unused-ignore]
    import numpy as np
    import torch
    from auto_round.schemes import (  # type: ignore[import-not-found, unused-ignore]
        QuantizationScheme,
    )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype="auto")
    ids = torch.from_numpy(np.load(job["calibration"]))
    size = job["group_size"]
    options = [QuantizationScheme(bits=b, group_size=size, sym=job["sym"]) for b in job["options"]]
    scheme = auto_round.AutoScheme(
        avg_bits=job["budget"],
        options=options,
        dataset=job["text"],
        nsamples=len(ids),
        seqlen=ids.shape[1],
    )
    quantizer = auto_round.AutoRound(
        model,
        tokenizer,
        scheme=scheme,
        iters=job["iters"],
        dataset=job["text"],
        nsamples=len(ids),
        seqlen=ids.shape[1],
        batch_size=job["batch_size"],
        seed=job["seed"],
        amp=False,
        device_map=job["device"],
        enable_torch_compile=False,
        **({"disable_opt_rtn": False} if not job["iters"] else {}),
    )
    found = watched(quantizer)
    started = time.perf_counter()
    quantizer.quantize_and_save(job["out"], format="auto_round")
    return {
        **found,
        "seconds": round(time.perf_counter() - started, 2),
        "dtype": "float32",
        "iters": job["iters"],
        "version": auto_round.__version__,
    }


if __name__ == "__main__":
    worker.run(work)
