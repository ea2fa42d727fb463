"""Plans of a few layers, for the tests of configs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autoround.formats.format import Format
from autoround.formats.written import written_layers
from autoround.types import BlockPlan, LayerPlan, OutputPlan, Plan, Scheme

from ...tiny_quantized import make_plan

NAMES = ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj")
HEAD = LayerPlan("lm_head", (64, 128), None, "outside the decoder blocks")


def plan_of(*blocks: Sequence[Scheme | None], head: Scheme | None = None) -> Plan:
    """Return a plan of blocks whose layers have these schemes, in the order of NAMES."""
    made = []
    for index, schemes in enumerate(blocks):
        name = f"model.layers.{index}"
        layers = tuple(
            LayerPlan(f"{name}.{own}", (64, 128), scheme, "" if scheme else "kept", block=name)
            for own, scheme in zip(NAMES, schemes, strict=True)
        )
        made.append(BlockPlan(index, name, layers))
    return replace(make_plan(tuple(made)), kept=(replace(HEAD, scheme=head),))


def output_of(one: Format, plan: Plan) -> OutputPlan:
    """Return the output of a format with the layout that its schemes need."""
    schemes = {layer.scheme for layer in plan.layers if layer.scheme is not None}
    return OutputPlan(one.name, one.layout_for(schemes).name, "float16")


def read_back(one: Format, plan: Plan) -> dict[str, Scheme]:
    """Return what a format reads of its own config and of the names of the files' tensors."""
    output = output_of(one, plan)
    layout = next(layout for layout in one.layouts if layout.name == output.packing)
    layers = written_layers(plan.layers)
    tensors = {
        f"{layer.name}.{part}"
        for layer in layers
        for part in (layout.parts if layer.scheme is not None else ("weight",))
        if layout.ordered or not part.endswith("g_idx")
    }
    shapes = {layer.name: layer.shape for layer in layers}
    found = one.packed_layers(one.config(plan, output), shapes, tensors)
    assert {held.packing for held in found.values()} <= {output.packing}
    return {name: held.scheme for name, held in found.items()}


def schemes(plan: Plan) -> dict[str, Scheme]:
    """Return the schemes of a plan by the names of files."""
    layers = written_layers(plan.layers)
    return {layer.name: layer.scheme for layer in layers if layer.scheme is not None}
