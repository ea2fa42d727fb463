"""Tiny checkpoints quantized by hand, without the stages: round to nearest, then written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from autoround.core.rounding import dense_weight
from autoround.core.rtn import quantize_matrix
from autoround.formats.auto_round import config as auto_round_config
from autoround.formats.auto_round.format import AUTO_ROUND
from autoround.formats.registry import layout_named
from autoround.model.blocks import Matrix, is_transposed, matrices
from autoround.model.names import expert_files
from autoround.model.skeleton import Skeleton, open_model
from autoround.types import BlockPlan, LayerPlan, OutputPlan, Plan, QuantizedTensor, Scheme

Choose = Callable[[str], Scheme | None]


def nearest(weight: Tensor, scheme: Scheme) -> QuantizedTensor:
    """Round a weight [out, in] to the nearest levels of its min-max grid."""
    codes, scale, zero, _ = quantize_matrix(weight, scheme, search=False)
    return QuantizedTensor(codes, scale, zero, scheme)


def make_plan(blocks: tuple[BlockPlan, ...]) -> Plan:
    """Fill a plan around its blocks, with the packing that their schemes need."""
    schemes = {x.scheme for block in blocks for x in block.layers if x.scheme is not None}
    return Plan(
        model="tiny",
        architecture="Tiny",
        blocks=blocks,
        kept=(),
        recipe={},
        outputs=(OutputPlan(AUTO_ROUND.name, AUTO_ROUND.layout_for(schemes).name, "float32"),),
        dtype="float32",
        device="cpu",
        calibration="none",
    )


def write_quantized(source: Path, target: Path, choose: Choose) -> dict[str, QuantizedTensor]:
    """Quantize a checkpoint and write it; return the quantized layers by name.

    choose: gives the scheme of a layer by its name, None to keep it.
    """
    skeleton = open_model(source)
    blocks = tuple(_plan_block(skeleton, i, name, choose) for i, name in enumerate(skeleton.blocks))
    plan = make_plan(blocks)
    tensors = skeleton.read(skeleton.keys)
    layers: dict[str, QuantizedTensor] = {}
    for layer in (x for block in blocks for x in block.quantized):
        assert layer.scheme is not None
        weight = tensors.pop(layer.name + ".weight")
        layers[layer.name] = nearest(weight.t() if layer.transposed else weight, layer.scheme)
        parts = layout_named(plan.outputs[0].packing).to_tensors(layers[layer.name])
        tensors.update({f"{layer.name}.{part}": tensor for part, tensor in parts.items()})
    target.mkdir(parents=True)
    save_file({n: t.contiguous() for n, t in tensors.items()}, target / "model.safetensors")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = auto_round_config.config(plan, plan.outputs[0])
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return layers


def _plan_block(skeleton: Skeleton, index: int, name: str, choose: Choose) -> BlockPlan:
    def plan(m: Matrix) -> LayerPlan:
        if m.experts:
            files = expert_files(skeleton.names, skeleton.stacked[m.name])
            return LayerPlan(m.name, m.shape, None, "chosen", experts=m.experts, files=files)
        scheme = None if m.why_kept else choose(m.name)
        reason = m.why_kept or ("" if scheme else "chosen")
        return LayerPlan(m.name, m.shape, scheme, reason, m.transposed, m.bias)

    return BlockPlan(index, name, tuple(map(plan, matrices(skeleton.model, name))))


def dense_model(source: Path, layers: dict[str, QuantizedTensor]) -> Any:
    """Load the original by transformers and put the quantized layers' weights in, unpacked."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, layer in layers.items():
            module = model.get_submodule(name)
            weight = dense_weight(layer)
            module.weight.copy_(weight.t() if is_transposed(module) else weight)
    return model
