"""The quantization config: what is written is what is read."""

from __future__ import annotations

import json
from typing import Any

from autoround._version import __version__
from autoround.formats.auto_round.config import config, most_common
from autoround.types import PER_CHANNEL, PER_TENSOR, BlockPlan, LayerPlan, Plan, Scheme

from ....tiny_quantized import make_plan

W4, W4_ASYM, W2 = Scheme(4, 128, True), Scheme(4, 128, False), Scheme(2, 32, True)
NAMES = ("attn.q", "attn.k", "mlp.up", "mlp.down")
SHAPE = (64, 64)


def plan_of(*blocks: list[Scheme | None], prefix: str = "model.layers") -> Plan:
    """Make a plan from the schemes of every block's layers; None keeps a layer."""
    return make_plan(
        tuple(
            BlockPlan(
                i,
                f"{prefix}.{i}",
                tuple(
                    LayerPlan(f"{prefix}.{i}.{name}", SHAPE, scheme)
                    for name, scheme in zip(NAMES, block, strict=False)
                ),
            )
            for i, block in enumerate(blocks)
        )
    )


def on_disk(plan: Plan) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(json.dumps(config(plan, plan.outputs[0])))
    return read


def test_a_uniform_model_needs_no_exceptions() -> None:
    assert on_disk(plan_of([W4, W4], [W4, W4])) == {
        "quant_method": "auto-round",
        "packing_format": "auto_round:auto_gptq",
        "bits": 4,
        "group_size": 128,
        "sym": True,
        "data_type": "int",
        "block_name_to_quantize": "model.layers",
        "autoround_version": __version__,
    }


def test_kept_and_other_layers_are_exceptions() -> None:
    written = on_disk(plan_of([W4, W4, None], [W2, W4_ASYM, W4], prefix="a.h"))
    assert written["packing_format"] == "auto_round"
    assert (written["bits"], written["group_size"], written["sym"]) == (4, 128, True)
    assert written["extra_config"] == {
        "a.h.0.mlp.up": {"bits": 16, "data_type": "float"},
        "a.h.1.attn.q": {"bits": 2, "group_size": 32, "sym": True, "data_type": "int"},
        "a.h.1.attn.k": {"bits": 4, "group_size": 128, "sym": False, "data_type": "int"},
    }


def test_a_scale_of_the_tensor_is_written_as_one_of_each_channel() -> None:
    written = on_disk(plan_of([Scheme(8, PER_TENSOR, True)]))
    assert written["group_size"] == PER_CHANNEL


def test_most_common_is_the_first_among_equals() -> None:
    assert most_common([W2, W4, W4]) == W4
    assert most_common([W2, W4]) == W2
