"""Whole tuning steps, recorded on a device that is none: they end where the host's do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..scripts import run_script
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
from autoround.core.reconstruction import BlockKind, DeviceHooks
from autoround.core.step_recordings import StepRecordings
from autoround.core.tune import tune
from tests.unit.core._toy import hyperparameters, problem
counter = Counter("toy")
there = lambda tensor: None if tensor is None else tensor.to("toy")
class Runtime(ToyRuntime):
    captures = 0
    def capture(self, step, examples):
        self.captures += 1
        return super().capture(step, examples)

runtime = Runtime(counter, torch.device("toy", 0), memory_bytes=1 << 30)
found = []
for masked in (False, True):
    for resident in (False, True):
        recordings, runtime.captures = StepRecordings(), 0
        streams = None
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
                inputs, outputs = there(samples.inputs), there(samples.targets)
                if streams is None:
                    streams = inputs, outputs
                else:  # a stream stays where it is, from block to block
                    streams[0].copy_(inputs)
                    streams[1].copy_(outputs)
                samples = samples._replace(inputs=streams[0], targets=streams[1])
            hooks = DeviceHooks(runtime.upload, runtime.capture, runtime.download)
            block = given._replace(targets=targets, samples=samples, hooks=hooks,
                                   capturable=True, kind=BlockKind("a", {}, {}))
            losses = []
            with counter.counting():
                before = counter.mode.here.syncs
                tuned = tune(block, times, ops=runtime.ops, dtype=torch.float32,
                             recordings=recordings, on_step=lambda step, loss: losses.append(loss))
                waits = counter.mode.here.syncs - before
                graphs = counter.mode.here.in_graphs
                best = tuned.best_step  # its numbers come last, and are waited for
            apart = max(float((a.to("cpu") - b).abs().max())
                        for n in wanted.roundings
                        for a, b in zip(tuned.roundings[n], wanted.roundings[n]))
            found.append([apart, best == wanted.best_step > 0, waits, graphs % 9,
                          graphs > 0 and runtime.captures == 1, len(losses),
                          abs(tuned.loss_after / wanted.loss_after - 1)])
print(json.dumps([found, runtime.refusals]))
"""


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_recorded_steps_end_where_those_of_the_host_do() -> None:
    """Two blocks, one after the other, with samples on the device or the host's, with a mask."""
    found, refusals = run_script(
        *("-c", SCRIPT, str(ROOT / "tools" / "bench"), str(ROOT)), timeout=300
    )
    assert refusals == []
    assert len(found) == 8
    for apart, same_step, waits, left, recorded, told, loss in found:
        assert apart < 1e-6
        assert same_step
        assert recorded, "once for both blocks"
        assert left == 0, "what a recording holds is played once a step and once when it is made"
        assert waits <= 3, "a block waits, a step does not"
        assert told == 8
        assert loss < 1e-5


#: Widths of tiny models, all of whose matrices can be packed.
TEXT = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}
ROUTED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
MIXED = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
STATES = {"num_heads": 32, "head_dim": 4, "state_size": 16, "n_groups": 1, "chunk_size": 8}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
GRANITE = {"layer_types": ["mamba", "attention"], "num_local_experts": 4, "num_experts_per_tok": 2}
#: Models beside those of the zoo: class, config, how experts are computed (None: the default).
BESIDE: dict[str, tuple[str, dict[str, object], str | None]] = {
    "qwen3_next, both kinds": (
        "qwen3_next",
        {**TEXT, **ROUTED, **LINEAR, "shared_expert_intermediate_size": 32},
        None,
    ),
    "mamba2": ("mamba2", {**TEXT, **STATES}, None),
    "bamba": ("bamba", {**TEXT, **MIXED, "attn_layer_indices": [1]}, None),
    "falcon_h1": ("falcon_h1", {**TEXT, **MIXED, "mamba_d_ssm": 128, "head_dim": 16}, None),
    "granitemoehybrid": (
        "granitemoehybrid",
        {**TEXT, **MIXED, **GRANITE, "shared_intermediate_size": 64},
        None,
    ),
    "experts in batches": ("qwen3_moe", {**TEXT, **ROUTED}, "batched_mm"),
    "experts one by one": ("qwen3_moe", {**TEXT, **ROUTED}, "eager"),
}
ZOO = ("mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3", "qwen3_next", "lfm2")
FAMILIES = """
import json, sys, tempfile
bench, root, zoo, beside = sys.argv[1:]
sys.path[:0] = [bench, root]
from pathlib import Path
from tests import toy_device
held = toy_device.register()
import torch
from counting import Counter
from toy_runtime import ToyRuntime
from transformers import AutoConfig, AutoModelForCausalLM
from autoround.model.skeleton import adopt_model
from autoround.pipeline import run
from autoround.preparation import Request
from autoround.recipe.load import load_recipe
from autoround.types import Destination
from tests.zoo import make_model

class Runtime(ToyRuntime):
    def capture(self, step, examples):
        captured = super().capture(step, examples)
        recorded.append(captured is not step)
        return captured

def made(kind, options, experts):
    config = AutoConfig.for_model(kind, **options)
    chosen = {} if experts is None else {"experts_implementation": experts}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, **chosen).eval()

models = {name: (lambda name=name: make_model(name)) for name in json.loads(zoo)}
models |= {name: (lambda how=how: made(*how)) for name, how in json.loads(beside).items()}
ids = torch.randint(4, 90, (8, 16), generator=torch.Generator().manual_seed(0))
recipe = load_recipe("default", overrides=[
    "scheme.group_size=16", "tuning.iters=2", "tuning.batch_size=4", "tuning.num_validations=1",
    "tuning.validation_samples=4", "calibration.nsamples=8", "calibration.seqlen=16"])
found = {}
for name, make in models.items():
    recorded, counter = [], Counter("toy")
    runtime = Runtime(counter, torch.device("toy", 0), memory_bytes=1 << 34)
    request = Request(adopt_model(make()), recipe, runtime, "random", None, ids)
    with tempfile.TemporaryDirectory() as folder, counter.counting():
        run(request, Destination(Path(folder) / "out"), sink=lambda event: None)
    found[name] = [recorded, runtime.refusals]
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_which_blocks_are_recorded() -> None:
    """The table of docs/backends.md, as far as a device can tell that is none."""
    arguments = [str(ROOT / "tools" / "bench"), str(ROOT), json.dumps(ZOO), json.dumps(BESIDE)]
    found = run_script(*("-c", FAMILIES, *arguments), timeout=600, OMP_NUM_THREADS="1")
    assert set(found) == {*ZOO, *BESIDE}
    recorded, refusals = found.pop("experts one by one")
    assert recorded == [False, False]
    assert {reason.split(":")[0] for reason in refusals} == {"aten.nonzero.default"}
    # Two blocks: once where they are of a kind, which those are not that take turns.
    turns = {"qwen3_next, both kinds", "bamba", "granitemoehybrid"}
    two = {*turns, "qwen3_next", "gpt_oss", "deepseek_v3", "lfm2"}
    assert found == {name: [[True] * (1 + (name in two)), []] for name in found}


BYTES = """
import json, sys, tempfile
bench, root = sys.argv[1:]
sys.path[:0] = [bench, root]
from pathlib import Path
from tests import toy_device
held = toy_device.register()
import torch
from counting import Counter
from safetensors.torch import load_file
from toy_runtime import ToyRuntime
from transformers import AutoConfig, AutoModelForCausalLM
from autoround.core.step_recordings import StepRecordings
from autoround.model.skeleton import adopt_model
from autoround.pipeline import run
from autoround.preparation import Request
from autoround.recipe.load import load_recipe
from autoround.types import Destination

class Runtime(ToyRuntime):
    captures = 0
    def capture(self, step, examples):
        self.captures += 1
        return super().capture(step, examples)
    def peak_bytes(self):
        return peak

def made(kind):
    torch.manual_seed(0)
    options = {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 3,
               "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64,
               "max_position_embeddings": 64}
    options |= {"num_local_experts": 4} if kind == "mixtral" else {}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms are ones, which would hide a mix-up
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model

ids = torch.randint(4, 90, (8, 16), generator=torch.Generator().manual_seed(0))
recipe = load_recipe("default", overrides=[
    "scheme.group_size=16", "tuning.iters=8", "tuning.batch_size=4", "tuning.num_validations=2",
    "tuning.validation_samples=8", "calibration.nsamples=8", "calibration.seqlen=16"])
found = {}
for kind in ("llama", "mixtral"):
    written, captures = [], []
    for peak in (0, 1 << 34):  # where there is room for a recording beside all else, and where not
        counter = Counter("toy")
        runtime = Runtime(counter, torch.device("toy", 0), memory_bytes=1 << 34)
        request = Request(adopt_model(made(kind)), recipe, runtime, "random", None, ids)
        with tempfile.TemporaryDirectory() as folder, counter.counting():
            run(request, Destination(Path(folder) / "out"), sink=lambda event: None)
            tensors = {}
            for path in Path(folder).rglob("*.safetensors"):
                tensors |= load_file(path)
        written.append(tensors)
        captures.append(runtime.captures)
    once, each = written
    same = once.keys() == each.keys() and all(torch.equal(once[n], each[n]) for n in once)
    found[kind] = [captures, same, len(once)]
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_one_recording_writes_what_one_for_each_block_does() -> None:
    found = run_script(
        *("-c", BYTES, str(ROOT / "tools" / "bench"), str(ROOT)), timeout=600, OMP_NUM_THREADS="1"
    )
    for kind, (captures, same, tensors) in found.items():
        assert captures == [1, 3], kind
        assert same, kind
        assert tensors > 60, kind
