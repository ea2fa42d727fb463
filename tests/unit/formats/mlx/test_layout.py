"""MLX's layout, against words that MLX itself packed (tools/clients/golden_mlx.py)."""

# Tests: autoround/formats/mlx/tensors.py
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from autoround import api
from autoround.checkpoints.inspect import inspect_folder
from autoround.errors import FormatError
from autoround.evaluate.models import load_any
from autoround.formats.mlx.config import config, is_mlx, quantized_layers
from autoround.formats.mlx.layout import MLX
from autoround.model.files.locate import read_config
from autoround.types import BlockPlan, LayerPlan, QuantizedTensor, Scheme

from ....runs import NEAREST, even_device, logits, small, tensors_of
from ....tiny import token_ids
from ....tiny_quantized import make_plan, nearest

__all__ = ["even_device"]

GOLDEN = Path(__file__).parents[3] / "golden" / "mlx.npz"
WIDTHS = [(bits, size) for bits in (2, 3, 4, 5, 6, 8) for size in (32, 64, 128)]


@pytest.mark.parametrize(("bits", "size"), WIDTHS)
def test_words_are_those_of_mlx(bits: int, size: int) -> None:
    held = np.load(GOLDEN)
    parts = {p: held[f"w{bits}g{size}.{p}"] for p in ("weight", "scales", "biases", "dense")}
    scale, bias = (torch.from_numpy(parts[p]).float() for p in ("scales", "biases"))
    dense = torch.from_numpy(parts["dense"])
    groups = dense.reshape(5, -1, size)
    codes = torch.round((groups - bias[..., None]) / scale[..., None]).to(torch.uint8)
    assert codes.max() == 2**bits - 1
    layer = QuantizedTensor(
        codes.reshape(5, -1),
        torch.from_numpy(parts["scales"]),
        torch.ones_like(scale).to(torch.uint8),
        Scheme(bits, size, False),
    )
    ours = MLX.to_tensors(layer)["weight"]
    assert ours.dtype == torch.uint32
    assert np.array_equal(ours.numpy(), parts["weight"])


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize(("bits", "size"), WIDTHS)
def test_codes_scales_and_zero_points_come_back(bits: int, size: int, sym: bool) -> None:
    scheme = Scheme(bits, size, sym)
    rng = torch.Generator().manual_seed(bits)
    layer = nearest(torch.randn(6, 256, generator=rng) * 0.02, scheme)
    parts = MLX.to_tensors(layer)
    back = MLX.from_tensors(parts, scheme, name="a")
    assert torch.equal(back.codes, layer.codes)
    assert torch.equal(back.scale, layer.scale)
    assert torch.equal(back.zero, layer.zero)
    if sym:  # then what MLX computes is exact
        exact = -layer.scale.float() * layer.zero.float()
        assert torch.equal(parts["biases"].float(), exact)


def test_files_of_mlx_s_own_quantizer_are_refused() -> None:
    held = np.load(GOLDEN)
    parts = {p: torch.from_numpy(held[f"w4g64.{p}"]) for p in ("weight", "scales", "biases")}
    parts["biases"] = parts["biases"] + parts["scales"] * 0.4
    with pytest.raises(FormatError, match="no whole multiples"):
        MLX.from_tensors(parts, Scheme(4, 64, False), name="a")


def test_what_mlx_does_not_know_is_refused() -> None:
    assert "bits, not 7" in MLX.illegal(Scheme(7, 64, True))
    assert "not 16" in MLX.illegal(Scheme(4, 16, True))
    assert MLX.illegal(Scheme(4, 64, True)) == ""
    assert "multiple" in MLX.why_not((8, 96), Scheme(4, 64, True))
    with pytest.raises(FormatError, match="W7"):
        MLX.to_tensors(nearest(torch.randn(2, 64), Scheme(7, 64, True)))
    config = {"bits": 4, "group_size": 64, "mode": "mxfp4"}
    assert is_mlx(config)
    assert not is_mlx({**config, "quant_method": "gptq"})
    with pytest.raises(FormatError, match="mxfp4"):
        quantized_layers(config, ["a"], {"a.biases"})
    with pytest.raises(FormatError, match="layer a"):
        quantized_layers({"bits": 7, "group_size": 64}, ["a"], {"a.biases"})


def test_a_whole_run_comes_back(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    recipe = small(
        {
            **NEAREST,
            "output.format": "auto_round,mlx",
            "output.dtype": "float16",
            "ignore": ["v_proj"],
        }
    )
    api.quantize(checkpoint("llama"), recipe, output_dir=tmp_path / "a", data=token_ids(4, 16))
    config = read_config(tmp_path / "a" / "mlx")
    assert config["quantization"] == config["quantization_config"]
    assert config["quantization"]["model.layers.0.self_attn.v_proj"] is False
    held = tensors_of(tmp_path / "a" / "mlx")
    assert held["model.layers.0.mlp.up_proj.weight"].dtype == torch.uint32
    first, second = (
        load_any(tmp_path / "a" / name, device="cpu") for name in ("auto_round", "mlx")
    )
    torch.testing.assert_close(
        logits(first, token_ids(2, 8)), logits(second, token_ids(2, 8)), rtol=0, atol=2e-2
    )
    found = inspect_folder(tmp_path / "a" / "mlx")
    assert found.method == "mlx"
    assert sum(part.count for part in found.quantized) == 2 * 6
    assert found.quantized[0].weights > 0


def test_experts_stand_under_the_names_of_mlx_lm_too() -> None:
    w4, w3, w8 = Scheme(4, 32, True), Scheme(3, 64, True), Scheme(8, 32, True)
    base = "model.layers.0."
    experts = [
        LayerPlan(f"{base}mlp.experts.{i}.{part}_proj", (64, 64), w4 if part != "down" else w3)
        for i in range(3)
        for part in ("gate", "up", "down")
    ]
    w2 = LayerPlan(f"{base}block_sparse_moe.experts.0.w2", (64, 64), w8)
    found = config(make_plan((BlockPlan(0, "model.layers.0", (*experts, w2)),)))
    assert found["bits"] == 4
    assert found[f"{base}mlp.switch_mlp.down_proj"] == {"group_size": 64, "bits": 3}
    assert found[f"{base}block_sparse_moe.switch_mlp.down_proj"] == {"group_size": 32, "bits": 8}
    assert f"{base}mlp.switch_mlp.up_proj" not in found
