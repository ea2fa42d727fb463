"""What a model's code does with its layers, in plans: reasons, shares, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from autoround.device.registry import open_device
from autoround.errors import ModelError
from autoround.model.blocks import ROUTER, Matrix
from autoround.model.probe.traits import CodeTraits
from autoround.model.skeleton import adopt_model
from autoround.planning.code_roles import (
    GATE,
    NO_LINEAR,
    OTHER_LIST,
    READ,
    SHARED,
    check_on_text,
    refuse_partial,
    traits_notes,
    unasked_share,
    why_partial,
    with_code_traits,
)
from autoround.planning.plan import make_plan
from autoround.types import BlockPlan, KeptTensor, LayerPlan, Plan, Scheme

from ...runs import NEAREST, small
from ...tiny import make_model

W4 = Scheme(4, 32, True)
BASE: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "vocab_size": 128}


def planned(model: Any, values: dict[str, object] | None = None) -> Plan:
    return make_plan(
        small(values or NEAREST),
        adopt_model(model),
        runtime=open_device("cpu"),
        calibration="",
        model="tiny",
    )


def made(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options))


def reasons(plan: Plan) -> dict[str, str]:
    return {x.name: x.reason for block in plan.blocks for x in block.layers if x.reason}


def test_a_router_is_what_chooses_and_nothing_else() -> None:
    model = make_model("mixtral")
    matrices = [
        Matrix("model.layers.0.self_attn.k_proj", (4, 64), False, False, ROUTER),
        Matrix("model.layers.0.mlp.gate", (4, 64), False, False, ""),
        Matrix("model.layers.1.mlp.gate", (1, 64), False, False, ROUTER),
        Matrix("model.layers.0.self_attn.q_proj", (64, 64), False, False, ""),
    ]
    traits = CodeTraits(
        choosing=frozenset({"model.layers.0.mlp.gate"}),
        read=frozenset({"model.layers.0.self_attn.q_proj"}),
    )
    found = with_code_traits(matrices, traits, model)
    assert [m.why_kept for m in found] == ["", ROUTER, GATE, READ]
    unknown = replace(traits, known=False)
    assert with_code_traits(matrices, unknown, model) == matrices


def test_lists_that_nothing_tunes_are_named() -> None:
    m = Matrix("model.other.0.q_proj", (64, 64), False, False)
    traits = CodeTraits(lists=frozenset({"model.other"}))
    assert with_code_traits([m], traits, make_model("llama"))[0].why_kept == OTHER_LIST


def plan_with(
    layers: list[LayerPlan], tensors: tuple[KeptTensor, ...] = (), kept: tuple[LayerPlan, ...] = ()
) -> Plan:
    plan = planned(make_model("llama"))
    return replace(
        plan, blocks=(BlockPlan(0, "b", tuple(layers)),), kept_tensors=tensors, kept=kept
    )


@pytest.mark.parametrize(
    ("reason", "counts"),
    [
        ("ignored by the recipe ('x')", False),
        ("16 bits by layers[0] of the recipe (x)", False),
        ("its output width 7 is not a multiple of 32", True),
        (READ, True),
    ],
)
def test_what_the_recipe_asks_for_does_not_count(reason: str, counts: bool) -> None:
    plan = plan_with([LayerPlan("b.q", (30, 10), W4), LayerPlan("b.k", (70, 10), None, reason)])
    assert unasked_share(plan) == (pytest.approx(0.7) if counts else 0)
    assert bool(why_partial(plan)) == counts


def test_tensors_that_are_no_layers_and_other_lists_count() -> None:
    layers = [LayerPlan("b.q", (80, 10), W4)]
    tensors = (KeptTensor("b.w1", (4, 5, 10), NO_LINEAR),)
    plan = plan_with(layers, tensors)
    assert unasked_share(plan) == pytest.approx(0.2)
    assert why_partial(plan) == ""
    more = plan_with(layers, tensors, (LayerPlan("c.q", (90, 10), None, OTHER_LIST),))
    assert unasked_share(more) == pytest.approx(1100 / 1900)
    assert OTHER_LIST in why_partial(more)
    refuse_partial(more, allowed=True)
    with pytest.raises(ModelError, match=r"58% of the weights.*--allow-partial"):
        refuse_partial(more, allowed=False)
    with pytest.raises(ModelError):
        refuse_partial(replace(plan, further=(more,)), allowed=False)


def test_what_was_not_tried_is_said() -> None:
    assert traits_notes(CodeTraits()) == []
    assert "was not tried" in traits_notes(CodeTraits(unchecked="odd", known=False))[0]
    assert "2 blocks" in traits_notes(CodeTraits(unchecked="2 blocks are new"))[0]


def test_a_weight_that_other_code_reads_stays() -> None:
    jamba = made(
        "jamba",
        **BASE,
        intermediate_size=96,
        num_hidden_layers=4,
        attn_layer_period=2,
        attn_layer_offset=1,
        num_experts=32,
        num_key_value_heads=2,
        mamba_dt_rank=32,
        use_mamba_kernels=False,
    )
    kept = reasons(planned(jamba))
    assert {n.rpartition(".")[2] for n, why in kept.items() if why == READ} == {"dt_proj"}
    assert {n.rpartition(".")[2] for n, why in kept.items() if why == ROUTER} == {"router"}


def test_weights_that_blocks_share_stay_in_all_of_them() -> None:
    model = make_model("llama")
    first, second = model.model.layers[:2]
    second.mlp.up_proj.weight = first.mlp.up_proj.weight
    kept = reasons(planned(model))
    names = {f"model.layers.{i}.mlp.up_proj" for i in (0, 1)}
    assert {name for name, why in kept.items() if why == SHARED} == names


def test_blocks_that_share_state_are_refused_where_they_have_to_run() -> None:
    options = {**BASE, "intermediate_size": 96, "num_hidden_layers": 12, "head_dim": 16}
    model = made("gemma4_text", **options, num_kv_shared_layers=6, num_key_value_heads=2)
    with pytest.raises(ModelError, match=r"state that one block leaves.*--recipe rtn"):
        planned(model, {"tuning.iters": 2})
    plan = planned(model)
    assert "state that one block leaves" in plan.why_not_by_block


def test_a_model_whose_blocks_do_not_run_on_text_is_refused_even_for_rounding() -> None:
    traits = CodeTraits(on_text=False, lists=frozenset({"model.text.layers"}))
    with pytest.raises(ModelError, match=r"text does not run through .* through model\.text\.la"):
        check_on_text(adopt_model(make_model("llama")), traits)
    check_on_text(adopt_model(make_model("llama")), CodeTraits())
