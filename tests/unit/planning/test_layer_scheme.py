"""One matrix under a recipe: its scheme and its names in files, or why it is kept."""

from __future__ import annotations

import pytest

from autoround.model.blocks import Matrix, matrices
from autoround.model.skeleton import adopt_model
from autoround.planning.layer_scheme import (
    RequestedScheme,
    compile_patterns,
    matches,
    plan_block,
    plan_layer,
    plan_scheme,
)
from autoround.types import LayerPlan, OutputPlan, Scheme

from ...tiny import KINDS, make_model
from ...zoo import make_model as make_family

W4 = RequestedScheme(Scheme(4, 32, True), "")
PACKED = (OutputPlan("auto_round", "auto_round:auto_gptq", "float16"),)
PLAIN = (OutputPlan("fake", "fake", "float16"),)
NAMES = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.10.mlp.down_proj",
    "model.layers.1.mlp.experts.gate_up_proj",
    "lm_head",
)


def planned(
    kind: str,
    name: str,
    asked: RequestedScheme = W4,
    *,
    ignore: tuple[str, ...] = (),
    outputs: tuple[OutputPlan, ...] = PACKED,
) -> LayerPlan:
    skeleton = adopt_model(make_model(kind) if kind in KINDS else make_family(kind))
    found: dict[str, Matrix] = {m.name: m for m in matrices(skeleton.model, skeleton.blocks[0])}
    return plan_scheme(skeleton, found[f"{skeleton.blocks[0]}.{name}"], asked, ignore, outputs)


def test_a_matrix_gets_what_is_asked_and_its_names_in_files() -> None:
    layer = planned("mixtral", "mlp.experts.gate_up_proj")
    assert (layer.scheme, layer.reason, layer.experts) == (W4.scheme, "", 4)
    prefix = "model.layers.0.block_sparse_moe.experts.{}"
    assert layer.files == (f"{prefix}.w1", f"{prefix}.w3")
    assert planned("llama", "mlp.up_proj").files == ()
    assert planned("qwen2", "self_attn.q_proj").bias
    assert not planned("qwen2", "mlp.up_proj").bias


def test_the_first_reason_is_the_one_that_is_told() -> None:
    """The recipe's own word comes before what the model or a format says."""
    kept = RequestedScheme(None, "asked for 16 bits")
    assert planned("llama", "mlp.up_proj", kept).reason == "asked for 16 bits"
    router = planned("mixtral", "mlp.gate", kept)
    assert "router" in router.reason
    ignored = planned("mixtral", "mlp.gate", kept, ignore=("no_such", "mlp.*"))
    assert ignored.reason == "ignored by the recipe ('mlp.*')"
    assert router.scheme is ignored.scheme is None


def test_a_shape_that_a_packing_cannot_hold_is_kept() -> None:
    skeleton = adopt_model(make_model("llama"))
    odd = Matrix("model.layers.0.odd", (63, 64), False, False, "")
    found = plan_scheme(skeleton, odd, W4, (), PACKED)
    assert found.scheme is None
    assert "63" in found.reason
    assert plan_scheme(skeleton, odd, W4, (), PLAIN).scheme == W4.scheme
    assert plan_scheme(skeleton, odd, W4, (), (*PLAIN, *PACKED)) == found


def test_formats_without_a_place_for_turned_weights_say_so() -> None:
    outputs = (*PACKED, OutputPlan("mlx", "mlx", "float16"))
    layer = planned("gpt2", "mlp.c_fc", outputs=outputs)
    assert (layer.transposed, layer.scheme) == (True, None)
    assert layer.reason == "mlx has no place for weights stored as [in, out]"
    assert planned("gpt2", "mlp.c_fc").scheme == W4.scheme
    # Experts are written one by one, turned.
    assert planned("gpt_oss", "mlp.experts.down_proj", outputs=outputs).scheme == W4.scheme


def test_layers_of_a_block_are_told_which_it_is() -> None:
    skeleton = adopt_model(make_model("llama"))
    name = skeleton.blocks[1]
    made = (plan_layer(skeleton, m, None, "why") for m in matrices(skeleton.model, name))
    block = plan_block(1, name, made)
    assert (block.index, block.name, block.quantized) == (1, name, ())
    assert {layer.block for layer in block.layers} == {name}
    assert [layer.path for layer in block.layers][:2] == ["self_attn.q_proj", "self_attn.k_proj"]


@pytest.mark.parametrize(
    ("pattern", "hits"),
    [
        ("down_proj", [1]),
        ("mlp.down_proj", [1]),
        ("p.down_proj", []),
        ("layers.1", []),
        ("layers.1.*", [2]),
        ("layers.1*", [1, 2]),
        ("*", [0, 1, 2, 3]),
        ("?m_head", [3]),
        ("[a-l]*_head", [3]),
        (r"re:layers\.1\.", [2]),
        ("re:^head", []),
        ("re:head$", [3]),
        ("LM_HEAD", []),
        ("", []),
    ],
)
def test_a_pattern_is_a_name_the_end_of_a_path_a_glob_or_a_regex(
    pattern: str, hits: list[int]
) -> None:
    assert [i for i, name in enumerate(NAMES) if matches(pattern, name)] == hits
    compiled = compile_patterns(["nothing.like.it", pattern])
    assert [i for i, name in enumerate(NAMES) if compiled(name)] == hits


def test_no_patterns_name_nothing() -> None:
    assert not any(map(compile_patterns([]), NAMES))
