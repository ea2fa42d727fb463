"""What serving engines do, in words."""

from __future__ import annotations

import dataclasses

from autoround.report.engines import describe_finding, engine_lines
from autoround.report.plan import plan_lines
from autoround.types import EngineFinding

from ._values import ESTIMATE, plan

TAKEN = EngineFinding(
    "vllm", "0.32.0", "2026-11-29", "auto_gptq", "takes", "", "vllm serve FOLDER", "run"
)
REFUSED = EngineFinding(
    "sglang",
    "0.5.23",
    "2026-11-29",
    "auto_gptq",
    "refuses",
    "it takes 4 bits",
    "4 bits",
    "source",
    rule="bits",
    layers=3,
    example="h.0.q (W3 g128 sym)",
)
LIMITED = dataclasses.replace(REFUSED, engine="vllm", on="a CPU", layers=1, evidence="run")
UNREAD = dataclasses.replace(REFUSED, engine="mlx", rule="", layers=0, example="")
SERVED = dataclasses.replace(plan(), serving=(TAKEN, REFUSED, UNREAD))


def test_a_finding_is_a_sentence_with_its_date() -> None:
    assert describe_finding(TAKEN) == (
        "vLLM 0.32.0 takes auto_gptq: vllm serve FOLDER [run, 2026-11-29]"
    )
    assert describe_finding(REFUSED) == (
        "SGLang 0.5.23 refuses 3 layers of auto_gptq, such as h.0.q (W3 g128 sym): it takes "
        "4 bits; instead: 4 bits [source, 2026-11-29]"
    )
    assert describe_finding(LIMITED).startswith(
        "vLLM 0.5.23 refuses 1 layer of auto_gptq on a CPU,"
    )
    slow = describe_finding(dataclasses.replace(REFUSED, effect="slow"))
    assert slow.startswith("SGLang 0.5.23 runs 3 layers of auto_gptq slowly, such as")
    other = describe_finding(dataclasses.replace(UNREAD, effect="reads otherwise"))
    assert other.startswith("mlx-lm 0.5.23 reads auto_gptq otherwise: it takes")
    old = describe_finding(dataclasses.replace(REFUSED, before="0.4"))
    assert old.startswith("SGLang before 0.4 refuses 3 layers of auto_gptq, such as")
    unknown = describe_finding(dataclasses.replace(UNREAD, effect="unknown"))
    assert unknown == "mlx-lm 0.5.23, auto_gptq: it takes 4 bits"


def test_without_a_question_every_format_has_one_line() -> None:
    (line,) = engine_lines(SERVED, ())
    assert line == (
        "serving      auto_gptq: taken by vllm; refused by sglang (--for ENGINE says more)"
    )
    other = dataclasses.replace(TAKEN, format="fake")
    both = dataclasses.replace(SERVED, serving=(TAKEN, LIMITED, other))
    assert engine_lines(both, ()) == [
        "serving      auto_gptq: with limits on some machines by vllm (--for ENGINE says more)",
        "serving      fake: taken by vllm (--for ENGINE says more)",
    ]


def test_earlier_versions_are_named_beside_the_one_that_takes_a_format() -> None:
    old = dataclasses.replace(REFUSED, engine="vllm", effect="reads otherwise", before="0.4")
    assert engine_lines(dataclasses.replace(plan(), serving=(TAKEN, old)), ()) == [
        "serving      auto_gptq: taken by vllm; read otherwise by vllm before 0.4 "
        "(--for ENGINE says more)"
    ]


def test_a_question_is_answered_for_the_engines_it_names() -> None:
    lines = engine_lines(SERVED, ("vllm", "mlx"))
    assert [line.split()[1] for line in lines] == ["vLLM", "mlx-lm"]
    assert engine_lines(plan(), ("vllm",)) == engine_lines(plan(), ()) == []


def test_a_plan_ends_with_them() -> None:
    assert plan_lines(SERVED, ESTIMATE)[-1:] == engine_lines(SERVED, ())
    assert plan_lines(SERVED, ESTIMATE, engines=["sglang"])[-1:] == engine_lines(SERVED, ["sglang"])
