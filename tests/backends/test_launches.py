"""What a block asks of an accelerator is counted by one table and bounded: counts only fall.

tools/bench/launches.py counts at an eighth of an 8B model's widths. Here widths are smaller: a
layer is searched in one piece or two at either, and all else goes by layers and steps. The aims
stand beside the ceilings; what is above them is not done yet.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from autoround.core.gptq import ColumnBlock
from autoround.core.grids.gguf_types import GGUF_TYPES
from autoround.core.grids.grid import min_max_grid, to_groups
from autoround.core.grids.levels import integer_levels
from autoround.core.grids.scales import HALF
from autoround.core.rounding import Rounding, initial_rounding
from autoround.core.signsgd import init

from ..scripts import run_script
from ..toy_device import WHY_NOT

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "tools" / "bench"
#: Steps that are counted.
STEPS = 4
SCRIPT = """
import json, sys
sys.path[:0] = [{bench!r}, {root!r}]
import launches
from tests import toy_device
held = toy_device.register()
launches.WIDTHS = {widths!r}
print(json.dumps(launches.count_block(mixture={mixture}, steps={steps}, before=0)))
"""
SMALL = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
#: Ceilings of counts by phase, and what they are to become (None: no aim of its own).
CEILINGS: dict[str, dict[str, tuple[float, float | None]]] = {
    "search": {"launches": (60, 200), "syncs": (0, 0)},
    # Whether the Hessians could be factored, read once for all of a block.
    "hessian": {"syncs": (1, None), "to_host_bytes": (4, None), "launches": (400, None)},
    # A recording compared with the step: the losses and the best iterate's numbers are read with
    # the errors of layers. No step waits; its loss is four bytes.
    "steps": {
        "launches": (560, None),
        "syncs": (1, None),
        "to_host_bytes": (4 * STEPS + 24, None),
    },
    "scores": {"syncs": (0, 0), "to_host_bytes": (0, 0)},
    "forward": {"syncs": (0, 0), "to_host_bytes": (0, 0)},
    # Of a block of seven layers two sums each, beside all other numbers of the block.
    "errors": {"launches": (60, None), "syncs": (1, None), "to_host_bytes": (64, None)},
    # The files are unpacked there, and what is wrong with them is a flag a layer, read at the end.
    # Shards are where they stay by then: of a block nothing is written any more.
    "check": {
        "launches": (300, None),
        "syncs": (0, 0),
        "to_host_bytes": (24, None),
        "disk_bytes": (1000, 0),
    },
    # What was packed of all layers, and the flags of what is wrong with them, in one copy.
    "pack": {"launches": (240, None), "syncs": (1, None)},
    "other": {"launches": (20, None), "syncs": (0, 0), "to_host_bytes": (0, 0)},
}
#: Of a mixture: routing is not read by the host, and experts are not worked through one by one.
OF_MIXTURES: dict[str, dict[str, tuple[float, float | None]]] = {
    **CEILINGS,
    "hessian": {"syncs": (1, None), "to_host_bytes": (4, None), "launches": (275, None)},
    "steps": {**CEILINGS["steps"], "launches": (580, None)},
    # Experts are unpacked together, and a flag for each is read.
    "check": {**CEILINGS["check"], "launches": (355, None), "to_host_bytes": (100, None)},
    # How many tokens reached each expert.
    "other": {"launches": (40, None), "syncs": (1, None), "to_host_bytes": (64, None)},
}
#: Bytes to the host over those of the packed layers: one copy for the files and for the journal's
#: record.
TO_HOST = {"pack": (1.1, 1.0)}


def count(*, mixture: bool) -> dict[str, Any]:
    """Count in a process of its own: what torch is told of the device stays for the process."""
    inner = {"moe_intermediate_size": 64, "num_experts": 8, "head_dim": 32}
    widths = {**SMALL, **(inner if mixture else {"intermediate_size": 256})}
    code = SCRIPT.format(
        bench=str(BENCH), root=str(ROOT), widths=widths, mixture=mixture, steps=STEPS
    )
    figures: dict[str, Any] = run_script("-c", code, OMP_NUM_THREADS="1")
    return figures


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
@pytest.mark.parametrize("mixture", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_counts_do_not_rise(mixture: bool) -> None:
    figures = count(mixture=mixture)
    phases, packed = figures["phases"], figures["packed_bytes"]
    assert set(phases) >= {*CEILINGS, *TO_HOST, "streams", "forward"}
    assert figures["refusals"] == [], "steps are recorded, and nothing in them waits"
    over = [
        f"{phase}: {name} {phases[phase][name]}, at most {ceiling}; the aim is {aim}"
        for phase, ceilings in (OF_MIXTURES if mixture else CEILINGS).items()
        for name, (ceiling, aim) in ceilings.items()
        if phases[phase][name] > ceiling
    ]
    over += [
        f"{phase}: {phases[phase]['to_host_bytes'] / packed:.2f} times the packed bytes go to the "
        f"host, at most {ceiling}; the aim is {aim}"
        for phase, (ceiling, aim) in TO_HOST.items()
        if phases[phase]["to_host_bytes"] > ceiling * packed
    ]
    assert over == []
    # What a recording holds is played once a step and once when it is made.
    assert phases["steps"]["in_graphs"] % (STEPS + 1) == 0


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The bench's counter, which is no package."""
    monkeypatch.syspath_prepend(str(BENCH))
    known = set(sys.modules)
    yield importlib.import_module("counting")
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCH)):
            del sys.modules[name]


class Kernels:
    """Stands for our kernels: counts how often one is started."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def __getattr__(self, name: str) -> Any:
        started = self.started

        class Kernel:
            def __getitem__(self, grid: tuple[int, ...]) -> Any:
                return lambda *tensors, **constants: started.append(name)

        return Kernel()


@pytest.mark.parametrize("sizes", [(32,), (32, 32, 32), (32, 64, 32)])
def test_the_table_is_what_our_kernels_do(
    counting: Any, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...]
) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    from autoround_backends import _triton_ops

    kernels = Kernels()
    monkeypatch.setattr(_triton_ops, "kernels", kernels)
    ops = _triton_ops.TritonOps(torch.device("cpu"))
    weights = [to_groups(torch.randn(4, 128), size) for size in sizes]
    grids = [min_max_grid(weight, integer_levels(4, sym=True)) for weight in weights]
    roundings = [
        Rounding(*(part.requires_grad_() for part in initial_rounding(w))) for w in weights
    ]
    kinds, tensors = len(set(sizes)), len(sizes)
    counter = counting.Counter("cpu")

    def launched(operation: str, work: Any) -> None:
        """Hold what is launched for an operation against the table."""
        kernels.started.clear()
        mode = counter.mode
        before = mode.here.launches
        work()
        made = mode.here.launches - before + len(kernels.started)
        row = counting.KERNELS[operation]
        assert made == kinds * row.kind + tensors * row.tensor, operation
        if operation != "sign_step":
            assert kernels.started.count(operation) == kinds

    def fake_quantize() -> None:
        rounded.extend(ops.fake_quantize_all(weights, roundings, grids=grids, dtype=torch.float32))

    def backward() -> None:
        parts = [part for rounding in roundings for part in rounding]
        torch.autograd.grad(rounded, parts, upstream)

    rounded: list[Any] = []
    upstream = [torch.ones_like(weight) for weight in weights]
    offsets = [rounding.offset.detach() for rounding in roundings]
    rest = [w.clone() for w in weights]
    # Tables of addresses are on the device after the first time.
    ops.fake_quantize_all(weights, roundings, grids=grids, dtype=torch.float32)
    ops.sign_step(offsets, rest, state=init(0.1, 4))
    with counter.counting():
        launched("fake_quantize", fake_quantize)
        launched("backward", backward)
        launched("quantize", lambda: ops.quantize_all(weights, roundings, grids=grids))
        kinds = 1
        launched("sign_step", lambda: ops.sign_step(offsets, rest, state=init(0.1, 4)))
        launched("sign_step", lambda: ops.sign_step_by(offsets, rest, torch.tensor(0.1)))
        kinds = tensors = 1
        one = torch.ones(8, 16)
        block = ColumnBlock(one, one, one, one, torch.eye(8), integer_levels(4, sym=True))
        launched("gptq_block", lambda: ops.gptq_block(block))


@pytest.mark.parametrize("name", ["search", "q4_k", "q6_k"])
def test_the_table_is_what_our_kernels_of_the_search_do(
    counting: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """For all experts of a layer at once; what is done in torch between kernels is counted too."""
    pytest.importorskip("triton", reason="triton is not installed")
    from autoround_backends import _triton_ops, _triton_search_ops

    kernels = Kernels()
    monkeypatch.setattr(_triton_search_ops, "kernels", kernels)
    kind = GGUF_TYPES.get(name)
    levels = integer_levels(4, sym=True) if kind is None else integer_levels(4, sym=kind.sym)
    groups = to_groups(torch.randn(6, 512), 32 if kind is None else kind.group_size)
    importance = torch.rand(3, *groups.shape[1:])
    counter = counting.Counter("cpu")
    toy = importlib.import_module("toy_runtime").ToyOps(counter)
    scales = HALF if kind is None or kind.nested is None else kind.nested
    made = []
    for ops in (_triton_ops.TritonOps(torch.device("cpu")), toy):
        # The rungs of a ladder are on the device after the first time.
        for _ in range(2):
            kernels.started.clear()
            with counter.counting():
                ops.search_scales(groups, importance, levels, scales=scales)
                made.append(counter.mode.here.launches + len(kernels.started))
    # That copy is none where the device is the host; the bench counts it.
    assert made == [made[1], made[1], made[1] + 1, made[1]]
    assert made[1] == (1 if kind is None else 2)


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_a_recording_is_done_again_and_holds_no_wait(counting: Any) -> None:
    code = f"""
import sys
sys.path[:0] = [{str(BENCH)!r}, {str(ROOT)!r}]
from tests import toy_device
held = toy_device.register()
import torch
from counting import Counter
from toy_runtime import ToyRuntime
counter = Counter("toy")
runtime = ToyRuntime(counter, torch.device("toy", 0), memory_bytes=1 << 30)
weight = torch.arange(3.0).to("toy")
with counter.counting():
    step = runtime.capture(lambda t: [t[0] * weight, t[0].sum()], [torch.ones(3).to("toy")])
    before = counter.mode.here.launches, counter.mode.here.syncs
    step([torch.full((3,), 5.0).to("toy")])
    after = counter.mode.here.launches, counter.mode.here.syncs
    weight.add_(1.0)
    again = step([torch.full((3,), 2.0).to("toy")])
    waits = lambda t: [t[0] * float(t[0].sum())]
    same = runtime.capture(waits, [torch.ones(3).to("toy")]) is waits
print(again[0].to("cpu").tolist(), float(again[1]))
print(same, runtime.refusals)
print(after[0] - before[0], after[1] - before[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    numbers, refused, counts = done.stdout.strip().splitlines()
    assert numbers == "[2.0, 4.0, 6.0] 6.0"
    assert refused.startswith("True ['aten._local_scalar_dense")
    # The copy of the input from the host, which waits, one to where the recording reads it, and the
    # recording itself.
    assert counts == "3 1"
