"""Which layers are compensated as one matrix, by the plan and by the run."""

from __future__ import annotations

import pytest
import torch

from autoround.core.gptq import STACK_ELEMENTS
from autoround.core.rtn import Target
from autoround.planning.gptq_layers import widest_stack
from autoround.session.session import Session
from autoround.tuning.rounding_init import _stacks
from autoround.tuning.targets import make_target
from autoround.types import LayerPlan, Scheme

from ...runs import NEAREST, make_session
from ...tiny import make_model

FOUR, THREE = Scheme(4, 32, True), Scheme(3, 32, True)


@pytest.fixture(scope="module")
def session() -> Session:
    return make_session(make_model("llama"), NEAREST)


def layer(name: str, rows: int, scheme: Scheme = FOUR) -> LayerPlan:
    return LayerPlan(name, (rows, 64), scheme, block="b")


@pytest.mark.parametrize(
    ("layers", "rows"),
    [
        ([layer("q", 128), layer("k", 64), layer("v", 64)], 256),
        # Panels of 64 rows alone stand together; others by themselves.
        ([layer("q", 128), layer("k", 32), layer("v", 64)], 192),
        ([layer("q", 96), layer("k", 64), layer("v", 64)], 128),
        ([layer("gate", 256), layer("up", 256, THREE)], 256),
        ([layer("alone", 40)], 40),
        ([], 0),
    ],
)
def test_the_plan_knows_what_the_run_puts_together(
    session: Session, layers: list[LayerPlan], rows: int
) -> None:
    targets: dict[str, Target] = {
        x.name: make_target(session, x, torch.ones(x.shape), None) for x in layers
    }
    stacks = _stacks(targets)
    assert max((sum(targets[n].shape[0] for n in stack) for stack in stacks), default=0) == rows
    assert widest_stack(layers, [layers]) == 64 * rows


def test_layers_of_other_inputs_and_what_is_too_large_stand_alone() -> None:
    some = [layer("q", 128), layer("o", 64)]
    assert widest_stack(some, [[some[0]], [some[1]]]) == 64 * 128
    # A layer that no GPTQ initialises is in no stack.
    assert widest_stack(some[1:], [some]) == 64 * 64
    huge = layer("huge", STACK_ELEMENTS // 64)
    assert widest_stack([huge, some[0]], [[huge, some[0]]]) == STACK_ELEMENTS
