"""The whole of tuning on every accelerator that is here, beside the CPU.

Where there is none, one run goes to the CPU in its place, so that these tests themselves are tried.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from autoround.device.registry import backends, open_device
from autoround.session.session import Placement, Session
from autoround.types import QuantizedTensor

from ..runs import make_session, quantized
from ..tiny import make_model, token_ids

HERE = [
    found.name
    for found in backends()
    if found.availability.available and found.name not in ("cpu", "null")
]

WHOLE = token_ids(4, 16)
PADDED = [ids[: 16 - 3 * n] for n, ids in enumerate(WHOLE)]
#: Kind of model, settings, samples, whether streams stay on the device.
RUNS: dict[str, tuple[str, dict[str, object], Any, bool]] = {
    "plain": ("llama", {}, WHOLE, False),
    "streams on the device": ("llama", {}, WHOLE, True),
    "low memory": ("llama", {"tuning.low_memory": True}, WHOLE, False),
    "padded": ("llama", {"tuning.gradient_accumulate_steps": 2}, PADDED, True),
    "head": ("llama", {"lm_head.bits": 8, "lm_head.group_size": 32}, WHOLE, False),
    "distilled": ("llama", {"end_to_end.steps": 2, "end_to_end.batch_size": 2}, WHOLE, True),
    "codes distilled": (
        "llama",
        {"end_to_end.steps": 2, "end_to_end.batch_size": 2, "end_to_end.tune_codes": True},
        WHOLE,
        True,
    ),
    "experts": ("mixtral", {}, WHOLE, False),
    "compensated": ("llama", {"tuning.init_rounding": "gptq"}, PADDED, False),
    "two bits, searched": (
        "llama",
        {"scheme.bits": 2, "tuning.init_scale": "search"},
        WHOLE,
        False,
    ),
    "asymmetric": ("llama", {"scheme.sym": False}, WHOLE, True),
    "exact inputs": ("llama", {"tuning.quantized_inputs": False}, WHOLE, True),
}


def both(name: str, backend: str) -> tuple[dict[str, QuantizedTensor], dict[str, QuantizedTensor]]:
    """Quantize on the CPU and on a device from the same job."""
    kind, values, data, resident = RUNS[name]
    job: Session = make_session(make_model(kind), values, data=data)
    plain = quantized(job)
    placement = Placement(streams_on_device=resident)
    return plain, quantized(replace(job, runtime=open_device(backend), placement=placement))


@pytest.mark.parametrize("backend", HERE or ["cpu"])
@pytest.mark.parametrize("name", RUNS if HERE else ["streams on the device"])
def test_codes_are_those_of_the_cpu(name: str, backend: str) -> None:
    plain, ours = both(name, backend)
    assert set(ours) == set(plain)
    shares = {n: float((ours[n].codes.cpu() == plain[n].codes).double().mean()) for n in plain}
    # Sums come in another order: a scale may differ in its last bit, and a sign of a gradient.
    assert min(shares.values()) >= 0.98, shares
    assert sum(shares.values()) / len(shares) >= 0.995, shares
    for part in (p for x in ours.values() for p in (x.codes, x.scale, x.zero)):
        assert part.device.type == "cpu"
        assert bool(part.isfinite().all())
    close = [torch.isclose(ours[n].scale.float(), plain[n].scale.float(), rtol=0.01) for n in plain]
    assert min(float(same.double().mean()) for same in close) >= 0.95
