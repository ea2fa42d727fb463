"""One forward of the original, and gradients of labels sampled from itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.core.sensitivity import sampled_gradient
from autoround.data.tokens import Tokens
from autoround.errors import OutputError
from autoround.mixed_precision.fisher_pass import (
    FisherPass,
    forward_original,
    open_block,
    open_fisher_pass,
    output_chunks,
    position_chunks,
    sampled_gradients,
)
from autoround.session.session import POSITION_CHUNK, Session

from ...runs import make_session
from ...tiny import make_model, token_ids

IDS = token_ids(5, 16)
LENGTHS = torch.tensor([16, 3, 16, 9, 1])


def session(kind: str = "llama", *, padded: bool = False) -> tuple[Any, Session]:
    model = make_model(kind)
    values: dict[str, object] = {"calibration.nsamples": 5, "tuning.batch_size": 2}
    job = make_session(model, values, data=IDS)
    if padded:
        job = replace(job, tokens=Tokens(IDS, LENGTHS, "some"))
    return model, job


def states(model: Any, blocks: tuple[str, ...]) -> list[Tensor]:
    """Return what goes into every block, and what comes out of the last one."""
    found: list[Tensor] = []

    def hook(module: Any, args: Any, kwargs: Any, out: Any) -> None:
        if not found:
            found.append(args[0] if args else kwargs["hidden_states"])
        found.append(out[0] if isinstance(out, tuple) else out)

    handles = [
        model.get_submodule(path).register_forward_hook(hook, with_kwargs=True) for path in blocks
    ]
    with torch.no_grad():
        model(IDS, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_inputs_of_all_blocks_are_those_of_the_model_itself(kind: str) -> None:
    model, job = session(kind)
    with open_fisher_pass(job, None) as fisher:
        forward_original(fisher)
        assert fisher.num_tokens == 5 * 16
        assert [rows.tolist() for rows in fisher.batches()] == [[0, 1], [2, 3], [4]]
        wanted = states(model, job.skeleton.blocks)
        assert len(fisher.block_inputs) == len(wanted) == 3
        for own, other in zip(fisher.block_inputs, wanted, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_statistics_of_inputs_are_of_every_block_and_leave_padding_out() -> None:
    _, job = session(padded=True)
    with open_fisher_pass(job, None) as fisher:
        forward_original(fisher)
        assert fisher.num_tokens == int(LENGTHS.sum())
        assert len(fisher.importance) == 2
        for index, found in enumerate(fisher.importance):
            block = open_block(fisher, index)
            norm = job.skeleton.model.get_submodule(f"{block.plan.name}.input_layernorm")
            weight = {"weight": block.tensors["input_layernorm.weight"]}
            inputs = torch.func.functional_call(norm, weight, (fisher.block_inputs[index],))
            real = inputs[torch.arange(16) < LENGTHS[:, None]]
            own = found.get("self_attn.q_proj")
            assert own is not None
            torch.testing.assert_close(own, real.double().square().sum(0).float())


def test_every_real_position_is_in_one_chunk() -> None:
    _, job = session(padded=True)
    with open_fisher_pass(job, None) as fisher:
        found = list(position_chunks(fisher))
        assert [(row, part.start, part.stop) for row, part in found] == [
            (row, 0, int(length)) for row, length in enumerate(LENGTHS)
        ]
        assert sum(chunk.shape[1] for chunk in output_chunks(fisher)) == fisher.num_tokens
        long = torch.tensor([2 * POSITION_CHUNK + 5, POSITION_CHUNK])
        tokens = Tokens(torch.zeros(2, 300, dtype=torch.int64), long, "long")
        other: FisherPass = fisher._replace(session=replace(job, tokens=tokens))
        parts = [(row, part.stop - part.start) for row, part in position_chunks(other)]
    assert parts == [(0, POSITION_CHUNK), (0, POSITION_CHUNK), (0, 5), (1, POSITION_CHUNK)]


def test_gradients_are_those_of_labels_drawn_with_the_seed() -> None:
    model, job = session(padded=True)
    with open_fisher_pass(job, None) as fisher:
        forward_original(fisher)
        found, last = sampled_gradients(fisher), fisher.block_inputs[-1].clone()
        assert torch.equal(sampled_gradients(fisher), found)
    generator = torch.Generator().manual_seed(job.tuning.seed)
    for row, length in enumerate(LENGTHS.tolist()):
        outputs = last[row, :length].double().requires_grad_()
        logits = model.double().lm_head(model.model.norm(outputs))
        of_logits = sampled_gradient(logits.detach().float(), generator=generator)
        wanted = torch.autograd.grad(logits, outputs, of_logits.double())[0]
        torch.testing.assert_close(found[row, :length].double(), wanted, rtol=1e-3, atol=1e-5)
        assert not found[row, length:].any()
        assert found[row, :length].any()


def test_other_seeds_draw_other_labels() -> None:
    _, job = session()
    found = []
    for seed in (0, 1):
        plan = replace(job.plan, tuning=replace(job.tuning, seed=seed))
        with open_fisher_pass(replace(job, plan=plan), None) as fisher:
            forward_original(fisher)
            found.append(sampled_gradients(fisher))
    assert not torch.equal(*found)


def test_a_small_set_needs_no_folder(tmp_path: Path) -> None:
    _, job = session()
    with open_fisher_pass(job, tmp_path / "work") as fisher:
        assert fisher.files is None
        fisher.release_pages()
    assert not (tmp_path / "work").exists()


def large() -> Session:
    """Return a pass over more block inputs than are held in memory."""
    _, job = session()
    rows = token_ids(1, 64).repeat(5600, 1)
    return replace(job, tokens=Tokens(rows, torch.full((5600,), 64), "many"))


def test_a_folder_that_cannot_be_used_is_an_error_of_the_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="file cannot be used"),
        open_fisher_pass(large(), tmp_path / "file"),
    ):
        pass


def test_a_large_set_is_on_the_disk_and_gone_in_the_end(tmp_path: Path) -> None:
    job = large()
    work = tmp_path / "work"

    def stop() -> None:
        with open_fisher_pass(job, work) as fisher:
            assert fisher.files is not None
            (there,) = work.iterdir()
            assert len(list(there.iterdir())) == 4
            assert torch.equal(fisher.block_inputs[0][0], fisher.block_inputs[0][-1])
            assert fisher.block_inputs[0][-1].any()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop()
    assert list(work.iterdir()) == []
