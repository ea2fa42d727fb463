"""GGUF files whose types are given by rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from autoround.device.registry import open_device
from autoround.errors import RecipeError
from autoround.evaluate.models import load_any
from autoround.model.skeleton import adopt_model
from autoround.planning.estimate import make_estimate
from autoround.planning.plan import make_plan
from autoround.types import Plan

from ..runs import NEAREST, even_device
from .test_gguf import EXPERTS, dense, file_of, logits, quantize, recipe_of, tiny

__all__ = ["even_device"]

RULES = [
    {"kind": "attention", "type": "q8_0"},
    {"match": "v_proj", "blocks": 1, "bits": 16},
    {"match": "down_proj", "type": "q6_k"},
    {"match": "model.layers.0.mlp.up_proj", "type": "q2_k"},
    {"kind": "embeddings", "type": "q4_1"},
    {"kind": "lm_head", "type": "q5_0"},
]


def types(folder: Path) -> dict[str, str]:
    tensors = gguf.GGUFReader(file_of(folder)).tensors
    return {t.name.removesuffix(".weight"): t.tensor_type.name for t in tensors}


def plan_of(model: Any, formats: str, **values: object) -> Plan:
    return make_plan(
        recipe_of(formats, **values),
        adopt_model(model),
        runtime=open_device("cpu"),
        calibration="",
        model="tiny",
    )


def test_rules_give_tensors_their_types_and_the_file_type_gives_the_rest(tmp_path: Path) -> None:
    model, out = tiny(), tmp_path / "out"
    plan = quantize(model, out, "gguf:q4_k_s", **{"layers": RULES, "tuning.iters": 8}).plan
    found = types(out)
    assert file_of(out).name.endswith("-Q4_K_S-MIXED.gguf")
    assert {name: found[name] for name in ("token_embd", "output", "blk.0.attn_q")} == {
        "token_embd": "Q4_1",
        "output": "Q5_0",
        "blk.0.attn_q": "Q8_0",
    }
    assert (found["blk.0.attn_v"], found["blk.1.attn_v"]) == ("Q8_0", "F16")
    assert (found["blk.0.ffn_down"], found["blk.1.ffn_down"]) == ("Q6_K", "Q6_K")
    assert (found["blk.0.ffn_up"], found["blk.1.ffn_up"]) == ("Q2_K", "Q4_K")
    kept = {x.name: x.reason for x in plan.layers if x.scheme is None}
    assert kept["model.layers.1.self_attn.v_proj"] == (
        "16 bits by layers[1] of the recipe ('v_proj', blocks 1)"
    )
    assert [(r.index, r.decided) for r in plan.rules] == [
        (0, 7),
        (1, 1),
        (2, 2),
        (3, 1),
        (4, 1),
        (5, 1),
    ]
    assert any("sets the types that no rule does" in note for note in plan.notes)
    # What llama.cpp's package unpacks is what we load.
    read = load_any(out, device="cpu")
    weights = dense(out)
    for ours, theirs in (("1.mlp.down_proj", "blk.1.ffn_down"), ("0.mlp.up_proj", "blk.0.ffn_up")):
        own = read.get_parameter(f"model.layers.{ours}.weight")
        torch.testing.assert_close(own, weights[f"{theirs}.weight"], rtol=1e-5, atol=1e-6)
    before, after = logits(model), logits(read)
    assert float((after - before).square().mean() / before.square().mean()) < 0.2


def test_the_plan_counts_the_very_bytes_of_a_mixed_file(tmp_path: Path) -> None:
    model = tiny(tie_word_embeddings=True)
    values = {**NEAREST, "layers": [*RULES[:4], {"kind": "lm_head", "type": "q8_0"}]}
    recipe = recipe_of("gguf:q4_k_m", **values)
    skeleton, runtime = adopt_model(model), open_device("cpu")
    plan = make_plan(recipe, skeleton, runtime=runtime, calibration="", model="tiny")
    estimate = make_estimate(plan, skeleton, runtime=runtime)
    quantize(model, tmp_path / "out", "gguf:q4_k_m", **values)
    tensors = gguf.GGUFReader(file_of(tmp_path / "out")).tensors
    assert estimate.disk_bytes == sum(t.n_bytes for t in tensors)
    # The head of a tied model is its embeddings.
    assert types(tmp_path / "out")["token_embd"] == "Q8_0"
    assert "output" not in types(tmp_path / "out")


def test_experts_of_one_type_are_tuned_where_the_file_type_has_two(tmp_path: Path) -> None:
    model = tiny("Qwen3MoeConfig", **EXPERTS)
    rules = [{"kind": "experts", "type": "q4_k"}, {"kind": "attention", "type": "q8_0"}]
    plan = quantize(model, tmp_path / "out", "gguf:q2_k_s", **{**NEAREST, "layers": rules}).plan
    found = types(tmp_path / "out")
    assert {found[f"blk.0.ffn_{part}_exps"] for part in ("gate", "up", "down")} == {"Q4_K"}
    assert found["blk.0.attn_q"] == "Q8_0"
    assert not any("rounded" in note and "exps" in note for note in plan.notes)


def test_one_rule_speaks_to_gguf_and_to_the_others() -> None:
    rules = [
        {"kind": "attention", "bits": 8, "type": "q6_k"},
        {"match": "up_proj", "bits": 3},
        {"match": "down_proj", "type": "q5_k"},
    ]
    plan = plan_of(tiny(), "auto_round,gguf:q4_k_s", layers=rules)
    first, second = plan.passes
    assert [(r.index, r.schemes[0][0]) for r in first.rules] == [
        (0, "W8 g32 sym"),
        (1, "W3 g32 sym"),
    ]
    assert [(r.index, r.schemes[0][0]) for r in second.rules] == [(0, "Q6_K"), (2, "Q5_K")]


def test_a_type_that_rows_do_not_fit_falls_back_and_says_so() -> None:
    plan = plan_of(
        tiny(intermediate_size=288), "gguf:q8_0", layers=[{"match": "down_proj", "type": "q4_k"}]
    )
    assert plan.rules[0].schemes == (("W5 g32 sym", 2),)
    assert any("fall back (blk.0.ffn_down.weight to Q5_0)" in note for note in plan.notes)


def test_a_file_of_one_kind_of_rule_shares_the_pass_of_equal_grids() -> None:
    rules = [{"kind": "attention", "bits": 8, "type": "q8_0"}]
    plan = plan_of(tiny(), "auto_round,gguf:q4_0", layers=rules)
    assert not plan.further
    assert len(plan.rules) == 1


def test_bits_say_nothing_to_gguf() -> None:
    with pytest.raises(RecipeError, match=r"layers\[0\]: gguf:q4_0 takes types, not bits"):
        plan_of(tiny(), "gguf:q4_0", layers=[{"kind": "mlp", "bits": 5}])
