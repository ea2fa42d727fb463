"""Plans written out by hand, as serving engines meet them."""

from __future__ import annotations

import dataclasses
from typing import Any

from autoround.formats.registry import BUILT_IN
from autoround.planning.serving.facts import FormatFacts, format_facts
from autoround.types import BlockPlan, LayerPlan, OutputPlan, Plan, Scheme

PATH = "model.layers.0"
W4 = Scheme(4, 128, True)


def layer(name: str, scheme: Scheme | None = W4, **changes: Any) -> LayerPlan:
    reason = "" if scheme else "kept"
    values = {"shape": (256, 256), "reason": reason, "block": PATH, **changes}
    return LayerPlan(f"{PATH}.{name}", scheme=scheme, **values)


def experts(name: str, scheme: Scheme | None = W4, **changes: Any) -> LayerPlan:
    values = {"shape": (1024, 256), "files": (f"{PATH}.mlp.experts.{{}}.{name}_proj",), **changes}
    return layer(f"mlp.experts.{name}", scheme, experts=4, **values)


def plan_of(packing: str, *layers: LayerPlan) -> Plan:
    one = next(x for x in BUILT_IN if any(layout.name == packing for layout in x.layouts))
    return Plan(
        model="m",
        architecture="A",
        blocks=(BlockPlan(0, PATH, layers),),
        kept=(),
        recipe={},
        outputs=(OutputPlan(one.name, packing, "float16"),),
        dtype="float16",
        device="cpu",
        calibration="none",
    )


def facts(packing: str, *layers: LayerPlan, **changes: Any) -> FormatFacts:
    plan = plan_of(packing, *(layers or (layer("self_attn.q_proj"),)))
    return dataclasses.replace(format_facts(plan, plan.outputs[0]), **changes)
