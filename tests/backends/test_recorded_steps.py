"""Whole tuning steps, recorded on a device that is none: they end where the host's do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ..toy_device import WHY_NOT

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
sys.path[:0] = sys.argv[1:]
from tests import toy_device
held = toy_device.register()
import torch
from counting import Counter
from toy_runtime import ToyRuntime
from autoround.core.ops import TorchOps
from autoround.core.reconstruction import DeviceHooks
from autoround.core.tune import tune
from tests.unit.core._toy import hyperparameters, problem
counter = Counter("toy")
runtime = ToyRuntime(counter, torch.device("toy", 0), memory_bytes=1 << 30)
there = lambda tensor: None if tensor is None else tensor.to("toy")
found = []
for masked in (False, True):
    for resident in (False, True):
        for seed in (0, 1):
            given = problem(3, sym=True, masked=masked, seed=seed)
            times = hyperparameters(8, seed=seed)
            wanted = tune(given, times, ops=TorchOps(), dtype=torch.float32)
            targets = {
                name: t._replace(groups=there(t.groups), grid=t.grid._replace(
                    lo=there(t.grid.lo), hi=there(t.grid.hi)))
                for name, t in given.targets.items()
            }
            samples = given.samples
            if resident:  # but for the mask, as in a run
                samples = samples._replace(inputs=there(samples.inputs),
                                           targets=there(samples.targets))
            hooks = DeviceHooks(runtime.upload, runtime.capture, runtime.download)
            block = given._replace(targets=targets, samples=samples, hooks=hooks, capturable=True)
            losses = []
            with counter.counting():
                before = counter.mode.here.syncs
                tuned = tune(block, times, ops=runtime.ops, dtype=torch.float32,
                             on_step=lambda step, loss: losses.append(loss))
                waits = counter.mode.here.syncs - before
                graphs = counter.mode.here.in_graphs
            apart = max(float((a.to("cpu") - b).abs().max())
                        for n in wanted.roundings
                        for a, b in zip(tuned.roundings[n], wanted.roundings[n]))
            found.append([apart, tuned.best_step == wanted.best_step > 0, waits, graphs % 9,
                          graphs > 0, len(losses), abs(tuned.loss_after / wanted.loss_after - 1)])
print(json.dumps([found, runtime.refusals]))
"""


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_recorded_steps_end_where_those_of_the_host_do() -> None:
    """Two blocks, one after the other, with samples on the device or the host's, with a mask."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT / "tools" / "bench"), str(ROOT)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found, refusals = json.loads(done.stdout.splitlines()[-1])
    assert refusals == []
    assert len(found) == 8
    for apart, same_step, waits, left, recorded, told, loss in found:
        assert apart < 1e-6
        assert same_step
        assert recorded
        assert left == 0, "what a recording holds is played once a step and once when it is made"
        assert waits <= 3, "a block waits, a step does not"
        assert told == 8
        assert loss < 1e-5
