"""The plan for a GGUF file: what its type, the rules and the recipe say of each layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoround.device.registry import open_device
from autoround.errors import FormatError, RecipeError
from autoround.planning.gguf import tokenizer_notes, tower_notes
from autoround.planning.plan import make_plan
from autoround.types import Plan, Scheme

from ...runs import small
from .test_gguf_tensors import skeleton

Q4_K, Q6_K = (Scheme(4, 32, False, "q4_k"), Scheme(6, 16, True, "q6_k"))
LAYER = "model.layers.{}.{}"


def plan_of(
    formats: str = "gguf:q4_k_s",
    rules: tuple[dict[str, Any], ...] = (),
    *,
    ignore: tuple[str, ...] = (),
    kind: str = "LlamaConfig",
    **config: Any,
) -> Plan:
    values: dict[str, object] = {
        "output.format": formats,
        "layers": list(rules),
        "ignore": list(ignore),
        "output.dtype": "auto",
    }
    return make_plan(
        small(values),
        skeleton(kind, **{"num_hidden_layers": 2, **config}),
        runtime=open_device("cpu"),
        calibration="",
        model="tiny",
    )


def schemes(plan: Plan) -> dict[str, Scheme | None]:
    return {x.name.removeprefix("model.layers."): x.scheme for x in plan.layers}


def test_the_file_type_decides_every_layer_of_the_blocks() -> None:
    plan = plan_of(rules=({"match": "down_proj", "type": "q6_k"},))
    found = schemes(plan)
    for i in (0, 1):
        assert found[f"{i}.mlp.down_proj"] == Q6_K
        assert found[f"{i}.mlp.up_proj"] == found[f"{i}.self_attn.q_proj"] == Q4_K
    assert all(x.block for block in plan.blocks for x in block.layers)
    assert dict(plan.outputs[0].types) == {LAYER.format(i, "mlp.down_proj"): "q6_k" for i in (0, 1)}


def test_every_layer_that_is_kept_says_why() -> None:
    plan = plan_of(
        rules=({"match": "q_proj", "bits": 16}, {"match": "v_proj", "type": "q8_0"}),
        ignore=("layers.0.self_attn.k_proj",),
        intermediate_size=272,
    )
    reasons = {x.name: x.reason for x in plan.layers if x.scheme is None}
    ignored = "ignored by the recipe ('layers.0.self_attn.k_proj')"
    assert reasons.pop(LAYER.format(0, "self_attn.k_proj")) == ignored
    for i in (0, 1):
        asked = reasons.pop(LAYER.format(i, "self_attn.q_proj"))
        assert asked == "16 bits by layers[0] of the recipe ('q_proj')"
        narrow = reasons.pop(LAYER.format(i, "mlp.down_proj"))
        assert narrow == "held in float16: its width 272 is no multiple of 32"
    assert reasons == {}


def test_what_the_recipe_ignores_gets_no_type_by_a_rule() -> None:
    plan = plan_of(rules=({"kind": "mlp", "type": "q8_0"},), ignore=("layers.0.mlp.up_proj",))
    assert LAYER.format(0, "mlp.up_proj") not in dict(plan.outputs[0].types)
    assert schemes(plan)["0.mlp.up_proj"] is None
    assert schemes(plan)["1.mlp.up_proj"] == Scheme(8, 32, True)


@pytest.mark.parametrize("last", ["embeddings", "lm_head"])
def test_of_rules_about_a_tied_head_and_its_embeddings_the_last_decides(last: str) -> None:
    first = "lm_head" if last == "embeddings" else "embeddings"
    rules = ({"kind": first, "type": "q5_k"}, {"kind": last, "type": "q8_0"})
    plan = plan_of(rules=rules, tie_word_embeddings=True)
    assert plan.outputs[0].types == (("model.embed_tokens", "q8_0"),)
    apart = plan_of(rules=rules, tie_word_embeddings=False)
    names = {"embeddings": "model.embed_tokens", "lm_head": "lm_head"}
    assert dict(apart.outputs[0].types) == {names[first]: "q5_k", names[last]: "q8_0"}


def test_what_rules_came_to_counts_head_and_embeddings() -> None:
    plan = plan_of(rules=({"kind": "embeddings", "type": "q8_0"}, {"kind": "mlp", "type": "q6_k"}))
    assert [(r.index, r.decided, dict(r.schemes)) for r in plan.rules] == [
        (0, 1, {"W8 g32 sym": 1}),
        (1, 6, {"Q6_K": 6}),
    ]
    assert plan.rules[0].weights == 320 * 256


def test_bits_beside_types_are_for_the_formats_that_take_them() -> None:
    rules = ({"kind": "mlp", "bits": 8}, {"kind": "attention", "type": "q8_0"})
    plan = plan_of("auto_round,gguf:q4_k_s", rules)
    plain, types = plan.passes
    assert schemes(plain)["0.mlp.up_proj"] == Scheme(8, 32, True)
    assert schemes(plain)["0.self_attn.q_proj"] == Scheme(4, 32, True)
    assert schemes(types)["0.mlp.up_proj"] == Q4_K
    assert schemes(types)["0.self_attn.q_proj"] == Scheme(8, 32, True)
    assert [[r.index for r in one.rules] for one in (plain, types)] == [[0], [1]]


def test_file_types_that_come_out_alike_share_a_pass() -> None:
    alike = plan_of("gguf:q4_k_s,gguf:q4_k_m", num_hidden_layers=2)
    assert len(alike.passes) == 2
    rules = tuple({"kind": kind, "type": "q8_0"} for kind in ("mlp", "attention"))
    shared = plan_of("gguf:q4_k_s,gguf:q4_k_m", rules)
    assert len(shared.passes) == 1
    assert [output.format for output in shared.outputs] == ["gguf:q4_k_s", "gguf:q4_k_m"]


def test_a_rule_for_what_must_stay_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"layers\[0\]: all layers of this rule stay in 16 bit"):
        plan_of(rules=({"match": "down_proj", "type": "q4_k"},), intermediate_size=272)


def test_an_architecture_that_llama_cpp_does_not_run_is_refused() -> None:
    with pytest.raises(FormatError, match="model type 'opt' cannot be written"):
        plan_of(kind="OPTConfig", ffn_dim=512)


def test_a_window_that_llama_cpp_does_not_have_is_noted() -> None:
    notes = plan_of(kind="MistralConfig", sliding_window=64).notes
    assert any("full attention: up to 64 tokens" in note for note in notes)
    assert not any(
        "full attention" in n for n in plan_of(kind="MistralConfig", sliding_window=None).notes
    )


def test_towers_that_a_file_leaves_out_are_noted() -> None:
    config = {"model_type": "llava", "text_config": {"model_type": "llama"}}
    names = ["model.language_model.norm.weight", "model.vision_tower.a", "model.projector.b"]
    assert tower_notes(config, names) == [
        "the file holds the text model only: 2 tensors of model.projector, model.vision_tower are "
        "left out, and no mmproj file is written for them"
    ]
    assert tower_notes({"model_type": "llama"}, names) == []


def test_a_tokenizer_that_llama_cpp_cuts_otherwise_is_noted(tmp_path: Path) -> None:
    assert tokenizer_notes(None) == tokenizer_notes(tmp_path) == []
    for text in ("{", "[]", "{}", '{"normalizer": [1]}', '{"pre_tokenizer": 3}'):
        (tmp_path / "tokenizer.json").write_text(text)
        assert tokenizer_notes(tmp_path) == []
    (tmp_path / "tokenizer.json").write_text('{"normalizer": {"type": "NFC"}}')
    assert "NFC" in tokenizer_notes(tmp_path)[0]
