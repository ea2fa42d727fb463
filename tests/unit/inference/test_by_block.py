"""A quantized checkpoint run with one block of it in memory: as when it is loaded whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from autoround.errors import FormatError
from autoround.inference.by_block import load_by_block, load_to_check
from autoround.inference.load import load
from autoround.model.blocks import decoder_blocks
from autoround.model.build import build_empty
from autoround.types import Scheme

from ...tiny import token_ids
from ...tiny_quantized import write_quantized

Checkpoint = Callable[[str], Path]
W4 = Scheme(4, 32, True)


def written(folder: Path, checkpoint: Path) -> tuple[Path, list[str]]:
    write_quantized(checkpoint, folder, lambda name: W4)
    return folder, decoder_blocks(build_empty(folder))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "gpt_neox", "mixtral", "apertus"])
def test_logits_are_those_of_the_whole_model_and_blocks_are_let_go(
    kind: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder, blocks = written(tmp_path / "out", checkpoint(kind))
    model, ids = load_by_block(folder, blocks), token_ids(2, 9)
    whole = load(folder, device="cpu", dtype=torch.float32, backend="torch")
    for _ in range(2):
        with torch.no_grad():
            got = model(input_ids=ids, use_cache=False).logits
            expected = whole(input_ids=ids, use_cache=False).logits
        assert torch.allclose(got, expected, atol=1e-5)
        for path in blocks:
            state = model.get_submodule(path).state_dict().items()
            # Buffers of a few numbers are computed when the class is built.
            assert [n for n, t in state if t.device.type != "meta" and t.numel() > 4] == []


def test_one_block_is_in_memory_at_a_time(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder, blocks = written(tmp_path / "out", checkpoint("llama"))
    model = load_by_block(folder, blocks)
    most = 0

    def count(module: nn.Module, args: object) -> None:
        nonlocal most
        states = (model.get_submodule(path).state_dict().values() for path in blocks)
        full = [any(t.device.type != "meta" for t in state) for state in states]
        most = max(most, sum(full))

    for path in blocks:
        model.get_submodule(path).register_forward_pre_hook(count)
    with torch.no_grad():
        model(input_ids=token_ids(1, 4), use_cache=False)
    assert most == 1


def test_errors_of_a_block_are_raised_when_it_runs(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder, blocks = written(tmp_path / "out", checkpoint("llama"))
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    name = next(n for n in tensors if n.startswith(blocks[1]) and n.endswith("scales"))
    tensors[name] = torch.full_like(tensors[name], float("inf"))
    save_file(tensors, file, metadata={"format": "pt"})
    model = load_by_block(folder, blocks)
    with pytest.raises(FormatError, match=f"{name} holds infinity"), torch.no_grad():
        model(input_ids=token_ids(1, 4), use_cache=False)


@pytest.mark.parametrize(("free", "whole"), [(2**40, True), (1000, False)])
def test_what_fits_is_loaded_whole(
    free: int, whole: bool, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder, blocks = written(tmp_path / "out", checkpoint("llama"))
    model = load_to_check(folder, blocks, free=free)
    first = next(iter(model.get_submodule(blocks[0]).state_dict().values()))
    assert (first.device.type != "meta") == whole
