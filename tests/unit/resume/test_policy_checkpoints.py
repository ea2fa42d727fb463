"""Runs that skip checkpoints of activations are stopped, go on, and write the same bytes."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from autoround.device.registry import open_device
from autoround.model.skeleton import open_model
from autoround.pipeline import run
from autoround.preparation import Request
from autoround.resume.journal import blocks_in, journal_of
from autoround.resume.records import read_facts
from autoround.session.checkpoints import EveryBlock, RareCheckpoints, Save
from autoround.session.session import choose_checkpoints
from autoround.types import Destination

from ...faults import count, killed
from ...runs import make_session, small
from ...tiny import KINDS as TINY
from ...tiny import make_byte_tokenizer, make_tokenizer
from .test_policy import BASE, IDS, Stop, content, on_disk, stop_after

#: Outputs that differ in what goes on from block to block.
KINDS: dict[str, dict[str, object]] = {
    "both streams": {},
    "one stream": {"tuning.quantized_inputs": False},
    "gptq": {"tuning.init_rounding": "gptq"},
    "head": {"lm_head.bits": 8, "lm_head.group_size": 32},
    "distilled": {"end_to_end.steps": 2, "end_to_end.batch_size": 2},
    "fresh": {"end_to_end.steps": 2, "end_to_end.batch_size": 2, "end_to_end.nsamples": 5},
    "gguf": {"output.format": "gguf:q2_k_s"},
}


class Some:
    """Saves after the blocks that are named, counted over the process; the rest is skipped."""

    def __init__(self, *blocks: int) -> None:
        self.blocks, self.asked = blocks, 0

    def save(self, save: Save) -> dict[str, int]:
        self.asked += 1
        return save() if self.asked - 1 in self.blocks else {}


def quantize(
    model: Path,
    output: Path,
    values: dict[str, object],
    policy: Any = None,
    *,
    sink: Callable[[Any], None] = lambda event: None,
    **means: Any,
) -> None:
    recipe = small({**BASE, **values})
    tokenizer = make_byte_tokenizer() if "gguf" in recipe.output.format else None
    request = Request(open_model(model), recipe, open_device("cpu"), "tiny", tokenizer, data=IDS)
    run(request, Destination(output, **means), sink=sink, checkpoints=policy)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four blocks, so that some lie between a checkpoint and where a run goes on."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    options = {**TINY["llama"].options, "num_hidden_layers": 4}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **options))
    folder = tmp_path_factory.mktemp("deep") / "llama"
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("kept", "blocks"), [((), 2), ((0,), 3), ((1,), 4)])
def test_a_run_without_checkpoints_goes_on_to_the_same_bytes(
    kind: str, kept: tuple[int, ...], blocks: int, model: Path, tmp_path: Path
) -> None:
    values = KINDS[kind]
    quantize(model, tmp_path / "whole" / "out", values)
    output = tmp_path / "stopped" / "out"
    with pytest.raises(Stop):
        quantize(model, output, values, Some(*kept), sink=stop_after(blocks, output))
    assert blocks_in(output) == blocks
    records = sorted(journal_of(output).glob("pass-1/*.safetensors"))
    skipped = [not read_facts(path)["streams"] for path in records]
    assert skipped == [number not in kept for number in range(blocks)]
    quantize(model, output, values, Some(), resume=True)
    assert content(output) == content(tmp_path / "whole" / "out")


@pytest.mark.parametrize("lost", [False, True])
def test_killed_at_random_changes_of_the_disk(lost: bool, model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "whole" / "out", {})
    expected = content(tmp_path / "whole" / "out")
    calls = len(count(lambda: quantize(model, tmp_path / "counted" / "out", {}, Some(1, 2))))
    rng = random.Random(lost)
    for at in rng.sample(range(1, calls), 4):
        place = tmp_path / f"killed-{at}"
        place.mkdir()
        work = partial(quantize, model, place / "out", {}, resume=True)
        left = place if lost else None
        killed(lambda work=work: work(Some(1, 2)), at=at, lost=left)
        killed(lambda work=work: work(Some(0)), at=rng.randrange(1, calls), lost=left)
        work(Some())
        assert content(place / "out") == expected, f"killed before call {at}"


@pytest.mark.parametrize("kind", ["both streams", "one stream"])
def test_a_run_that_is_stopped_again_and_again(kind: str, model: Path, tmp_path: Path) -> None:
    values = KINDS[kind]
    quantize(model, tmp_path / "whole" / "out", values)
    output = tmp_path / "stopped" / "out"
    for blocks in (1, 2):
        sink = stop_after(blocks, output)
        with pytest.raises(Stop):
            quantize(model, output, values, Some(), sink=sink, resume=blocks > 1)
        facts = read_facts(journal_of(output) / "pass-1" / "00000.safetensors")
        # What the run caught up with is kept: the next one need not.
        assert bool(facts["streams"]) == (blocks > 1)
    quantize(model, output, values, Some(), resume=True)
    assert content(output) == content(tmp_path / "whole" / "out")


def test_streams_that_move_to_the_disk_go_on_from_the_last_checkpoint(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize(model, tmp_path / "whole" / "out", {})
    output = tmp_path / "stopped" / "out"
    with pytest.raises(Stop):
        quantize(model, output, {}, Some(), sink=stop_after(1, output))
    on_disk(monkeypatch)
    quantize(model, output, {}, Some(), resume=True)
    assert content(output) == content(tmp_path / "whole" / "out")


def test_streams_in_files_are_kept_after_every_block(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk(monkeypatch)
    output = tmp_path / "out"
    with pytest.raises(Stop):
        quantize(model, output, {}, Some(), sink=stop_after(1, output))
    assert read_facts(journal_of(output) / "pass-1" / "00000.safetensors")["streams"]


def test_the_device_decides(model: Path) -> None:
    session = make_session(model, data=IDS)
    assert isinstance(choose_checkpoints(session), EveryBlock)
    runtime = copy(session.runtime)
    runtime.own_memory = True
    assert isinstance(choose_checkpoints(replace(session, runtime=runtime)), RareCheckpoints)
