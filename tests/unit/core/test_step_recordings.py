"""A recording serves the next blocks of its kind, with their numbers, or is made anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor

from autoround.core.ops import TorchOps
from autoround.core.reconstruction import BlockKind, DeviceHooks, Reconstruction, Step
from autoround.core.step_recordings import KeptStep, StepRecordings, agree
from autoround.core.tune import tune
from autoround.core.validation import Tuned

from ._toy import forward, hyperparameters, problem

#: Of one device, as a run has them.
OPS = TorchOps()


class Graphs:
    """Records steps: a recording goes on to do what it was made of, whoever plays it."""

    def __init__(self) -> None:
        self.made = self.played = 0

    def __call__(self, step: Step, examples: Sequence[Tensor]) -> Step:
        self.made += 1

        def play(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
            self.played += 1
            return step(tensors)

        return play


def block(seed: int, *, gain: float = 1.0, code: str = "a", shift: float = 0.1) -> Reconstruction:
    """Make a block with a tensor of its own, and a number that its code is said to have."""
    given = problem(3, seed=seed)
    own = {"shift": torch.full((1,), shift)}

    def shifted(weights: Mapping[str, Tensor], inputs: Tensor, rows: Tensor | None) -> Tensor:
        return forward(weights, inputs * gain) + own["shift"]

    samples = given.samples._replace(targets=given.samples.targets * gain + shift)
    return given._replace(
        forward=shifted, samples=samples, capturable=True, kind=BlockKind(code, own, {})
    )


def tuned(
    given: Reconstruction,
    graphs: Graphs | None,
    recordings: StepRecordings | None,
    lr: float = 0.05,
) -> Tuned:
    hooks = DeviceHooks() if graphs is None else DeviceHooks(capture=graphs)
    times = hyperparameters(6)._replace(lr=lr)
    return tune(
        given._replace(hooks=hooks), times, ops=OPS, dtype=torch.float32,
        recordings=recordings,
    )  # fmt: skip


def same(first: Tuned, second: Tuned) -> bool:
    pairs = zip(first.roundings.values(), second.roundings.values(), strict=True)
    return first.scores.values == second.scores.values and all(
        torch.equal(a, b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True)
    )


def test_one_recording_serves_blocks_of_a_kind_with_their_own_numbers() -> None:
    graphs, recordings = Graphs(), StepRecordings()
    results = []
    for seed, shift, lr in ((0, 0.1, 0.05), (1, -0.4, 0.02), (2, 0.0, 0.05)):
        given = block(seed, shift=shift)
        results.append(tuned(given, graphs, recordings, lr))
        assert results[-1].best_step > 0
        assert same(results[-1], tuned(block(seed, shift=shift), None, None, lr))
    assert graphs.made == 1
    assert graphs.played == 6 + 7 + 7, "a step of each later block is compared first"
    assert not same(results[0], results[2])


@pytest.mark.parametrize(
    "other",
    [
        lambda: block(1, code="b"),
        lambda: block(1)._replace(kind=BlockKind("a", {}, {})),
        lambda: block(1)._replace(kind=block(1).kind._replace(shared={"x": torch.ones(1)})),  # type: ignore[union-attr]
        # Of the same kind by all that is said of it, with a number in its code that is another.
        lambda: block(1, gain=0.5),
    ],
)
def test_a_block_that_differs_is_recorded_itself(other: Callable[[], Reconstruction]) -> None:
    graphs, recordings = Graphs(), StepRecordings()
    tuned(block(0), graphs, recordings)
    result = tuned(other(), graphs, recordings)
    assert graphs.made == 2
    assert result.best_step > 0
    assert same(result, tuned(other(), None, None))


def test_without_the_numbers_of_the_block_the_comparison_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stale(self: KeptStep, other: KeptStep) -> None:
        """Leave the weights of the block before; what it moves is the new one's."""
        for name, tensor in self.copied.items():
            if not name.endswith(" 0"):
                tensor.data.copy_(other.copied[name])

    monkeypatch.setattr(KeptStep, "take", stale)
    graphs, recordings = Graphs(), StepRecordings()
    tuned(block(0), graphs, recordings)
    result = tuned(block(1), graphs, recordings)
    assert graphs.made == 2
    assert same(result, tuned(block(1), None, None))


def test_what_is_not_said_to_be_of_a_kind_is_recorded_each_time() -> None:
    graphs, recordings = Graphs(), StepRecordings()
    for seed in (0, 1):
        tuned(block(seed)._replace(kind=None), graphs, recordings)
    tuned(block(0), graphs, recordings)
    recordings.clear()
    tuned(block(1), graphs, recordings)
    assert graphs.made == 4


def test_shared_tensors_are_read_where_they_are() -> None:
    table, rates = torch.ones(4), torch.zeros(2)
    kept = KeptStep("a", {"rates": rates}, {"table": table}, {}, lambda tensors: tensors)
    again = kept._replace(shared={"table": table[:]})
    assert kept.serves(again)
    assert not kept.serves(kept._replace(shared={"table": table.clone()}))
    assert not kept.serves(kept._replace(copied={"rates": rates.double()}))
    assert not kept.serves(kept._replace(copied={"rates": torch.zeros(3)}))
    spread = kept._replace(copied={"rates": torch.zeros(1).expand(4)})
    assert not spread.serves(spread), "one number cannot take four"


def test_results_agree_but_for_the_order_of_sums() -> None:
    exact = [torch.tensor(2.0), torch.tensor([1.0, -1.0, 0.0])]
    assert agree([part * (1 + 1e-4) for part in exact], exact)
    assert not agree([exact[0], -exact[1]], exact)
    assert not agree([exact[0] * 1.1, exact[1]], exact)
    assert not agree([torch.tensor(float("nan")), exact[1]], exact)
    zero = [torch.zeros(3)]
    assert agree(zero, zero), "a weight that no token reached"
