"""The share of a block's loss that a short tuning does not remove."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from autoround.core.rtn import Target
from autoround.data.tokens import Tokens
from autoround.mixed_precision.fisher_pass import (
    FisherPass,
    forward_original,
    open_block,
    open_fisher_pass,
    sampled_gradients,
)
from autoround.mixed_precision.tuning_gain import remaining_loss_fraction
from autoround.session.loaded_block import LoadedBlock
from autoround.session.session import Session
from autoround.tuning.targets import make_target
from autoround.types import Scheme

from ...runs import make_session
from ...tiny import make_model, token_ids

IDS = token_ids(8, 16)
LENGTHS = torch.tensor([16, 4, 16, 9, 16, 16, 2, 16])


class Opened(NamedTuple):
    fisher: FisherPass
    block: LoadedBlock
    targets: dict[str, Target]
    grads: Tensor


def session(values: dict[str, object] | None = None) -> Session:
    own: dict[str, object] = {"calibration.nsamples": 8, "tuning.batch_size": 4}
    return make_session(make_model("llama"), {**own, **(values or {})}, data=IDS)


def share(
    job: Session, *, bits: int = 2, iters: int = 15, factor: float = 1.0, noise: bool = False
) -> float:
    """Return the remaining share of the last block's loss."""
    with open_fisher_pass(job, None) as fisher:
        forward_original(fisher)
        grads = factor * sampled_gradients(fisher)
        if noise:
            torch.manual_seed(0)
            padding = torch.arange(16) >= LENGTHS[:, None]
            grads[padding] = 0
            for hidden in fisher.block_inputs[1:]:
                hidden[padding] += 50 * torch.randn(int(padding.sum()), 64)
        block = open_block(fisher, 1)
        targets = {
            x.name: make_target(
                job,
                replace(x, scheme=Scheme(bits, 32, False)),
                block.tensors[x.param],
                fisher.importance[1].get(x.path),
            )
            for x in block.plan.quantized
        }
        before = {name: t.groups.clone() for name, t in targets.items()}
        found = remaining_loss_fraction(fisher, block, targets, grads=grads, iters=iters)
        assert all(torch.equal(t.groups, before[name]) for name, t in targets.items())
        assert all(t.offsets is None for t in targets.values())
    return found


def test_more_steps_leave_less_and_never_more_than_there_was() -> None:
    job = session()
    shares = [share(job, iters=iters) for iters in (1, 8, 60)]
    assert all(0 < own <= 1 for own in shares)
    assert shares[2] < 0.8 * shares[0]


def test_it_is_a_share_whatever_the_size_of_the_gradients() -> None:
    job = session()
    assert share(job, factor=16.0) == pytest.approx(share(job), rel=1e-4)


def test_where_nothing_is_lost_nothing_is_gained() -> None:
    assert share(session(), factor=0.0) == 1.0


def test_the_same_run_gives_the_same_share_and_ranges_may_stay() -> None:
    job = session()
    assert share(job) == share(job)
    fixed = replace(job, plan=replace(job.plan, tuning=replace(job.tuning, tune_minmax=False)))
    assert share(fixed) != share(job)


def test_padding_neither_teaches_nor_counts() -> None:
    job = replace(session(), tokens=Tokens(IDS, LENGTHS, "some"))
    found = share(job, noise=True)
    assert found < 1
    # Taken for tokens, they would be all that is matched.
    whole = replace(job, tokens=Tokens(IDS, torch.full((8,), 16), "all"))
    assert found < share(whole, noise=True)
