from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autoround.errors import RecipeError
from autoround.model.runner import BlockRunner
from autoround.planning.hyperparameters import compiles_blocks
from autoround.recipe.schema import Recipe
from autoround.session.session import make_runner
from autoround.types import Plan
from autoround_backends.cpu import CpuRuntime

from ...runs import NEAREST, make_session, run_pass, small
from ...tiny import make_model, token_ids

IDS = token_ids(8, 16)


class Host(CpuRuntime):
    """A CPU that can compile, or not."""

    def __init__(self, can: bool) -> None:
        super().__init__()
        self.can = can

    def compiles_from(self) -> float:
        return 1.5e13 if self.can else float("inf")


@pytest.fixture
def plan() -> Plan:
    job = make_session(make_model("llama"), {"tuning.iters": 4}, data=IDS)
    return job.plan


def compiles(plan: Plan, recipe: Recipe, runtime: Host, *, compute_dtype: str = "bfloat16") -> bool:
    return compiles_blocks(recipe, runtime, blocks=plan.blocks, compute_dtype=compute_dtype)


def asked(value: object, iters: int = 10**9) -> Recipe:
    return small({"tuning.compile": value, "tuning.iters": iters})


def test_many_16_bit_steps_are_worth_it_where_there_is_a_compiler(plan: Plan) -> None:
    assert compiles(plan, asked("auto"), Host(True))
    assert not compiles(plan, asked("auto"), Host(False))
    assert not compiles(plan, asked("auto", iters=4), Host(True))
    assert not compiles(plan, asked("auto"), Host(True), compute_dtype="float32")


def test_experts_are_not_compiled_unless_asked(plan: Plan) -> None:
    first = plan.blocks[0]
    stacked = replace(first, layers=tuple(replace(x, experts=4) for x in first.layers))
    mixture = replace(plan, blocks=(stacked, *plan.blocks[1:]))
    assert not compiles(mixture, asked("auto"), Host(True))
    assert compiles(mixture, asked(True), Host(True))


def test_what_is_asked_is_done_or_refused(plan: Plan) -> None:
    assert compiles(plan, asked(True, iters=1), Host(True))
    assert not compiles(plan, asked(False), Host(True))
    with pytest.raises(RecipeError, match=r"tuning\.compile: cpu .*leave it at auto"):
        compiles(plan, asked(True), Host(False))


def test_steps_over_the_whole_model_count(plan: Plan) -> None:
    recipe = small({"tuning.iters": 0, "end_to_end.steps": 10**9})
    assert compiles(plan, recipe, Host(True))


def test_compiled_blocks_learn_what_others_do() -> None:
    model = make_model("llama")
    values: dict[str, object] = {"tuning.iters": 20, "tuning.compute_dtype": "float32"}
    jobs = [make_session(model, {**values, "tuning.compile": c}, data=IDS) for c in (False, True)]
    assert [job.plan.compiled for job in jobs] == [False, True]
    # Signs of gradients that are all but zero differ, and codes with them; losses are near.
    plain, fast = ([output.result for output in run_pass(job)] for job in jobs)
    for one, other in zip(plain, fast, strict=True):
        assert other.loss_before == pytest.approx(one.loss_before, rel=0.25)
        assert other.loss_after == pytest.approx(one.loss_after, rel=0.25)
        assert other.loss_after < 0.9 * other.loss_before


def test_attention_of_short_samples_is_plain_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_session(make_model("llama"), {"tuning.compile": True}, data=IDS)
    assert (job.plan.compiled, job.tuning.attention) == (True, "eager")
    monkeypatch.setattr(type(job.runtime), "compile", lambda self, call: call)
    config = job.skeleton.model.config
    assert config._attn_implementation == "sdpa"
    runner = make_runner(job)
    assert job.tokens is not None
    runner.prepare(job.tokens.ids)
    hidden = runner.embed(job.tokens.ids)
    base = runner.place(
        job.plan.blocks[0].by_param(
            job.skeleton.read(job.skeleton.names_under(job.plan.blocks[0].name))
        )
    )
    seen: list[str] = []
    attention = job.skeleton.model.get_submodule(job.skeleton.blocks[0] + ".self_attn")
    handle = attention.register_forward_pre_hook(
        lambda *given: seen.append(config._attn_implementation)
    )
    out = runner.run(0, base, hidden=hidden, compiled=True)
    handle.remove()
    assert seen == ["eager"]
    assert config._attn_implementation == "sdpa"
    plain = BlockRunner(job.skeleton, device=torch.device("cpu"), dtype=torch.float32)
    plain.prepare(job.tokens.ids)
    torch.testing.assert_close(out, plain.run(0, base, hidden=hidden), rtol=1e-5, atol=1e-5)


def test_rounding_without_data_compiles_nothing() -> None:
    values: dict[str, object] = {**NEAREST, "tuning.compile": True}
    assert not make_session(make_model("llama"), values).plan.compiled
