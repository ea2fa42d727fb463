from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from autoround.errors import ModelError
from autoround.model.convert import ConvertedSource
from autoround.model.files.packed import UnpackedSource, float4, float8
from autoround.model.files.source import ModuleSource
from autoround.model.skeleton import open_model

from ....tiny import make_model


def test_blocks_of_scales_are_multiplied_with_their_blocks() -> None:
    weight = torch.randn(5, 7).to(torch.float8_e4m3fn)
    scale = torch.rand(3, 2) + 0.5
    got = float8(weight, scale, (2, 4), name="w")
    for row in range(5):
        for column in range(7):
            wanted = weight[row, column].float() * scale[row // 2, column // 4]
            assert got[row, column] == wanted.bfloat16()


@pytest.mark.parametrize("shape", [(1,), (), (5, 1), (1, 1)])
def test_other_scales_are_spread(shape: tuple[int, ...]) -> None:
    weight = torch.randn(5, 7).to(torch.float8_e4m3fn)
    scale = torch.rand(shape) + 0.5
    wanted = (weight.float() * scale).bfloat16()
    assert torch.equal(float8(weight, scale, (128, 128), name="w"), wanted)


def test_scales_that_do_not_fit_are_refused() -> None:
    weight = torch.zeros(5, 7).to(torch.float8_e4m3fn)
    with pytest.raises(ModelError, match=r"tensor w: scales \(4, 2\) do not fit"):
        float8(weight, torch.ones(4, 2), (2, 4), name="w")


def test_four_bit_floats_against_numpy() -> None:
    """With the definition of OCP MX 1.0: sign, two bits of exponent, one of mantissa."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (2, 3, 2, 16), dtype=np.uint8)
    scales = rng.integers(120, 134, (2, 3, 2), dtype=np.uint8)

    def value(code: int) -> float:
        sign, exponent, mantissa = code >> 3, (code >> 1) & 3, code & 1
        size = mantissa * 0.5 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1)
        return -size if sign else size

    got = float4(torch.from_numpy(blocks), torch.from_numpy(scales))
    assert got.shape == (2, 64, 3)
    for e, r, g, b in np.ndindex(2, 3, 2, 16):
        for half, code in enumerate((blocks[e, r, g, b] & 15, blocks[e, r, g, b] >> 4)):
            wanted = value(int(code)) * 2.0 ** (int(scales[e, r, g]) - 127)
            assert float(got[e, 32 * g + 2 * b + half, r]) == wanted


def test_a_checkpoint_in_fp8_opens_as_one_in_16_bit(tmp_path: Path) -> None:
    make_model("qwen2_moe").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors, expected = load_file(file), {}
    for name in [n for n in tensors if n.endswith("proj.weight")]:
        packed = tensors[name].to(torch.float8_e4m3fn)
        scale = torch.rand(-(-packed.shape[0] // 32), -(-packed.shape[1] // 32)) + 0.5
        tensors |= {name: packed, f"{name}_scale_inv": scale}
        expected[name] = float8(packed, scale, (32, 32), name=name)
    save_file(tensors, file, metadata={"format": "pt"})
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(
        text.rstrip().removesuffix("}")
        + ', "quantization_config": {"quant_method": "fp8", "weight_block_size": [32, 32]}}'
    )
    skeleton = open_model(tmp_path)
    assert skeleton.unmapped == ()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert skeleton.header(name) == ((64, 64), torch.bfloat16)
    assert torch.equal(skeleton.read([name])[name], expected[name])
    stacked = "model.layers.1.mlp.experts.down_proj"
    for expert, matrix in enumerate(skeleton.read([stacked])[stacked]):
        one = f"model.layers.1.mlp.experts.{expert}.down_proj.weight"
        assert torch.equal(matrix, expected[one])


def test_scales_are_among_the_files_names() -> None:
    tensors = {
        "a": torch.zeros(4, 4).to(torch.float8_e4m3fn),
        "a_scale": torch.ones(1),
        "experts_blocks": torch.zeros(1, 2, 1, 16, dtype=torch.uint8),
        "experts_scales": torch.zeros(1, 2, 1, dtype=torch.uint8),
        "norm": torch.ones(4),
    }
    module = torch.nn.Module()
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor)
    source = UnpackedSource(ModuleSource(module), {})
    assert source.stored_names(["norm"]) == ["norm"]
    assert source.stored_names(["a", "experts"]) == list(tensors)[:-1]
    # A converted source passes names on.
    converted = ConvertedSource(source, torch.nn.Module())
    assert converted.stored_names(["a", "norm"]) == ["a", "a_scale", "norm"]
