# Tests: autoround/report/plan.py autoround/planning/method.py

from __future__ import annotations

import dataclasses
import math

import pytest

from autoround.planning.method import describe_method
from autoround.report.plan import kept_lines, layer_lines, plan_lines
from autoround.settings import EndToEndSettings
from autoround.types import BlockPlan, OutputPlan, Scheme

from ._values import BLOCKS, ESTIMATE, layer, plan


def test_a_plan_in_words() -> None:
    assert plan_lines(plan(notes=("a note", "another")), ESTIMATE) == [
        "model        my/model (ToyForCausalLM, 2 blocks)",
        "quantize     3 layers to W4 g128 sym",
        "keep 16-bit  h.0.gate and 1 more: a router",
        "keep 16-bit  h.1.odd: odd",
        "keep 16-bit  lm_head: outside the decoder blocks",
        "method       SignRound, 200 steps of 8 samples, initialised with searched scales and GPTQ "
        "error compensation",
        "settings     lr 0.001, minmax_lr 0.005, grad_accum_steps 1, 5 validations on 16 samples, "
        "2 threads",
        "calibration  some text, 4 × 16 tokens",
        "format       auto_round, packing auto_round:auto_gptq; kept tensors bfloat16",
        "device       cpu, computing in float32",
        "size         100.0 MB → 25.0 MB, 4.12 bits per quantized weight on the disk",
        "memory       about 2.5 GB",
        "time         80 s to 10 min",
        "note         a note",
        "note         another",
    ]


def test_a_plan_of_a_model_from_the_hub_names_its_commit() -> None:
    plain = plan_lines(plan(), ESTIMATE)
    pinned = plan_lines(dataclasses.replace(plan(), revision="0123abc"), ESTIMATE)
    assert pinned == [plain[0], "revision     0123abc", *plain[1:]]


def test_a_further_pass_is_told_with_all_that_is_its_own() -> None:
    first = plan(notes=("a note",))
    other = OutputPlan("gguf:q8_0", "gguf:q8_0", "float32", "gguf-q8_0")
    block = BlockPlan(0, "h.0", (layer("h.0.q", scheme=Scheme(8, 32, True)),))
    further = dataclasses.replace(
        first, outputs=(other,), blocks=(block,), kept=(), notes=("a note", "its own")
    )
    lines = plan_lines(dataclasses.replace(first, further=(further,)), ESTIMATE)
    assert "size         100.0 MB → 25.0 MB in 2 formats, 4.12 bits" in "\n".join(lines)
    assert lines[-5:] == [
        "note         a note",
        "pass 2 of 2, over the same blocks",
        "quantize     1 layers to W8 g32 sym",
        "format       gguf:q8_0, packing gguf:q8_0; kept tensors float32; in gguf-q8_0/",
        "note         its own",
    ]


def test_a_further_pass_with_a_method_of_its_own_names_it() -> None:
    steps = EndToEndSettings(steps=20, batch_size=2, lrs=((4, 1e-3),))
    both = dataclasses.replace(plan(), tuning=dataclasses.replace(plan().tuning, end_to_end=steps))
    further = plan()
    lines = plan_lines(dataclasses.replace(both, further=(further,)), ESTIMATE)
    methods = [line for line in lines if line.startswith("method")]
    assert [line.endswith("for scales") for line in methods] == [True, False]


def test_settings_are_shown_without_block_steps() -> None:
    steps = EndToEndSettings(steps=20, batch_size=2, lrs=((4, 1e-3),))
    tuning = dataclasses.replace(plan().tuning, iters=0, threads=1, end_to_end=steps)
    lines = plan_lines(dataclasses.replace(plan(), tuning=tuning), ESTIMATE)
    place = lines.index("settings     1 thread")
    assert lines[place + 1] == "             end to end: lr of the scales 0.001 at 4 bits"


def test_every_scheme_has_a_line() -> None:
    block = BlockPlan(2, "h.2", (layer("h.2.q", scheme=Scheme(8, -1, False)),))
    lines = plan_lines(dataclasses.replace(plan(), blocks=(*BLOCKS, block)), ESTIMATE)
    assert lines[1:3] == [
        "quantize     3 layers to W4 g128 sym",
        "quantize     1 layers to W8 channel asym",
    ]


def test_no_time_is_named_that_is_not_known() -> None:
    lines = plan_lines(plan(), dataclasses.replace(ESTIMATE, seconds_high=math.inf))
    assert not any(line.startswith("time") for line in lines)
    assert sum(line.startswith("memory") for line in lines) == 1


def test_a_measured_time_says_what_takes_most_of_it() -> None:
    parts = (("read", 1.0), ("steps", 300.0), ("initialise", 40.0), ("forward", 20.0))
    probed = dataclasses.replace(ESTIMATE, seconds_low=289.0, seconds_high=451.0, probed=parts)
    for values in ({}, {"tuning.iters": 0}):
        (line,) = [x for x in plan_lines(plan(values=values), probed) if x.startswith("time")]
        assert line == (
            "time         5 min to 8 min, by a probe: steps 5 min, initialise 40 s, forward 20 s"
        )


@pytest.mark.parametrize(
    ("iters", "init", "words"),
    [
        (0, "minmax", "rtn (round to nearest)"),
        (0, "search", "opt-rtn (searched scales, no tuning)"),
        (50, "minmax", "SignRound, 50 steps of 8 samples, initialised with min-max scales"),
        (50, "search", "SignRound, 50 steps of 8 samples, initialised with searched scales"),
    ],
)
def test_the_method_has_a_name(iters: int, init: str, words: str) -> None:
    values = {"tuning.iters": iters, "tuning.init_scale": init, "tuning.init_rounding": "nearest"}
    assert describe_method(plan(values=values)) == words


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"tuning.iters": 0, "tuning.init_rounding": "gptq"},
            "GPTQ error compensation (searched scales, no tuning)",
        ),
        (
            {"tuning.iters": 0, "tuning.init_rounding": "gptq", "tuning.init_scale": "minmax"},
            "GPTQ error compensation (min-max scales, no tuning)",
        ),
        (
            {"tuning.iters": 50},
            "SignRound, 50 steps of 8 samples, initialised with searched scales and GPTQ error "
            "compensation",
        ),
        (
            {"tuning.iters": 50, "scheme.bits": 2},
            "SignRound, 50 steps of 8 samples, initialised with searched scales",
        ),
    ],
)
def test_gptq_initialisation_is_said(values: dict[str, object], words: str) -> None:
    assert describe_method(plan(values=values)) == words


def test_settled_values_are_printed_rather_than_those_of_the_recipe() -> None:
    """GGUF has no end-to-end tuning, whatever its recipe asks for."""
    asked = plan(values={"end_to_end.steps": 30})
    settled = dataclasses.replace(asked.tuning, end_to_end=EndToEndSettings())
    assert describe_method(dataclasses.replace(asked, tuning=settled)) == describe_method(plan())


def test_a_step_sees_all_batches_whose_gradients_it_sums() -> None:
    summed = dataclasses.replace(plan().tuning, batch_size=2, grad_accum_steps=3)
    method = describe_method(dataclasses.replace(plan(), tuning=summed))
    assert method.startswith("SignRound, 200 steps of 6 samples, ")


def test_kept_layers_are_grouped_by_reason() -> None:
    nothing = dataclasses.replace(plan(), blocks=(BlockPlan(0, "h.0", (layer("h.0.q"),)),), kept=())
    assert kept_lines(nothing) == []
    assert len(kept_lines(plan())) == 3


def test_every_layer_has_a_line() -> None:
    assert layer_lines(plan()) == [
        "h.0.q         64 x 128     W4 g128 sym",
        "h.0.gate       8 x 128     kept: a router",
        "h.0.down      64 x 128     W4 g128 sym",
        "h.1.q         64 x 128     W4 g128 sym",
        "h.1.gate       8 x 128     kept: a router",
        "h.1.odd        8 x 128     kept: odd",
        "lm_head        8 x 128     kept: outside the decoder blocks",
    ]


@pytest.mark.parametrize(("codes", "tuned"), [(False, "scales"), (True, "scales and codes")])
def test_the_method_names_what_follows_the_blocks(codes: bool, tuned: str) -> None:
    values = {
        "end_to_end.steps": 30,
        "end_to_end.batch_size": 4,
        "end_to_end.tune_codes": codes,
    }
    assert describe_method(plan(values=values)) == (
        "SignRound, 200 steps of 8 samples, initialised with searched scales and GPTQ error "
        f"compensation; then 30 steps of 4 samples end to end on the KL divergence, for {tuned}"
    )


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.2, 0.3, "up to 1 s"), (0.6, 2.4, "up to 3 s"), (3.2, 5.0, "3 s to 5 s")],
)
def test_a_short_time_is_not_none(low: float, high: float, words: str) -> None:
    short = dataclasses.replace(ESTIMATE, seconds_low=low, seconds_high=high)
    (line,) = [x for x in plan_lines(plan(), short) if x.startswith("time")]
    assert line == f"time         {words}"


def test_the_method_names_fresh_samples() -> None:
    values = {"end_to_end.steps": 30, "end_to_end.nsamples": 12}
    assert describe_method(plan(values=values)).endswith(", for scales, from 12 fresh samples")
