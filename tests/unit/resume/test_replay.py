"""Finished blocks are read again from the store, and from the model what stays unquantized."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.errors import OutputError
from autoround.formats.gguf.tensors import dense
from autoround.resume.journal import PassJournal
from autoround.resume.replay import ReplayedBlocks, replay_block
from autoround.session.block_output import BlockOutput
from autoround.session.session import Session

from ...runs import make_session, run_pass
from ...tiny import make_model

VALUES: dict[str, object] = {
    "tuning.iters": 0,
    "tuning.init_scale": "minmax",
    "output.dtype": "bfloat16",
    "ignore": ["o_proj"],
}


@dataclass
class Source:
    """A model's weights, and the names that were read."""

    source: Any
    asked: list[str] = field(default_factory=list)

    def headers(self) -> Any:
        return self.source.headers()

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        wanted = list(names)
        self.asked += wanted
        found: dict[str, Tensor] = self.source.read(wanted)
        return found


def finished(folder: Path, model: Any) -> tuple[Session, list[BlockOutput], Source]:
    """Quantize all blocks and keep them; return what reads them again."""
    session = make_session(model, VALUES)
    source = Source(session.skeleton.source)
    session = replace(
        session,
        store=PassJournal(folder / "pass-1", folder / "streams"),
        skeleton=replace(session.skeleton, source=source),
    )
    outputs = run_pass(session)
    assert session.store is not None
    assert session.store.done == 2
    source.asked.clear()
    return session, outputs, source


def test_a_block_is_what_it_was(tmp_path: Path) -> None:
    session, outputs, _ = finished(tmp_path, make_model("llama"))
    assert [output.result.index for output in outputs[:2]] == [0, 1]
    for index in (0, 1):
        found, wanted = replay_block(session, index), outputs[index]
        assert repr(found.result) == repr(wanted.result)
        assert found.layers.keys() == wanted.layers.keys()
        assert all(torch.equal(dense(found.layers[n]), dense(w)) for n, w in wanted.layers.items())
        assert found.kept.keys() == wanted.kept.keys()
        for name, tensor in wanted.kept.items():
            assert torch.equal(found.kept[name], tensor)
            assert found.kept[name].dtype == tensor.dtype == torch.bfloat16


def test_a_model_that_changed_is_told_once_it_is_compared(tmp_path: Path) -> None:
    model = make_model("llama")
    session, _, _ = finished(tmp_path, model)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] += 1e-3
    replay_block(session, 0)
    with pytest.raises(OutputError, match="weights of model.layers.1 are not those"):
        replay_block(session, 1)
    replay_block(session, 1, check=False)


def test_quantized_weights_are_read_from_the_model_for_the_comparison_alone(
    tmp_path: Path,
) -> None:
    session, _, source = finished(tmp_path, make_model("llama"))
    blocks = ReplayedBlocks(session)
    assert len(blocks) == 2
    assert source.asked == []
    first = blocks[1]
    every = set(session.skeleton.names_under("model.layers.1"))
    assert set(source.asked) == every
    source.asked.clear()
    second = blocks[1]
    assert set(source.asked) == every - session.plan.blocks[1].quantized_tensors
    assert repr(second.result) == repr(first.result)
    assert second.kept.keys() == first.kept.keys()


def test_blocks_are_a_sequence(tmp_path: Path) -> None:
    session, outputs, _ = finished(tmp_path, make_model("llama"))
    blocks = ReplayedBlocks(session)
    results = [repr(output.result) for output in outputs[:2]]
    assert [repr(block.result) for block in blocks] == results
    assert [repr(block.result) for block in blocks[::-1]] == results[::-1]
    assert blocks[2:] == []
    for index in (2, -1):
        with pytest.raises(IndexError):
            blocks[index]
