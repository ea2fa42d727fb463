"""Name and type of every tensor of a GGUF file, before anything is done."""

from __future__ import annotations

import math
from typing import Any

import gguf
import pytest
import torch
import transformers

from autoround.errors import FormatError
from autoround.formats.gguf.file_types import BASES
from autoround.gguf.arch import Target
from autoround.model.skeleton import Skeleton
from autoround.planning.gguf_tensors import IGNORED, GgufLayout, gguf_layout, tensor_bytes
from autoround.types import OutputPlan, Scheme

from ...runs import skeleton_on_meta

HIDDEN, INNER, BLOCKS = 256, 512, 8


def skeleton(kind: str = "LlamaConfig", **values: Any) -> Skeleton:
    config = getattr(transformers, kind)(
        **{
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "num_hidden_layers": BLOCKS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 320,
            "tie_word_embeddings": False,
            **values,
        }
    )
    with torch.device("meta"):
        return skeleton_on_meta(transformers.AutoModelForCausalLM.from_config(config))


def layout(
    file_type: str,
    model: Skeleton,
    *,
    types: tuple[tuple[str, str], ...] = (),
    ignored: dict[str, str] | None = None,
) -> GgufLayout:
    output = OutputPlan(f"gguf:{file_type}", f"gguf:{file_type}", "float32", types=types)
    return gguf_layout(model, output, ignored=ignored)


def kinds(found: GgufLayout) -> dict[str, str]:
    return {target.name.removesuffix(".weight"): kind for target, kind in found.tensors}


@pytest.mark.parametrize("kind", [*sorted(set(BASES.values())), "f16", "f32"])
def test_bytes_of_a_tensor_are_those_of_ggml(kind: str) -> None:
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.upper()]]
    for shape in ((512,), (3, 512), (2, 5, 256)):
        assert tensor_bytes(shape, kind) == math.prod(shape) // block * size


@pytest.mark.parametrize("file_type", BASES)
def test_every_tensor_of_the_model_is_in_the_file_once(file_type: str) -> None:
    model = skeleton()
    found = layout(file_type, model)
    assert sorted(s for target, _ in found.tensors for s in target.sources) == sorted(model.keys)
    assert found.size() == sum(tensor_bytes(t.shape, kind) for t, kind in found.tensors)
    assert found.fallen == {}
    own = found.schemes()
    blocks = [name for name in own if name.startswith("model.layers.") and "norm" not in name]
    assert len(blocks) == BLOCKS * 7
    assert all(own[name] is not None for name in blocks)


def test_a_medium_file_gives_some_value_and_down_matrices_more_bits() -> None:
    found = kinds(layout("q4_k_m", skeleton()))
    # The first and the last eighth of the blocks, and every third of those between.
    more = {0, 3, 6, 7}
    for name in ("attn_v", "ffn_down"):
        assert {i for i in range(BLOCKS) if found[f"blk.{i}.{name}"] == "q6_k"} == more
    assert {found[f"blk.{i}.attn_q"] for i in range(BLOCKS)} == {"q4_k"}
    assert found["output"] == "q6_k"
    assert found["token_embd"] == "q4_k"
    assert found["blk.0.attn_norm"] == found["output_norm"] == "f32"


def test_embeddings_that_are_the_head_as_well_are_held_as_one() -> None:
    found = kinds(layout("q4_k_m", skeleton(tie_word_embeddings=True)))
    assert found["token_embd"] == "q6_k"
    assert "output" not in found


def test_rows_that_are_no_multiple_of_a_block_fall_back_and_are_noted() -> None:
    found = layout("q4_k_m", skeleton(hidden_size=64, intermediate_size=272))
    own = kinds(found)
    assert (own["blk.1.attn_q"], own["blk.1.ffn_down"]) == ("q5_0", "f16")
    assert found.fallen["blk.1.attn_q.weight"] == "q5_0"
    assert found.fallen["blk.1.ffn_down.weight"] == "f16"
    note = next(n for n in found.notes(Scheme(4, 32, False, "q4_k"), ruled=False) if "fall" in n)
    assert f"{len(found.fallen)} tensors have rows that are no multiple" in note


def test_types_of_the_recipe_come_first_where_the_width_allows() -> None:
    types = (("model.layers.0.mlp.down_proj", "q3_k"), ("model.layers.1.mlp.down_proj", "f16"))
    found = layout("q4_0", skeleton(), types=types)
    own = kinds(found)
    assert [own[f"blk.{i}.ffn_down"] for i in range(3)] == ["q3_k", "f16", "q4_0"]
    assert found.fallen == {}
    narrow = layout("q4_0", skeleton(intermediate_size=96), types=types)
    assert kinds(narrow)["blk.0.ffn_down"] == narrow.fallen["blk.0.ffn_down.weight"] == "q4_0"


def test_what_is_ignored_is_in_float16_and_did_not_fall() -> None:
    model, name = skeleton(hidden_size=64), "model.layers.1.self_attn.q_proj"
    found = layout("q4_k_m", model, ignored={name: f"{IGNORED} ('q_proj')"})
    assert kinds(found)["blk.1.attn_q"] == "f16"
    assert "blk.1.attn_q.weight" not in found.fallen
    assert found.schemes()[name] is None


def moe() -> Skeleton:
    return skeleton(
        "Qwen3MoeConfig",
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=256,
        norm_topk_prob=True,
        num_hidden_layers=2,
    )


def test_stacked_experts_are_two_tensors_whose_bytes_are_all_of_them() -> None:
    model = moe()
    found = layout("q8_0", model)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    halves = [t for t, _ in found.tensors if t.sources == (name,)]
    assert [t.name for t in halves] == ["blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"]
    assert sum(math.prod(t.shape) for t in halves) == math.prod(model.header(name)[0])
    assert found.schemes()[name] == Scheme(8, 32, True)
    assert kinds(found)["blk.0.ffn_gate_inp"] == "f32"


def test_experts_stay_in_float16_only_where_the_recipe_ignores_them() -> None:
    name = "model.layers.0.mlp.experts.down_proj"
    asked = layout("q8_0", moe(), ignored={name: f"{IGNORED} ('experts')"})
    other = layout("q8_0", moe(), ignored={name: "a reason of its own"})
    assert kinds(asked)["blk.0.ffn_down_exps"] == "f16"
    assert kinds(other)["blk.0.ffn_down_exps"] == "q8_0"


def test_halves_of_different_types_have_no_scheme_and_are_said_to_be_rounded() -> None:
    gate, up = (
        Target(f"blk.0.ffn_{name}_exps.weight", ("experts",), (2, 4, 256))
        for name in ("gate", "up")
    )
    alike = GgufLayout("q4_k_m", ((gate, "q4_k"), (up, "q4_k")), {})
    mixed = GgufLayout("q4_k_m", ((gate, "q4_k"), (up, "q6_k")), {})
    asked = Scheme(4, 32, False, "q4_k")
    assert alike.schemes() == {"experts": asked}
    assert alike.notes(asked, ruled=False) == []
    assert mixed.schemes() == {"experts": None}
    assert mixed.notes(asked, ruled=False) == [
        "gguf:q4_k_m: rounded by searched scales, not tuned: "
        "blk.0.ffn_gate_exps.weight, blk.0.ffn_up_exps.weight"
    ]


def test_a_scheme_that_the_file_does_not_use_is_noted() -> None:
    found, other = layout("q4_0", skeleton()), Scheme(4, 128, True)
    assert found.notes(other, ruled=False)[0] == (
        "gguf:q4_0 sets the scheme of every tensor; W4 g128 sym is not used"
    )
    assert "sets the types that no rule does" in found.notes(other, ruled=True)[0]
    assert not any("is not used" in n for n in found.notes(Scheme(4, 32, True), ruled=False))


def test_matrices_of_one_tensor_cannot_have_two_types(monkeypatch: pytest.MonkeyPatch) -> None:
    model = skeleton()
    q, k = (f"model.layers.0.self_attn.{n}_proj" for n in "qk")
    merged = Target("blk.0.attn_qkv.weight", (f"{q}.weight", f"{k}.weight"), (384, HIDDEN))
    monkeypatch.setattr("autoround.gguf.arch.targets", lambda config, shapes: (merged,))
    assert kinds(layout("q4_0", model, types=((q, "q8_0"), (k, "q8_0")))) == {
        "blk.0.attn_qkv": "q8_0"
    }
    for types in (((q, "q8_0"), (k, "q6_k")), ((q, "q8_0"),)):
        with pytest.raises(FormatError, match="made of 2 matrices, which the rules .* different"):
            layout("q4_0", model, types=types)
