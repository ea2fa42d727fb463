"""Quantize with auto-round, in the Python that has it, by the settings it documents."""

from __future__ import annotations

import time
from typing import Any

import worker

#: Steps and rate of its command's recipes; None is the rate it works out. Samples are the bench's.
RECIPES: dict[str, dict[str, Any]] = {
    "default": {"iters": 200, "lr": None},
    "best": {"iters": 1000, "lr": None},
    "light": {"iters": 50, "lr": 5e-3},
    "rtn": {"iters": 0, "lr": None, "disable_opt_rtn": True},
    "opt_rtn": {"iters": 0, "lr": None, "disable_opt_rtn": False},
}


def settings(variant: str) -> dict[str, Any]:
    """Return the arguments of a variant: a recipe, ``ext``, or a recipe with ``-ext``."""
    if variant == "ext":
        variant = "default-ext"
    base = variant.removesuffix("-ext")
    extended = {"enable_alg_ext": True} if variant.endswith("-ext") else {}
    return {**RECIPES[base], **extended}


def device_peak() -> int:
    """Return the most memory held at once: of the accelerator where there is one."""
    import torch

    if torch.accelerator.is_available():
        return int(torch.accelerator.max_memory_allocated())
    return worker.peak_bytes()


def options_of(job: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that a job stands for, samples and blocks left out."""
    return {
        "bits": job["bits"],
        "group_size": job["group_size"],
        "sym": not job["asym"],
        "nsamples": job["nsamples"],
        "seqlen": job["seqlen"],
        "batch_size": job["batch_size"],
        "seed": job["seed"],
        "amp": job["dtype"] == "bfloat16",
        "device_map": job["device"],
        # Its own default compiles where it can; without the key it does as it is installed.
        **({} if job.get("own_compile") else {"enable_torch_compile": False}),
        **settings(job["variant"]),
        **job["set"],
    }


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Quantize the blocks of the bench and write them in its own format."""
    import auto_round  # type: ignore[import-not-found, unused-ignore]
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    began = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype="auto")
    ids = torch.from_numpy(np.load(job["calibration"]))
    options = options_of(job)
    if job["blocks"] < job["all_blocks"]:
        names = [f"{job['prefix']}.{number}" for number in range(job["all_blocks"])]
        # The first says where to spend time (a list: texts are taken for patterns, and block 1
        # would match block 10); layers outside would be packed all the same without the second.
        options["to_quant_block_names"] = [names[: job["blocks"]]]
        options["ignore_layers"] = ",".join(name + "." for name in names[job["blocks"] :])
    options["dataset"] = [row[None] for row in ids]
    quantizer = auto_round.AutoRound(model, tokenizer, **options)
    saving: list[float] = []
    save = quantizer.save_quantized

    def timed_save(*given: Any, **named: Any) -> Any:
        saving.append(time.perf_counter())
        if "to_quant_block_names" in options:  # its own spelling of the list, for the config
            quantizer.to_quant_block_names = ",".join(options["to_quant_block_names"][0])
        return save(*given, **named)

    # Layers are packed and saved as they are done; what is left for the end is no tuning.
    quantizer.save_quantized = timed_save
    started = time.perf_counter()
    quantizer.quantize_and_save(job["out"], format="auto_round")
    quantize_s = time.perf_counter() - started
    return {
        "tuning_s": round(saving[0] - started, 2),
        "quantize_s": round(quantize_s, 2),
        "whole_s": round(time.perf_counter() - began, 2),
        "device_peak_gb": round(device_peak() / 1e9, 3),
        "device_peak_reserved_gb": round(worker.reserved_bytes() / 1e9, 3),
        "dtype": "bfloat16" if options["amp"] else "float32",
        "version": auto_round.__version__,
        "scheme": {key: options[key] for key in ("bits", "group_size", "sym")},
        "lr": getattr(quantizer, "lr", None),
        "effort": {
            "steps": options["iters"],
            "batch": options["batch_size"] * options.get("gradient_accumulate_steps", 1),
            "passes": 2 if options["iters"] or not options.get("disable_opt_rtn") else 0,
        },
    }


if __name__ == "__main__":
    worker.run(work)
