"""Quantize with HQQ, in the Python that has it, and write the dequantized weights.

Its zero points are fractions, which no format that is read here can hold: so the weights are
rounded to float16 after dequantizing, and the bits are counted from its own packed tensors.
"""

from __future__ import annotations

import time
from typing import Any

import worker


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Quantize every linear layer of the bench's blocks; no calibration data is used."""
    import hqq  # type: ignore[import-not-found, unused-ignore]
    import torch
    from hqq.core.quantize import Quantizer  # type: ignore[import-not-found, unused-ignore]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    options = {"nbits": job["bits"], "group_size": job["group_size"], "axis": 1, **job["set"]}
    blocks = model.get_submodule(job["prefix"])[: job["blocks"]]
    layers = [m for m in blocks.modules() if isinstance(m, torch.nn.Linear)]
    held = {"codes": 0, "scales": 0, "zeros": 0}
    seconds = 0.0
    for layer in layers:
        started = time.perf_counter()
        codes, meta = Quantizer.quantize(
            layer.weight.data, device=job["device"], compute_dtype=torch.float32, **options
        )
        seconds += time.perf_counter() - started
        held["codes"] += codes.numel() * codes.element_size()
        held["scales"] += 2 * meta["scale"].numel()  # served as float16
        held["zeros"] += 2 * meta["zero"].numel()
        layer.weight.data = Quantizer.dequantize(codes, meta).view_as(layer.weight)
    model.to(torch.float16).save_pretrained(job["out"])
    AutoTokenizer.from_pretrained(job["model"]).save_pretrained(job["out"])
    weights = sum(layer.weight.numel() for layer in layers)
    everything = sum(p.numel() for p in model.parameters())
    own = 8 * sum(held.values())
    return {
        "tuning_s": round(seconds, 2),
        "quantize_s": round(seconds, 2),
        "dtype": "float32",
        "version": hqq.__version__,
        "scheme": {"bits": options["nbits"], "group_size": options["group_size"], "sym": False},
        "effort": {},
        "note": "scored from dequantized float16 weights",
        "bits": {
            "bpw": round(own / weights, 4),
            **{f"{key}_bpw": round(8 * size / weights, 4) for key, size in held.items()},
            "kept_share": round(1 - weights / everything, 4),
            "model_bpw": round((own + 16 * (everything - weights)) / everything, 4),
        },
    }


if __name__ == "__main__":
    worker.run(work)
