"""Which arguments blocks are called with, for batches of any samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.errors import ModelError
from autoround.model.block_calls import BlockCalls, Call, Media, Trace, batch_media

IDS = torch.arange(4 * 6).reshape(4, 6)


def hidden_of(ids: Tensor) -> Tensor:
    return torch.stack([ids.float().sin(), ids.float().cos()], -1)


def plain(ids: Tensor) -> tuple[Any, dict[str, Any]]:
    return (torch.arange(ids.shape[1]),), {"mask": torch.ones(len(ids), 1), "cache": None}


def by_token(ids: Tensor) -> tuple[Any, dict[str, Any]]:
    """Positions in three rows before the batch, features in a nest, and what is always alike."""
    positions = torch.stack([ids, ids * 2, ids * 3])
    return (positions, ("flag", [ids.float()[:, :, None]])), {"scale": torch.ones(3), "n": 7}


def model(
    arguments: Callable[[Tensor], tuple[Any, dict[str, Any]]],
    *,
    between: Callable[[Tensor, Tensor], Tensor] = lambda hidden, ids: hidden,
    runs: Callable[[Tensor], Sequence[bool]] = lambda ids: (True, True, True),
    seen: list[int] | None = None,
) -> Callable[[Tensor, Sequence[Media], float], Trace]:
    """Return what traces a model of three blocks; ``between`` is done before each but the first."""

    def trace(ids: Tensor, media: Sequence[Media], factor: float) -> Trace:
        if seen is not None:
            seen.append(len(ids))
        hidden, states, calls = hidden_of(ids), [], []
        for index, run in enumerate(runs(ids)):
            hidden = between(hidden, ids) if index else hidden
            states.append(hidden if run else None)
            calls.append(Call(*arguments(ids)) if run else None)
            hidden = hidden * factor if run else hidden
        return Trace(tuple(states), tuple(calls))

    return trace


def equal(left: Call | None, right: Call) -> bool:
    assert left is not None
    pairs = zip(left.leaves, right.leaves, strict=True)
    same = (torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)
    return left.kwargs.keys() == right.kwargs.keys() and all(same)


def test_leaves_go_back_into_their_nesting() -> None:
    call = Call((1, (2, [3])), {"a": {"b": 4}, "c": None})
    assert call.leaves == [1, 2, 3, 4, None]
    assert call.with_leaves([x and x * 10 for x in call.leaves]) == Call(
        (10, (20, [30])), {"a": {"b": 40}, "c": None}
    )


def test_media_of_samples_are_joined_along_their_first_axis() -> None:
    one, two = ({"pixels": torch.full((n, 3), float(n))} for n in (1, 2))
    assert batch_media([one, two])["pixels"][:, 0].tolist() == [1, 2, 2]
    assert batch_media([]) == {}


def test_what_is_alike_for_all_samples_needs_no_rows_and_two_traces() -> None:
    seen: list[int] = []
    calls = BlockCalls(IDS, (), model(plain, seen=seen))
    assert seen == [1, 1]
    assert not calls.by_sample
    for _ in range(2):
        for index in range(3):
            assert equal(calls.call(index, 3, None), Call(*plain(IDS[:3])))
            assert calls.addition(index, 3, None) is None
    assert seen == [1, 1, 3]


@pytest.mark.parametrize("rows", [[2], [0, 3], [3, 1, 0, 1]])
def test_what_depends_on_the_tokens_is_as_if_the_batch_were_traced(rows: list[int]) -> None:
    chosen = torch.tensor(rows)
    trace = model(by_token, between=lambda hidden, ids: hidden + ids[:, :, None] * 2)
    calls = BlockCalls(IDS, (), trace)
    assert calls.by_sample
    wanted = trace(IDS[chosen], (), 1.0)
    for index in range(3):
        assert equal(calls.call(index, len(rows), chosen), Call(*by_token(IDS[chosen])))
        found, added = calls.addition(index, len(rows), chosen), wanted.additions()[index]
        assert (found is None) == (added is None) == (index == 0)
        if found is not None and added is not None:
            torch.testing.assert_close(found, added)


def test_only_a_single_sample_may_go_without_rows() -> None:
    one = BlockCalls(IDS[:1], (), model(by_token))
    assert one.by_sample
    assert equal(one.call(1, 1, None), Call(*by_token(IDS[:1])))
    with pytest.raises(ModelError, match="differently for each sample"):
        BlockCalls(IDS, (), model(by_token)).call(1, 1, None)


def test_a_sample_to_which_nothing_is_added_gets_zeros_beside_others() -> None:
    def between(hidden: Tensor, ids: Tensor) -> Tensor:
        return hidden + (ids[:, :1, None] == 6)

    calls = BlockCalls(IDS, (), model(by_token, between=between))
    found = calls.addition(1, 3, torch.tensor([0, 1, 3]))
    assert found is not None
    torch.testing.assert_close(found, torch.tensor([0.0, 1, 0])[:, None, None].expand(3, 6, 2))
    assert calls.addition(1, 2, torch.tensor([0, 3])) is None
    assert calls.addition(0, 2, torch.tensor([0, 1])) is None


def test_a_block_that_is_never_run_has_no_call() -> None:
    calls = BlockCalls(IDS, (), model(plain, runs=lambda ids: (True, False, True)))
    assert calls.runs == (True, False, True)
    assert calls.call(1, 2, None) is None
    trace = model(plain, runs=lambda ids: (False, True, True))(IDS, (), 1.0)
    assert torch.equal(trace.first, hidden_of(IDS))


@pytest.mark.parametrize(
    "between",
    [
        lambda hidden, ids: hidden * 3,
        lambda hidden, ids: hidden + hidden.mean(1, keepdim=True),
        lambda hidden, ids: (hidden + ids[:, :, None]) * 0.5,
    ],
)
def test_anything_but_an_addition_between_blocks_is_refused(
    between: Callable[[Tensor, Tensor], Tensor],
) -> None:
    with pytest.raises(ModelError, match="between blocks 0 and 1 other than by addition"):
        BlockCalls(IDS, (), model(plain, between=between))


def test_a_block_that_some_samples_skip_is_refused() -> None:
    with pytest.raises(ModelError, match="block 1 is run for some samples only"):
        BlockCalls(IDS, (), model(plain, runs=lambda ids: (True, bool(ids[0, 0] == 0), True)))


def test_arguments_that_some_samples_lack_are_refused() -> None:
    def arguments(ids: Tensor) -> tuple[Any, dict[str, Any]]:
        return (ids,), {"image": ids} if ids[0, 0] else {}

    with pytest.raises(ModelError, match="calls block 0 with more arguments"):
        BlockCalls(IDS, (), model(arguments))


def test_what_has_no_batch_axis_takes_samples_one_at_a_time() -> None:
    calls = BlockCalls(IDS, (), model(lambda ids: ((ids[0].float(),), {})))
    assert equal(calls.call(0, 1, torch.tensor([2])), Call((IDS[2].float(),), {}))
    assert equal(calls.call(0, 2, torch.tensor([2, 2])), Call((IDS[2].float(),), {}))
    with pytest.raises(ModelError, match=r"\(6,\).* no batch axis: use tuning.batch_size=1"):
        calls.call(0, 2, torch.tensor([2, 1]))


def test_shapes_that_differ_from_sample_to_sample_are_not_joined() -> None:
    def arguments(ids: Tensor) -> tuple[Any, dict[str, Any]]:
        return (torch.ones(len(ids), 2 + int(ids[0, 0]) % 4),), {}

    calls = BlockCalls(IDS, (), model(arguments))
    assert equal(calls.call(0, 2, torch.tensor([1, 3])), Call((torch.ones(2, 4),), {}))
    with pytest.raises(ModelError, match="another shape for each sample"):
        calls.call(0, 2, torch.tensor([0, 1]))


def test_every_sample_is_traced_where_there_are_images() -> None:
    def trace(ids: Tensor, media: Sequence[Media], factor: float) -> Trace:
        features = batch_media(media)["pixels"]
        states = (hidden_of(ids), hidden_of(ids) * factor + features[:, :, None])
        return Trace(states, (Call((), {}), Call((features,), {})))

    media = [{"pixels": torch.full((1, 6), float(n))} for n in range(4)]
    calls = BlockCalls(IDS, media, trace)
    rows = torch.tensor([3, 1])
    assert equal(calls.call(1, 2, rows), Call((torch.tensor([[3.0] * 6, [1.0] * 6]),), {}))
    added = calls.addition(1, 2, rows)
    assert added is not None
    torch.testing.assert_close(added[:, 0, 0], torch.tensor([3.0, 1.0]))
