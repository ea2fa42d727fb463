"""What a conversion would do, held against what it does."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from autoround.checkpoints.conversion_plan import plan_conversion
from autoround.checkpoints.convert import convert
from autoround.errors import FormatError, ModelError, OutputError
from autoround.formats.registry import registry
from autoround.model.files.source import CheckpointSource
from autoround.types import Scheme

from ...tiny_quantized import write_quantized

Checkpoint = Callable[[str], Path]


def write(checkpoint: Checkpoint, folder: Path, scheme: Scheme) -> Path:
    """Quantize a tiny model in which one layer is kept; return its folder."""
    write_quantized(checkpoint("llama"), folder, lambda n: None if "1.mlp.up" in n else scheme)
    return folder


def tensor_bytes(folder: Path) -> int:
    headers = CheckpointSource(folder).headers().values()
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in headers)


@pytest.mark.parametrize("scheme", [Scheme(4, 32, True), Scheme(4, 32, False), Scheme(3, 64, True)])
def test_sizes_and_refusals_are_those_of_the_conversion(
    scheme: Scheme, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    source = write(checkpoint, tmp_path / "source", scheme)
    names = [name for name, one in registry().formats.items() if not one.gguf_types]
    plan = plan_conversion(source, formats=names)
    assert plan.disk_bytes == tensor_bytes(source)
    assert sum(part.layers for part in plan.parts) == 13
    assert [outlook.format for outlook in plan.formats] == names
    for outlook in plan.formats:
        out = tmp_path / outlook.format.replace(":", "-")
        if outlook.refusals:
            with pytest.raises(FormatError) as refused:
                convert(source, out, formats=[outlook.format])
            assert str(refused.value) == outlook.refusals[0].reason
        else:
            # What only the codes tell may lose something; the size is the same.
            convert(source, out, formats=[outlook.format], allow_lossy=True)
            assert outlook.disk_bytes == tensor_bytes(out)
    assert any(outlook.refusals for outlook in plan.formats) == (scheme.bits == 3)


def test_every_layer_that_is_refused_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def choose(name: str) -> Scheme:
        return Scheme(3 if name.endswith(("q_proj", "k_proj")) else 4, 32, True)

    layers = write_quantized(checkpoint("llama"), tmp_path / "source", choose)
    (outlook,) = plan_conversion(tmp_path / "source", formats=["auto_awq"]).formats
    assert outlook.disk_bytes is None
    refused = {refusal.layer for refusal in outlook.refusals} - {""}
    assert refused == {name for name, layer in layers.items() if layer.scheme.bits == 3}
    assert len(refused) == 4


def test_zero_points_that_may_have_to_move_are_said(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = write(checkpoint, tmp_path / "source", Scheme(4, 32, False))
    by_name = {x.format: x for x in plan_conversion(source, formats=["auto_gptq", "mlx"]).formats}
    assert "zero points below 1" in by_name["auto_gptq"].unknown[0]
    assert by_name["mlx"].unknown == ()


def test_nothing_is_written_and_the_folder_is_looked_at(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    source = write(checkpoint, tmp_path / "source", Scheme(4, 32, True))
    before = sorted(tmp_path.rglob("*"))
    assert plan_conversion(source, formats=["mlx"], output=tmp_path / "out").refusal is None
    with pytest.raises(OutputError, match="is not empty"):
        plan_conversion(source, formats=["mlx"], output=source)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_no_quantized_model_or_no_format_is_refused(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="is not quantized"):
        plan_conversion(checkpoint("llama"), formats=["mlx"])
    source = write(checkpoint, tmp_path / "source", Scheme(4, 32, True))
    with pytest.raises(FormatError, match="'abacus' is no format"):
        plan_conversion(source, formats=["abacus"])
    refusal = plan_conversion(source, formats=["mlx", "gguf:q4_0"]).refusal
    assert refusal is not None
    assert "grids of its own" in refusal.reason


def test_a_dtype_that_no_tensor_is_kept_in_is_refused_by_both(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    source = write(checkpoint, tmp_path / "source", Scheme(4, 32, True))
    config = source / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "float64"}))
    refusal = plan_conversion(source, formats=["gptq_v2"]).refusal
    assert refusal is not None
    assert "dtype 'float64' is none that tensors are kept in; write float16" in refusal.reason
    with pytest.raises(FormatError, match="dtype 'float64'"):
        convert(source, tmp_path / "out", formats=["gptq_v2"])
    assert not (tmp_path / "out").exists()
