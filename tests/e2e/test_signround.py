"""The recipe ``signround`` beside auto-round's own codes (tools/clients/golden_signround.py).

auto-round leaves the last position of every sample out of the loss. What comes before it does not
see it, so here the samples are without it. It also rounds both parts of a scale's gradient to
float16, where they may cancel: a few factors stay where ours move, and their groups differ.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from autoround.device.registry import open_device
from autoround.events import ignore
from autoround.model.skeleton import adopt_model
from autoround.preparation import Request, open_session, prepare
from autoround.recipe.load import load_recipe
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


@pytest.mark.parametrize("case", CASES)
def test_the_codes_are_those_of_auto_round(case: str) -> None:
    assert share_equal(case, ours(case)) > 0.99


def test_the_share_shows_another_algorithm() -> None:
    # What 20 steps change is a few codes in a hundred: all of them must count.
    assert share_equal(CASES[0], ours(CASES[0], {"tuning.iters": 0})) < 0.95
    assert share_equal(CASES[0], ours(CASES[0], {"tuning.tune_minmax": False})) < 0.98
