"""A device_map may spread packed layers, and not offload them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autoround.errors import UsageError
from autoround.inference.placement import refuse_offloading

from ...toy_device import WHY_NOT

ROOT = Path(__file__).parents[3]
LAYERS = ("model.layers.0.q", "model.layers.10.q")
#: torch learns of a device for the whole of a process.
SCRIPT = """
import json, sys
from tests import toy_device
held = toy_device.register()
import torch, autoround
from transformers import AutoModelForCausalLM
from tests.runs import logits
from tests.tiny import token_ids
from autoround.inference.kernels import quant_layers

def from_pretrained(**options):
    config = autoround.AutoRoundConfig(backend="torch")
    return AutoModelForCausalLM.from_pretrained(
        sys.argv[1], dtype=torch.float32, quantization_config=config, **options
    )

first, second = "toy:0", "toy:1"
device_map = {"model.embed_tokens": first, "model.rotary_emb": first, "model.layers.0": first,
              "model.layers.1": second, "model.norm": second, "lm_head": second}
ids = token_ids(2, 12)
with torch.no_grad():
    expected = logits(from_pretrained(), ids)
    model = from_pretrained(device_map=device_map)
    difference = float((logits(model, ids).cpu() - expected).abs().max())
where = {name.split(".layers.")[1][0] + " " + str(l.device) for name, l in quant_layers(model)}
print(json.dumps([sorted(where), difference]))
"""


def test_layers_of_the_cpu_beside_an_accelerator_are_refused() -> None:
    for fine in (
        {"": "cpu"},
        {"": 0},
        {"model.embed_tokens": "cpu", "model.layers": 0, "lm_head": "cpu"},
        {"model.layers.0": 0, "model.layers.10": 1},
        {"model.layers.1": "cpu", "": "cuda:0"},  # 10 is no part of 1
    ):
        refuse_offloading(fine, LAYERS)
    with pytest.raises(UsageError, match=r"gives 1 packed layers to the CPU, model.layers.10.q"):
        refuse_offloading({"model": 0, "model.layers.10": "cpu"}, LAYERS)
    with pytest.raises(UsageError, match=r"gives 2 packed .* beside 0, 1: .*max_memory"):
        refuse_offloading({"": "cpu", "lm_head": 1, "model.norm": 0}, LAYERS)


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
@pytest.mark.parametrize("kind", ["llama", pytest.param("qwen3_moe", marks=pytest.mark.slow)])
def test_a_model_runs_over_two_devices(kind: str, quantized_family: Callable[[str], Path]) -> None:
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(quantized_family(kind))],
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    where, difference = json.loads(done.stdout.splitlines()[-1])
    assert where == ["0 toy:0", "1 toy:1"]
    assert difference < 1e-4
