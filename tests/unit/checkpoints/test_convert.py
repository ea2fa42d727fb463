"""Codes are carried from one format to another, and what cannot be is said before it is done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from autoround.checkpoints.convert import Conversion, convert
from autoround.core.rounding import dense_weight
from autoround.errors import FormatError, ModelError, OutputError
from autoround.formats.unpacking import UnpackingSource
from autoround.model.files.source import CheckpointSource
from autoround.model.files.stored import SINGLE
from autoround.types import QuantizedTensor, Scheme

from ...tiny_quantized import write_quantized

Checkpoint = Callable[[str], Path]
W4 = Scheme(4, 32, True)


@pytest.fixture
def source(checkpoint: Checkpoint, tmp_path: Path) -> tuple[Path, dict[str, QuantizedTensor]]:
    """Return a folder of 4 bits in which one layer is kept, and its layers."""
    folder = tmp_path / "source"
    layers = write_quantized(
        checkpoint("llama"), folder, lambda name: None if "1.mlp.up" in name else W4
    )
    (folder / "LICENSE").write_text("free")
    return folder, layers


def dense(folder: Path) -> dict[str, torch.Tensor]:
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    unpacking = UnpackingSource(CheckpointSource(folder), config)
    return {name: unpacking.dense(name) for name in unpacking.layers}


@pytest.mark.parametrize("name", ["auto_gptq", "auto_awq", "compressed-tensors", "mlx"])
def test_weights_are_equal_bit_for_bit(
    name: str, source: tuple[Path, dict[str, QuantizedTensor]], tmp_path: Path
) -> None:
    folder, layers = source
    found = convert(folder, tmp_path / "out", formats=[name])
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert found == Conversion(tmp_path / "out", "auto-round", (name,), 13, 0, {}, size)
    weights = dense(tmp_path / "out")
    assert weights.keys() == layers.keys()
    assert all(torch.equal(weights[n], dense_weight(layer)) for n, layer in layers.items())
    before, after = (load_file(f / SINGLE) for f in (folder, tmp_path / "out"))
    kept = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(after[kept], before[kept])
    assert (tmp_path / "out" / "LICENSE").read_text() == "free"


def test_several_formats_have_a_folder_each(
    source: tuple[Path, dict[str, QuantizedTensor]], tmp_path: Path
) -> None:
    names = ["auto_round:auto_awq", "fake"]
    found = convert(source[0], tmp_path / "out", formats=names)
    assert found.formats == tuple(names)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"auto_round-auto_awq", "fake"}
    plain = load_file(tmp_path / "out" / "fake" / SINGLE)
    assert "quantization_config" not in json.loads(
        (tmp_path / "out" / "fake" / "config.json").read_text()
    )
    for name, layer in source[1].items():
        torch.testing.assert_close(plain[f"{name}.weight"].float(), dense_weight(layer))


def alter(folder: Path, name: str, value: torch.Tensor) -> None:
    tensors = load_file(folder / SINGLE)
    tensors[name] = value
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


def test_nothing_is_left_where_a_layer_cannot_be_carried_over(
    source: tuple[Path, dict[str, QuantizedTensor]], tmp_path: Path
) -> None:
    folder, layers = source
    name = "model.layers.1.self_attn.q_proj"
    scales = layers[name].scale.t().contiguous()
    for value in (float("nan"), float("inf")):
        broken = scales.clone()
        broken[0, 0] = value
        alter(folder, f"{name}.scales", broken)
        with pytest.raises(FormatError, match=f"layer {name}: its scales hold NaN or infinity"):
            convert(folder, tmp_path / "out", formats=["auto_gptq"])
    alter(folder, f"{name}.scales", scales)
    alter(folder, "model.norm.weight", torch.full((64,), float("nan")))
    with pytest.raises(ModelError, match="tensor model.norm.weight holds NaN"):
        convert(folder, tmp_path / "out", formats=["auto_gptq"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_scales_that_are_not_exact_are_a_loss_that_must_be_allowed(
    source: tuple[Path, dict[str, QuantizedTensor]], tmp_path: Path
) -> None:
    folder, layers = source
    name = "model.layers.0.mlp.down_proj"
    scales = layers[name].scale.t().contiguous().bfloat16()
    scales[0, 0] = 2.0**-30
    alter(folder, f"{name}.scales", scales)
    with pytest.raises(FormatError, match=r"1 scales in torch.bfloat16 .* --allow-lossy"):
        convert(folder, tmp_path / "out", formats=["auto_gptq"])
    found = convert(folder, tmp_path / "out", formats=["auto_gptq"], allow_lossy=True)
    assert list(found.lossy) == [name]
    assert found.exact == 12


@pytest.mark.parametrize(
    ("formats", "words"),
    [
        (["gguf:q4_0"], "gguf:q4_0 has grids of its own"),
        (["auto_gptq", "no_such"], "no_such"),
    ],
)
def test_formats_that_take_no_codes_are_refused_before_any_work(
    formats: list[str], words: str, source: tuple[Path, dict[str, QuantizedTensor]], tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match=words):
        convert(source[0], tmp_path / "out", formats=formats)
    assert not (tmp_path / "out").exists()


def test_what_is_not_quantized_or_is_in_the_way_is_refused(
    checkpoint: Checkpoint, source: tuple[Path, dict[str, QuantizedTensor]], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="is not quantized; `autoround quantize`"):
        convert(checkpoint("llama"), tmp_path / "out", formats=["auto_gptq"])
    with pytest.raises(OutputError, match="is not empty"):
        convert(source[0], source[0], formats=["auto_gptq"])
