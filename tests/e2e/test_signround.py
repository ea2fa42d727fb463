"""The recipe ``signround`` beside auto-round's own codes (tools/clients/golden_signround.py).

Three things differ in auto-round, and nothing else does: with them put in, all codes are equal, or
nearly. It leaves the last position of every sample out of the loss; what comes before does not see
that position, so here samples are without it. It keeps no iterate of the last step. And the two
parts of a scale's gradient are rounded to float16 before they are added, so that they may cancel:
then a factor stays where it is here moved, and in a few steps many codes of its group follow.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from autoround.core.grids.grid import Grid
from autoround.core.ops import TorchOps
from autoround.core.rounding import Rounding
from autoround.device.registry import open_device
from autoround.events import ignore
from autoround.model.skeleton import adopt_model
from autoround.preparation import Request, open_session, prepare
from autoround.recipe.load import load_recipe
from autoround_backends._cpu_ops import CpuOps
from tools.clients import golden_signround as golden

from ..runs import quantized

FILE = Path(__file__).parents[1] / "golden" / "signround.safetensors"
CASES = [golden.case_name(*case) for case in golden.CASES]
#: All samples in every step, and the iterate after the last step.
COMPARABLE: dict[str, object] = {
    "scheme.group_size": golden.GROUP,
    "tuning.batch_size": golden.SAMPLES,
    "tuning.num_validations": 1,
    "tuning.compute_dtype": "float32",
    "calibration.nsamples": golden.SAMPLES,
    "calibration.seqlen": golden.SEQLEN - 1,
}


@cache
def described() -> dict[str, dict[str, int]]:
    with safe_open(FILE, framework="pt") as opened:
        cases: dict[str, dict[str, int]] = json.loads(opened.metadata()["cases"])
    return cases


def ours(case: str, changes: dict[str, object] | None = None) -> dict[str, Tensor]:
    """Quantize the model of a case by the recipe; return the codes of its layers."""
    bits, sym, steps = (described()[case][key] for key in ("bits", "sym", "steps"))
    scheme = {"scheme.bits": bits, "scheme.sym": bool(sym), "tuning.iters": steps}
    recipe = load_recipe("signround", values={**COMPARABLE, **scheme, **(changes or {})})
    model = adopt_model(golden.tiny_llama())
    data = golden.token_ids()[:, :-1]
    request = Request(model, recipe, open_device("cpu"), "tiny", None, data)
    layers = quantized(open_session(prepare(request, sink=ignore), sink=ignore))
    return {name: layer.codes for name, layer in layers.items()}


def share_equal(case: str, codes: dict[str, Tensor]) -> float:
    """Return the share of codes that are auto-round's."""
    equal, count = 0, 0
    with safe_open(FILE, framework="pt") as opened:
        kept = {name for name in opened.keys() if name.startswith(f"{case}/")}  # noqa: SIM118
        assert kept == {f"{case}/{name}" for name in codes}
        for name, mine in codes.items():
            words, shape = opened.get_tensor(f"{case}/{name}"), (mine.shape[0], mine.shape[1])
            theirs = golden.unpack(words, described()[case]["bits"], shape=shape)
            equal, count = equal + int((mine == theirs).sum()), count + mine.numel()
    return equal / count


def test_the_file_holds_what_the_script_says() -> None:
    assert list(described()) == CASES
    assert {(case["bits"], case["sym"]) for case in described().values()} == {
        (bits, sym) for bits in (2, 3, 4) for sym in (True, False)
    }


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_codes_come_back_from_their_bits(bits: int) -> None:
    codes = torch.arange(5 * 8).reshape(5, 8).remainder(2**bits).to(torch.uint8)
    words = golden.pack(codes, bits)
    assert words.numel() == 5 * bits
    assert torch.equal(golden.unpack(words, bits, shape=(5, 8)), codes)


def straight_through(values: Tensor) -> Tensor:
    return values + (values.round() - values).detach()


def with_half_gradients(
    ops: TorchOps, weight: Tensor, rounding: Rounding, *, grid: Grid, dtype: torch.dtype
) -> Tensor:
    """Fake-quantize by autograd, scales in float16: their gradients are float16 then, too."""
    lo, hi = -grid.lo * rounding.min_scale, grid.hi * rounding.max_scale
    top = grid.levels.count - 1
    if grid.levels.fixed_zero:
        reach = torch.maximum(lo, hi) * (2 * (hi < lo).int() - 1)
        scale = (reach / grid.levels.middle).half()
        scale = torch.where(scale < 0, scale.clamp(max=-1e-5), scale.clamp(min=1e-5))
        zero = torch.full_like(weight[..., :1], grid.levels.middle)
    else:
        scale = ((hi + lo) / top).half().clamp(min=1e-5)
        zero = straight_through(lo / scale)
    codes = torch.clamp(straight_through(weight / scale + rounding.offset) + zero, 0, top)
    return (scale * (codes - zero)).to(dtype)


@pytest.fixture
def as_auto_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put in what auto-round does otherwise."""
    for ops in (TorchOps, CpuOps):
        monkeypatch.setattr(ops, "fake_quantize", with_half_gradients)
    # Its mean counts the positions that are left out: what float16 rounds is that much smaller.
    scale = 1000.0 * (golden.SEQLEN - 1) / golden.SEQLEN
    monkeypatch.setattr("autoround.core.gradient_step.LOSS_SCALE", scale)
    monkeypatch.setattr(
        "autoround.core.tune.validation_steps", lambda iters, count: frozenset({iters - 1})
    )


@pytest.mark.usefixtures("as_auto_round")
@pytest.mark.parametrize("case", CASES)
def test_the_codes_are_those_of_auto_round(case: str) -> None:
    assert share_equal(case, ours(case)) > 0.99


@pytest.mark.parametrize("case", CASES)
def test_the_recipe_as_it_is_comes_close(case: str) -> None:
    # Where a zero point differs, all codes of the group do, and the weights hardly.
    nearest = share_equal(case, ours(case, {"tuning.iters": 0}))
    assert 1 - share_equal(case, ours(case)) < 0.65 * (1 - nearest)


@pytest.mark.usefixtures("as_auto_round")
def test_the_share_shows_another_algorithm() -> None:
    # What 20 steps change is a few codes in a hundred: all of them must count.
    assert share_equal(CASES[0], ours(CASES[0], {"tuning.iters": 0})) < 0.9
    assert share_equal(CASES[0], ours(CASES[0], {"tuning.lr": 0.0045})) < 0.98
