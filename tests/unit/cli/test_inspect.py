from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Command


def test_a_quantized_folder(autoround: Command, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = autoround(
        "quantize", model, "--recipe", "rtn", "--group-size", 32, "-o", out,
        "--format", "auto_round,auto_gptq,auto_awq", "--set", "ignore=['down_proj']",
    )  # fmt: skip
    assert done.code == 0, done.err
    for folder, packing in (
        ("auto_round", "auto_round:auto_gptq"),
        ("auto_gptq", "gptq"),
        ("auto_awq", "awq"),
    ):
        found = json.loads(autoround("inspect", out / folder, "--json").out)
        (part,) = found["quantized"]
        assert part["what"] == f"W4 g32 sym, packing {packing}"
        # Of each block 2 square attention matrices, 2 of half the height, gate and up.
        assert (part["count"], part["weights"]) == (12, 2 * (3 * 64 * 64 + 2 * 96 * 64))
        # Every 32 weights have a float16 scale and a 4-bit zero point on disk.
        assert part["bits_per_weight"] >= 4 + 20 / 32
        files = sum(p.stat().st_size for p in (out / folder).glob("*.safetensors"))
        assert 0 < files - found["total"]["bytes"] < 20_000
        kept = {p["what"]: p for p in found["kept"]}
        dtype = "bfloat16" if folder == "auto_round" else "float16"
        assert kept[f"other matrices, {dtype}"]["weights"] == 2 * 64 * 96
        assert kept[f"embeddings, {dtype}"]["bits_per_weight"] == 16
        assert len(found["layers"]) == 12


def test_a_plain_model_in_words(autoround: Command, model: Path) -> None:
    done = autoround("inspect", model)
    assert (done.code, done.err) == (0, "")
    first, *rows = done.out.splitlines()
    assert first == f"{model}: LlamaForCausalLM, quantization: none"
    assert rows[-1].split()[0] == "total"
    assert rows[-1].endswith("32.00 bits per weight")


def test_layers_are_listed_when_asked(autoround: Command, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert autoround("quantize", model, "--recipe", "rtn", "--group-size", 32, "-o", out).code == 0
    done = autoround("inspect", out, "--layers")
    assert "  model.layers.1.mlp.up_proj: W4 g32 sym, auto_round:auto_gptq" in done.out.splitlines()


@pytest.mark.parametrize("content", ["{}", '{"quantization_config": {"quant_method": "fp8"}}'])
def test_what_cannot_be_inspected(autoround: Command, tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    done = autoround("inspect", tmp_path)
    assert done.code in (4, 7)
    assert "Traceback" not in done.err
