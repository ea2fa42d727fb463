"""Conversions: bit for bit where that is possible, refused or reported where it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from autoround import api
from autoround.checkpoints.convert import convert
from autoround.cli.main import run
from autoround.errors import FormatError, ModelError
from autoround.inference.load import load
from autoround.model.skeleton import open_model
from autoround.recipe.load import load_recipe
from autoround.report.conversion import conversion_lines

from ..runs import SMALL, even_device, logits, tensors_of
from ..tiny import token_ids

__all__ = ["even_device"]

FORMATS = (
    "auto_round",
    "auto_round:auto_awq",
    "auto_gptq",
    "gptq_v2",
    "auto_awq",
    "compressed-tensors",
)
LAYER = "model.layers.1.mlp.up_proj"


def quantized(model: Path, out: Path, formats: str, **values: object) -> Path:
    given = {**SMALL, "tuning.iters": 2, "output.dtype": "auto", **values}
    recipe = load_recipe("default", values={**given, "output.format": formats})
    api.quantize(model, recipe, output_dir=out, data=token_ids(4, 16), device="cpu")
    return out


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_every_format_becomes_every_other_one_bit_for_bit(
    kind: str, sym: bool, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    values = {"scheme.sym": sym, "output.dtype": "float16"}
    out = quantized(checkpoint(kind), tmp_path / "out", ",".join(FORMATS), **values)
    for name in FORMATS:
        source = out / name.replace(":", "-")
        target = tmp_path / f"from-{source.name}"
        done = convert(source, target, formats=FORMATS)
        assert (done.lossy, done.shifted) == ({}, 0)
        for other in FORMATS:
            folder = other.replace(":", "-")
            expected, found = tensors_of(out / folder), tensors_of(target / folder)
            assert expected.keys() == found.keys()
            assert all(torch.equal(expected[n], found[n]) for n in expected), (name, other)
            assert not {f.name for f in (out / folder).iterdir()} ^ {
                *(f.name for f in (target / folder).iterdir()),
                *("plan.json", "recipe.yaml", "report.jsonl", "run.json", "report.html"),
                "README.md",
            }


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_other_widths_and_mixed_layers(
    bits: int, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    values = {"scheme.bits": bits, "scheme.sym": False, "ignore": ["re:0.*q_proj"]}
    out = quantized(checkpoint("llama"), tmp_path / "out", "auto_gptq,auto_round", **values)
    convert(out / "auto_gptq", tmp_path / "there", formats=["auto_round"])
    convert(tmp_path / "there", tmp_path / "back", formats=["auto_gptq"])
    first, second = tensors_of(out / "auto_gptq"), tensors_of(tmp_path / "back")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) for n in first)
    ids = token_ids(1, 12)
    there = logits(load(tmp_path / "there", device="cpu"), ids)
    assert torch.equal(there, logits(load(out / "auto_gptq", device="cpu"), ids))


@pytest.mark.parametrize("bits", [2, 3, 5, 6, 7])
@pytest.mark.parametrize("sym", [True, False])
def test_compressed_tensors_of_every_width_go_there_and_back(
    bits: int, sym: bool, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    values = {"scheme.bits": bits, "scheme.sym": sym, "output.dtype": "float16"}
    values["layers"] = [{"kind": "lm_head", "bits": bits}, {"kind": "attention", "bits": 8}]
    formats = ("auto_round", "compressed-tensors")
    out = quantized(checkpoint("llama"), tmp_path / "out", ",".join(formats), **values)
    for name, other in (formats, formats[::-1]):
        target = tmp_path / f"from-{name}"
        done = convert(out / name, target, formats=[other])
        assert (done.lossy, done.shifted) == ({}, 0)
        expected, found = tensors_of(out / other), tensors_of(target)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[n], found[n]) for n in expected)
    ids = token_ids(1, 12)
    first, second = (load(out / name, device="cpu", dtype=torch.float32) for name in formats)
    assert torch.equal(logits(first, ids), logits(second, ids))


def zero_at_the_end(model: Path, out: Path, *, top: int) -> Path:
    """Write gptq_v2 with a zero point of 0 in every group; codes go from 0 to ``top``."""
    quantized(model, out, "gptq_v2", **{"scheme.sym": False})
    tensors = tensors_of(out)
    tensors[f"{LAYER}.qzeros"].zero_()
    word = sum(top << 4 * k for k in range(8))
    tensors[f"{LAYER}.qweight"].fill_(word - 2**32 if word >= 2**31 else word)
    save_file(tensors, out / "model.safetensors")
    return out


def test_a_zero_point_that_cannot_be_held_moves_with_its_codes(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    source = zero_at_the_end(checkpoint("llama"), tmp_path / "a", top=14)
    done = convert(source, tmp_path / "b", formats=["auto_gptq"])
    assert (done.lossy, done.exact, done.shifted) == ({}, 14, 96 * 2)
    assert "192 groups moved by a level" in conversion_lines(done)[1]
    ids = token_ids(1, 12)
    expected = logits(load(source, device="cpu"), ids)
    assert torch.equal(logits(load(tmp_path / "b", device="cpu"), ids), expected)


def test_what_cannot_be_kept_is_refused_unless_allowed(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    source = zero_at_the_end(checkpoint("llama"), tmp_path / "a", top=15)
    with pytest.raises(FormatError, match=rf"layer {LAYER}: 6144 weights lose .*--allow-lossy"):
        convert(source, tmp_path / "b", formats=["auto_gptq"])
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    done = convert(source, tmp_path / "b", formats=["auto_gptq"], allow_lossy=True)
    assert list(done.lossy) == [LAYER]
    assert any(
        line.startswith(f"changed: {LAYER}: 6144 weights") for line in conversion_lines(done)
    )


@pytest.mark.parametrize("format_name", ["mlx", "fake"])
def test_formats_that_round_are_not_called_exact(
    format_name: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    what = "biases" if format_name == "mlx" else "weights"
    source = quantized(checkpoint("llama"), tmp_path / "a", "gptq_v2", **{"scheme.sym": False})
    with pytest.raises(FormatError, match=rf"\d+ {what} are not exact in float16 in {format_name}"):
        convert(source, tmp_path / "b", formats=[format_name, "auto_awq"])
    done = convert(source, tmp_path / "b", formats=[format_name, "auto_awq"], allow_lossy=True)
    assert (done.exact, len(done.lossy)) == (0, 14)
    # The codes are those of the source all the same.
    back = convert(tmp_path / "b" / "auto_awq", tmp_path / "c", formats=["gptq_v2"])
    assert back.exact == 14
    one, other = tensors_of(source), tensors_of(tmp_path / "c")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_symmetric_grids_are_exact_in_mlx(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    source = quantized(checkpoint("llama"), tmp_path / "a", "gptq_v2")
    assert convert(source, tmp_path / "b", formats=["mlx"]).exact == 14


def test_scales_in_bfloat16_are_carried_where_float16_holds_them(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    source = quantized(checkpoint("llama"), tmp_path / "a", "auto_gptq")
    tensors = tensors_of(source)
    scales = tensors[f"{LAYER}.scales"].bfloat16()
    tensors[f"{LAYER}.scales"] = scales
    save_file(tensors, source / "model.safetensors")
    assert convert(source, tmp_path / "b", formats=["auto_round"]).lossy == {}
    assert torch.equal(tensors_of(tmp_path / "b")[f"{LAYER}.scales"], scales.half())
    scales[0, 0] = 1e-9
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(FormatError, match=r"1 scales in torch.bfloat16 are not exact"):
        convert(source, tmp_path / "c", formats=["auto_round"])


def test_an_activation_order_goes_to_gptq_only(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    source = quantized(checkpoint("llama"), tmp_path / "a", "auto_gptq")
    tensors = tensors_of(source)
    mixed = torch.randperm(
        len(tensors[f"{LAYER}.g_idx"]), generator=torch.Generator().manual_seed(0)
    )
    tensors[f"{LAYER}.g_idx"] = tensors[f"{LAYER}.g_idx"][mixed]
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(FormatError, match=r"desc_act\), which auto_round cannot hold"):
        convert(source, tmp_path / "b", formats=["auto_round"])
    # Rounded anew where that is asked for, the layer named, and close to what it was.
    done = convert(source, tmp_path / "c", formats=["auto_round"], allow_lossy=True)
    assert list(done.lossy) == [LAYER]
    assert "rounded again" in done.lossy[LAYER]
    one, other = (load(tmp_path / n, device="cpu", dense=True) for n in ("a", "c"))
    before, after = (m.get_submodule(LAYER).weight for m in (one, other))
    assert 0 < float((before - after).square().mean() / before.square().mean()) < 0.02
    convert(source, tmp_path / "b", formats=["gptq_v2"])
    assert torch.equal(tensors_of(tmp_path / "b")[f"{LAYER}.g_idx"], tensors[f"{LAYER}.g_idx"])
    ids = token_ids(1, 12)
    expected = logits(load(source, device="cpu"), ids)
    assert torch.equal(logits(load(tmp_path / "b", device="cpu"), ids), expected)


def test_an_old_checkpoint_with_a_file_for_its_config(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    source = quantized(checkpoint("llama"), tmp_path / "a", "auto_gptq")
    config = json.loads((source / "config.json").read_text())
    del config["quantization_config"]
    (source / "config.json").write_text(json.dumps(config))
    old = {"bits": 4, "group_size": 32, "sym": True, "desc_act": False}
    (source / "quantize_config.json").write_text(json.dumps(old))
    assert convert(source, tmp_path / "b", formats=["auto_round"]).exact == 14
    with pytest.raises(ModelError, match=r"already quantized \(quant_method 'gptq'\)"):
        open_model(source)


def test_a_model_that_is_not_quantized_is_refused(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="is not quantized; `autoround quantize`"):
        convert(checkpoint("llama"), tmp_path / "b", formats=["auto_gptq"])


def test_a_format_that_cannot_hold_the_scheme_is_refused_before_any_work(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    source = quantized(checkpoint("llama"), tmp_path / "a", "auto_gptq", **{"scheme.bits": 3})
    with pytest.raises(FormatError, match="format auto_awq cannot hold W3 g32 sym"):
        convert(source, tmp_path / "b", formats=["auto_awq"])
    assert not (tmp_path / "b").exists()


def test_the_command(
    checkpoint: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = quantized(checkpoint("llama"), tmp_path / "a", "auto_gptq")
    assert run(["convert", str(source), "--to", "auto_round", "-o", str(tmp_path / "b")]) == 0
    assert "14 of 14 layers equal bit for bit" in capsys.readouterr().out
    assert run(["convert", str(source), "--to", "nothing", "-o", str(tmp_path / "c")]) == 7
    assert "'nothing' is no format; legal: auto_round" in capsys.readouterr().err
