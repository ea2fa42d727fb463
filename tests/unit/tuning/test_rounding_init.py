"""Rounding is initialised by GPTQ where the plan says so and inputs were seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.core import gptq
from autoround.core.grids.grid import min_max_grid, to_groups
from autoround.core.grids.levels import integer_levels
from autoround.core.rtn import Target, round_to_nearest
from autoround.formats.gguf.tensors import dense
from autoround.model.importance import Importance
from autoround.session.session import Session
from autoround.settings import GPTQ, NEAREST, LayerTuning
from autoround.tuning import rounding_init
from autoround.tuning.rounding_init import with_gptq_offsets
from autoround.tuning.targets import make_target, quantize_targets
from autoround.types import BlockPlan

from ...runs import make_session
from ...tiny import make_model, token_ids

Q, K, DOWN = "self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"


@pytest.fixture(scope="module")
def session() -> Session:
    values: dict[str, object] = {
        "tuning.iters": 0,
        "tuning.init_rounding": "gptq",
        "tuning.init_scale": "minmax",
        "scheme.bits": 3,
    }
    return make_session(make_model("llama"), values, data=token_ids(4, 16))


def targets_of(session: Session, block: BlockPlan) -> tuple[dict[str, Target], dict[str, Tensor]]:
    weights = {x.name: session.skeleton.read([x.tensor])[x.tensor] for x in block.quantized}
    return {
        x.name: make_target(session, x, weights[x.name], None) for x in block.quantized
    }, weights


def inputs(width: int, seed: int = 0) -> Tensor:
    """Draw inputs whose channels move together."""
    generator = torch.Generator().manual_seed(seed)
    few = torch.randn(500, 8, generator=generator) @ torch.randn(8, width, generator=generator)
    return few + 0.3 * torch.randn(500, width, generator=generator)


def output_error(
    session: Session, block: BlockPlan, targets: dict[str, Target], name: str, x: Tensor
) -> float:
    """Return the squared error of a layer's outputs in float64."""
    layer = next(layer for layer in block.quantized if layer.name == name)
    found = quantize_targets([layer], targets, round_to_nearest(targets), ops=session.runtime.ops)
    weight = session.skeleton.read([layer.tensor])[layer.tensor].double()
    return float((x.double() @ (dense(found[name]).double() - weight).t()).square().sum())


def test_errors_are_compensated_for_the_inputs_that_were_seen(session: Session) -> None:
    block = session.plan.blocks[0]
    targets, _ = targets_of(session, block)
    seen, x, inner = Importance(hessians=True), inputs(64), inputs(96, 1)
    seen.add(Q, x)
    seen.add(K, x)
    seen.add(DOWN, inner)
    found = with_gptq_offsets(session, block, targets, seen)
    for path, given in ((Q, x), (K, x), (DOWN, inner)):
        name = f"{block.name}.{path}"
        offsets = found[name].offsets
        assert offsets is not None
        assert offsets.shape == targets[name].groups.shape
        before = output_error(session, block, targets, name, given)
        assert output_error(session, block, found, name, given) < 0.7 * before


def test_layers_of_one_input_are_as_if_each_had_its_own_hessian(session: Session) -> None:
    block = session.plan.blocks[0]
    targets, _ = targets_of(session, block)
    x = inputs(64)
    shared, apart = Importance(hessians=True), Importance(hessians=True)
    for path in (Q, K):
        shared.add(path, x)
        apart.add(path, x.clone())
    one = with_gptq_offsets(session, block, targets, shared)
    other = with_gptq_offsets(session, block, targets, apart)
    for path in (Q, K):
        left, right = (t[f"{block.name}.{path}"].offsets for t in (one, other))
        assert left is not None
        assert right is not None
        assert torch.equal(left, right)


def test_layers_that_saw_nothing_or_zeros_stay_at_the_nearest_level(session: Session) -> None:
    block = session.plan.blocks[0]
    targets, _ = targets_of(session, block)
    seen = Importance(hessians=True)
    seen.add(Q, torch.zeros(10, 64))
    found = with_gptq_offsets(session, block, targets, seen)
    assert found.keys() == targets.keys()
    assert all(target.offsets is None for target in found.values())
    plain = Importance()
    plain.add(Q, inputs(64))
    unseen = with_gptq_offsets(session, block, targets, plain)
    assert all(target.offsets is None for target in unseen.values())


def test_only_layers_whose_settings_say_so_are_compensated(session: Session) -> None:
    block = session.plan.blocks[0]
    targets, _ = targets_of(session, block)
    settings = replace(
        session.tuning,
        default=LayerTuning(NEAREST, 0.0),
        layers=((f"{block.name}.{K}", LayerTuning(GPTQ, 0.0)),),
    )
    chosen = replace(session, plan=replace(session.plan, tuning=settings))
    seen = Importance(hessians=True)
    for path in (Q, K):
        seen.add(path, inputs(64))
    found = with_gptq_offsets(chosen, block, targets, seen)
    assert [n for n, t in found.items() if t.offsets is not None] == [f"{block.name}.{K}"]
    # What is handed over stays as it is.
    assert all(target.offsets is None for target in targets.values())


def test_layers_of_one_input_are_compensated_as_one_matrix(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = session.plan.blocks[0]
    targets, _ = targets_of(session, block)
    seen = Importance(hessians=True)
    x, inner = inputs(64), inputs(96, 1)
    for layer in block.quantized:
        seen.add(layer.path, inner if layer.shape[1] == 96 else x)
    stacks: list[list[int]] = []
    stacked = rounding_init.stacked_gptq_offsets

    def observe(stack: list[Target], *given: Any, **named: Any) -> list[Tensor]:
        stacks.append([target.shape[0] for target in stack])
        return stacked(stack, *given, **named)

    monkeypatch.setattr(rounding_init, "stacked_gptq_offsets", observe)
    monkeypatch.setattr(gptq, "PANEL_ROWS", 16)
    together = with_gptq_offsets(session, block, targets, seen)
    assert max(map(len, stacks)) > 1
    assert sum(map(len, stacks)) == len(block.quantized)
    # Not a weight beside those of a first layer; then rows that are no whole panels.
    for name, limit in (("STACK_ELEMENTS", 0), ("PANEL_ROWS", 1000)):
        stacks.clear()
        with monkeypatch.context() as patch:
            patch.setattr(gptq, name, limit)
            alone = with_gptq_offsets(session, block, targets, seen)
        assert [len(stack) for stack in stacks] == [1] * len(block.quantized)
        for layer, target in alone.items():
            one, other = target.offsets, together[layer].offsets
            assert one is not None
            assert other is not None
            assert torch.equal(one, other)
    codes = [
        quantize_targets(block.quantized, found, round_to_nearest(found), ops=session.runtime.ops)
        for found in (together, alone)
    ]
    for layer in block.quantized:
        one, other = (dense(found[layer.name]) for found in codes)
        assert torch.equal(one, other)


def test_layers_of_other_levels_stand_in_a_stack_of_their_own(session: Session) -> None:
    block = session.plan.blocks[0]
    targets, weights = targets_of(session, block)
    name = f"{block.name}.{K}"
    groups = to_groups(weights[name].float(), 16)
    targets[name] = Target(groups, min_max_grid(groups, integer_levels(8, sym=False)), (32, 64))
    names = [f"{block.name}.self_attn.{x}_proj" for x in "qkv"]
    targets = {x: targets[x] for x in names}
    assert rounding_init._stacks(targets) == [[x] for x in names], "32 rows are no panel"
    targets = {x: replace_rows(target, 64) for x, target in targets.items()}
    assert rounding_init._stacks(targets) == [[names[0], names[2]], [names[1]]]


def replace_rows(target: Target, rows: int) -> Target:
    return target._replace(shape=(rows, target.shape[1]))


def test_errors_are_handed_on_in_whole_digits(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = session.plan.blocks[0]
    targets, _ = targets_of(session, block)
    importance = Importance(hessians=True)
    layer = next(x for x in block.quantized if x.path == Q)
    importance.add(Q, inputs(layer.shape[1]))
    seen: list[str] = []
    offsets = rounding_init.stacked_gptq_offsets

    def observe(*given: Any, **named: Any) -> list[Tensor]:
        seen.append(torch.get_float32_matmul_precision())
        return offsets(*given, **named)

    monkeypatch.setattr(rounding_init, "stacked_gptq_offsets", observe)
    torch.set_float32_matmul_precision("high")  # by the user's program, for its own products
    try:
        with_gptq_offsets(session, block, targets, importance)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ["highest"]
