from __future__ import annotations

import pytest

from autoround.model.blocks import decoder_blocks, matrices
from autoround.model.layer_roles import roles_of

from ... import zoo
from ...tiny import make_model

ATTENTION, MLP = frozenset({"attention"}), frozenset({"mlp"})
EXPERTS = frozenset({"mlp", "experts"})


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("llama", {"self_attn.q_proj": ATTENTION, "mlp.down_proj": MLP}),
        ("gpt2", {"attn.c_proj": ATTENTION, "mlp.c_proj": MLP}),
        ("gpt_neox", {"attention.dense": ATTENTION, "mlp.dense_h_to_4h": MLP}),
        ("bloom", {"self_attention.query_key_value": ATTENTION, "mlp.dense_4h_to_h": MLP}),
        ("opt", {"self_attn.out_proj": ATTENTION, "fc1": MLP, "fc2": MLP}),
    ],
)
def test_layers_have_the_kind_of_the_module_around_them(
    name: str, wanted: dict[str, frozenset[str]]
) -> None:
    assert wanted.items() <= kinds(make_model(name)).items()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "qwen2_moe",
            {
                "mlp.experts.gate_up_proj": EXPERTS,
                "mlp.experts.down_proj": EXPERTS,
                "mlp.shared_expert.up_proj": MLP,
            },
        ),
        ("lfm2", {"conv.in_proj": frozenset(), "feed_forward.w1": MLP}),
    ],
)
def test_experts_are_mlp_too_and_others_have_no_kind(
    name: str, wanted: dict[str, frozenset[str]]
) -> None:
    assert wanted.items() <= kinds(zoo.make_model(name)).items()


def kinds(model: object) -> dict[str, frozenset[str]]:
    return {
        m.name.removeprefix(block + "."): roles_of(model, m, block)  # type: ignore[arg-type]
        for block in decoder_blocks(model)  # type: ignore[arg-type]
        for m in matrices(model, block)  # type: ignore[arg-type]
    }
