"""Blocks are read ahead where a device has memory of its own, and come out the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.device.runtime import TorchRuntime, Uploaded
from autoround.errors import ModelError
from autoround.session.prefetch import BlockPrefetcher
from autoround.session.session import Session
from autoround.storage.checksum import sum_of

from ...runs import make_session
from ...tiny import make_model, token_ids


class Apart(TorchRuntime):
    """The host's memory as if it were a device's own; ``uploads`` are those begun."""

    def __init__(self) -> None:
        super().__init__("apart", torch.device("cpu"))
        self.own_memory = True
        self.uploads: list[dict[str, Tensor]] = []

    def upload(self, tensors: Mapping[str, Tensor]) -> Uploaded:
        self.uploads.append({name: tensor.clone() for name, tensor in tensors.items()})
        return Uploaded(self.uploads[-1])


@dataclass
class Source:
    """A model's weights, and which thread read which block."""

    source: Any
    fail: str = "nothing"

    def __post_init__(self) -> None:
        self.readers: list[tuple[str, int]] = []

    def headers(self) -> Any:
        return self.source.headers()

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        wanted = list(names)
        self.readers.append((wanted[0].split(".")[2], threading.get_ident()))
        if any(self.fail in name for name in wanted):
            raise ModelError("the disk is gone")
        found: dict[str, Tensor] = self.source.read(wanted)
        return found


class Store:
    done = 0


def opened(
    *, own: bool = True, fail: str = "nothing", values: dict[str, object] | None = None
) -> tuple[Session, Source, Apart]:
    session = make_session(
        make_model("gemma3_text"),
        {"output.dtype": "bfloat16", **(values or {})},
        data=token_ids(4, 16),
    )
    source, runtime = Source(session.skeleton.source, fail), Apart()
    runtime.own_memory = own
    skeleton = replace(session.skeleton, source=source)
    return replace(session, skeleton=skeleton, runtime=runtime), source, runtime


def settle(prefetcher: BlockPrefetcher, block: Any, runtime: Apart) -> None:
    """Let the reading come to its end, and the upload begin."""
    deadline = time.monotonic() + 20
    before = len(runtime.uploads)
    while len(runtime.uploads) == before and time.monotonic() < deadline:
        prefetcher.prefetch(block)
        time.sleep(0.001)


def test_blocks_that_are_read_ahead_are_those_that_are_read_at_need() -> None:
    (plain, _, _), (ahead, source, runtime) = opened(own=False), opened()
    one, other = BlockPrefetcher(plain), BlockPrefetcher(ahead)
    for block in plain.plan.blocks:
        wanted, found = one.next(block), other.next(block)
        for part in ("host", "by_param"):
            left, right = getattr(wanted, part), getattr(found, part)
            assert left.keys() == right.keys()
            assert all(
                torch.equal(left[n], right[n]) and left[n].dtype == right[n].dtype for n in left
            )
        if block.index + 1 < len(plain.plan.blocks):
            settle(other, block, runtime)
    assert [block for block, _ in source.readers] == ["0", "1", "2"]
    own = threading.get_ident()
    assert [thread == own for _, thread in source.readers] == [True, False, False]
    # The first is brought over when it is needed, the others before.
    assert len(runtime.uploads) == 3


def test_unquantized_tensors_are_in_the_dtype_they_are_written_in_and_names_are_of_both_kinds() -> (
    None
):
    session, _, _ = opened(own=False)
    found = BlockPrefetcher(session).next(session.plan.blocks[1])
    name = "input_layernorm.weight"
    assert found.host[f"model.layers.1.{name}"] is found.by_param[name]
    assert found.by_param[name].dtype == torch.bfloat16
    assert found.by_param["mlp.up_proj.weight"].dtype == torch.float32


@pytest.mark.parametrize("values", [{}, {"tuning.low_memory": True}])
def test_nothing_is_read_ahead_where_that_would_only_take_memory(values: dict[str, object]) -> None:
    session, source, runtime = opened(own=bool(values), values=values)
    prefetcher = BlockPrefetcher(session)
    prefetcher.next(session.plan.blocks[0])
    for _ in range(3):
        prefetcher.prefetch(session.plan.blocks[0])
    assert [block for block, _ in source.readers] == ["0"]
    assert runtime.uploads == []


@pytest.mark.parametrize("own", [True, False])
def test_the_greatest_magnitudes_of_weights_are_known_once_they_are_read(own: bool) -> None:
    session, _, runtime = opened(own=own)
    prefetcher, (first, second) = BlockPrefetcher(session), session.plan.blocks[:2]
    if own:
        settle(prefetcher, first, runtime)
    found = prefetcher.next(second)
    assert set(found.largest) == {layer.param for layer in second.quantized}
    for param, largest in found.largest.items():
        assert largest == float(found.by_param[param].abs().max()) > 0


def test_there_is_nothing_after_the_last_block() -> None:
    session, source, _ = opened()
    prefetcher = BlockPrefetcher(session)
    prefetcher.prefetch(session.plan.blocks[-1])
    assert source.readers == []


def test_a_block_is_read_and_brought_over_once_however_often_it_is_asked_for() -> None:
    session, source, runtime = opened()
    prefetcher, first = BlockPrefetcher(session), session.plan.blocks[0]
    settle(prefetcher, first, runtime)
    for _ in range(3):
        prefetcher.prefetch(first)
    assert len(source.readers) == len(runtime.uploads) == 1
    found = prefetcher.next(session.plan.blocks[1])
    assert found.by_param is runtime.uploads[0]


def test_another_block_than_the_one_that_was_read_ahead_is_read_at_need() -> None:
    session, _, runtime = opened()
    prefetcher = BlockPrefetcher(session)
    settle(prefetcher, session.plan.blocks[0], runtime)
    found = prefetcher.next(session.plan.blocks[2])
    assert all(name.startswith("model.layers.2.") for name in found.host)
    assert found.by_param is not runtime.uploads[0]


def test_an_error_of_reading_ahead_is_raised_where_the_block_is_needed() -> None:
    session, source, runtime = opened(fail="layers.1.")
    prefetcher, first = BlockPrefetcher(session), session.plan.blocks[0]
    prefetcher.next(first)
    runtime.uploads.clear()
    prefetcher.prefetch(first)
    deadline = time.monotonic() + 20
    while len(source.readers) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    for _ in range(5):
        prefetcher.prefetch(first)
    assert runtime.uploads == []
    with pytest.raises(ModelError, match="the disk is gone"):
        prefetcher.next(session.plan.blocks[1])


def test_a_sum_is_taken_of_what_the_model_holds_where_a_store_asks_for_it() -> None:
    session, _, _ = opened(own=False)
    block, store = session.plan.blocks[0], Store()
    assert BlockPrefetcher(session).next(block).source == 0
    held = session.skeleton.read(session.skeleton.names_under(block.name))
    kept: Any = store
    assert BlockPrefetcher(replace(session, store=kept)).next(block).source == sum_of(held)
