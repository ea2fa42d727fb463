"""The whole of tuning on a device that is not the host: nothing is mixed, the codes are the host's.

The device is a toy that computes on the CPU and refuses tensors of two devices in one operation, as
accelerators do. What torch is told of it stays for the process, so it has one of its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ..scripts import import_paths, run_script
from ..toy_device import WHY_NOT

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
from tests import toy_device
held = toy_device.register()
from dataclasses import replace
import torch
from autoround.device.protocol import Availability, Memory, Speed
from autoround.device.runtime import TorchRuntime
from autoround.errors import DeviceError
from autoround.session.session import Placement
from autoround.planning.estimate import make_estimate
from autoround_backends.conformance import Subject, failures
from tests.runs import make_session, quantized
from tests.tiny import make_model, token_ids

class Runtime(TorchRuntime):
    uploads = captures = 0
    def speeds(self):
        return (Speed(torch.float32, 1e12),)
    def memory(self):
        return Memory(1 << 40, 1 << 40)
    def peak_bytes(self):
        return 1 << 40
    def upload(self, tensors):
        # Row numbers, masks and learning rates are small, and no samples.
        large = [name for name, t in tensors.items() if t.is_floating_point() and name != "rates"]
        Runtime.uploads += bool(large)
        return super().upload(tensors)
    def capture(self, step, examples):
        Runtime.captures += 1
        return super().capture(step, examples)

class Backend:
    name, rank = "toy", 1
    def probe(self):
        return Availability(True, "a toy", ("toy:0",))
    def open(self, index):
        if index:
            raise DeviceError(f"toy:{index} does not exist")
        return Runtime("toy", torch.device("toy", 0))

found = {"failures": []}
if "suite" in sys.argv:
    found["failures"] = failures(Subject(Backend(), Backend().open(0)))
padded = [ids[: 16 - 3 * n] for n, ids in enumerate(token_ids(4, 16))]
whole = token_ids(4, 16)
runs = {
    "llama": ("llama", {}, whole, False),
    "llama, streams on the device": ("llama", {}, whole, True),
    "llama, low memory": ("llama", {"tuning.low_memory": True}, whole, False),
    "llama, padded": ("llama", {"tuning.gradient_accumulate_steps": 2}, padded, True),
    "llama, head": ("llama", {"lm_head.bits": 8, "lm_head.group_size": 32}, whole, False),
    "llama, distilled": ("llama", {"end_to_end.steps": 2, "end_to_end.batch_size": 2}, whole, True),
    "experts": ("mixtral", {}, whole, False),
    "experts, padded": ("mixtral", {}, padded, False),
    "llama, compensated": ("llama", {"tuning.init_rounding": "gptq"}, padded, False),
}
for name, (kind, values, data, resident) in runs.items():
    if name not in sys.argv:
        continue
    Runtime.uploads = Runtime.captures = 0
    job = make_session(make_model(kind), values, data=data)
    plain = quantized(job)
    placement = Placement(streams_on_device=resident)
    ours = quantized(replace(job, runtime=Backend().open(0), placement=placement))
    codes = {n: ours[n].codes.to("cpu") for n in plain}
    shares = [float((codes[n] == plain[n].codes).double().mean()) for n in plain]
    where = {str(part.device) for x in ours.values() for part in (x.codes, x.scale, x.zero)}
    found[name] = [len(plain), min(shares), sorted(where), Runtime.uploads, Runtime.captures]
runtime = Backend().open(0)
estimates = [
    make_estimate(job.plan, job.skeleton, runtime=runtime)
    for job in (make_session(make_model("llama"), {"tuning.low_memory": low}, data=whole)
                for low in (False, True))
]
found["on the device"] = [estimate.streams_on_device for estimate in estimates]
print(json.dumps(found))
"""


QUICK = ("llama, padded", "llama, low memory")
SLOW = (
    *("suite", "llama", "llama, streams on the device", "llama, head", "llama, distilled"),
    "experts",
    "experts, padded",
    "llama, compensated",
)


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
@pytest.mark.parametrize("names", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)])
def test_tuning_on_a_device_of_its_own(names: tuple[str, ...]) -> None:
    found = run_script("-c", SCRIPT, *names, PYTHONPATH=import_paths())
    assert found.pop("failures") == []
    assert set(found) - {"on the device"} == set(names) - {"suite"}
    assert found.pop("on the device") == [True, False]
    for name, (layers, same, devices, uploads, captures) in found.items():
        assert layers >= 12, (
            name
        )  # two blocks of mixtral have six each, stacked experts counted once
        # The gradient sum behind min_scale or max_scale may come out otherwise in its last bit; a
        # scale then differs in its own, and a few codes of what comes after it (4 of 8,192 of the
        # head) by a level.
        # Compensation hands such bits on to all columns that follow (28 of 8,192, padded samples).
        assert same >= 0.99, name
        # They stay where they are packed; those of a whole model are more than a device holds.
        assert devices == (["cpu"] if "distilled" in name else ["toy:0"]), name
        # Batches in parts, and several of them a step, are not recorded.
        steady = 0 if name in QUICK else 2
        assert captures == steady, name
        if "low memory" in name:
            assert uploads == 0
        elif "streams" in name:
            assert uploads <= 1, "the second block's weights, where they were read in time"
        else:
            assert uploads > 0, name
