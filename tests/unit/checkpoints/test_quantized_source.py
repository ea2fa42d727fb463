from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autoround.checkpoints.quantized_source import open_quantized
from autoround.errors import ModelError
from autoround.types import Scheme

from ...tiny_quantized import write_quantized


def test_layers_are_told_by_block_and_nothing_is_read(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "source"
    layers = write_quantized(checkpoint("llama"), folder, lambda name: Scheme(4, 32, True))
    source = open_quantized(folder)
    assert source.packed.keys() == layers.keys()
    assert source.method == "auto-round"
    assert {x.name for block in source.plan.blocks for x in block.quantized} == layers.keys()
    assert source.plan.kept  # the head
    assert source.transposed == set()
    assert source.file_bytes == (folder / "model.safetensors").stat().st_size


def test_weights_that_are_stored_transposed_are_known(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "source"
    layers = write_quantized(checkpoint("gpt2"), folder, lambda name: Scheme(4, 32, True))
    assert open_quantized(folder).transposed == layers.keys()


def test_a_model_in_16_bit_is_refused(checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match="is not quantized"):
        open_quantized(checkpoint("llama"))
