"""Several formats from one run: the same codes in each, and a folder that is whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from autoround import api
from autoround.checkpoints.convert import convert
from autoround.errors import FormatError
from autoround.inference.load import load
from autoround.recipe.load import load_recipe
from autoround.types import RunResult, Scheme

from ..clients import needs_library
from ..packed import from_tensors
from ..runs import SMALL, even_device, logits, tensors_of
from ..tiny import COMMON, token_ids

__all__ = ["even_device"]

ALL = "auto_round,auto_round:auto_awq,auto_gptq,gptq_v2,auto_awq,compressed-tensors"
PACKINGS = {
    "auto_round-auto_awq": "auto_round:auto_awq",
    "auto_gptq": "gptq",
    "gptq_v2": "gptq_v2",
    "auto_awq": "awq",
    "compressed-tensors": "pack-quantized",
}


def quantize(model: Path, out: Path, formats: str, **values: object) -> RunResult:
    given = {**SMALL, "output.format": formats, "output.dtype": "auto", **values}
    recipe = load_recipe("default", values=given)
    return api.quantize(model, recipe, output_dir=out, data=token_ids(4, 16), device="cpu")


def parts(tensors: dict[str, Tensor], layer: str) -> dict[str, Tensor]:
    return {n.removeprefix(layer + "."): t for n, t in tensors.items() if n.startswith(layer + ".")}


@pytest.mark.parametrize("sym", [True, False])
def test_the_codes_of_all_formats_are_equal(
    sym: bool, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = quantize(checkpoint("llama"), out, ALL, **{"scheme.sym": sym})
    assert sorted(p.name for p in out.iterdir()) == sorted(["auto_round", *PACKINGS])
    assert result.disk_bytes == sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    layer, scheme = "model.layers.1.mlp.down_proj", Scheme(4, 32, sym)
    packing = "auto_round:auto_gptq" if sym else "auto_round:auto_awq"
    first = from_tensors(
        parts(tensors_of(out / "auto_round"), layer), scheme, packing=packing, name=layer
    )
    assert bool(first.zero.all())  # version 1 of GPTQ is among them
    for folder, packing in PACKINGS.items():
        found = from_tensors(
            parts(tensors_of(out / folder), layer), scheme, packing=packing, name=layer
        )
        assert torch.equal(found.codes, first.codes)
        assert torch.equal(found.scale, first.scale)
        assert torch.equal(found.zero, first.zero)
        assert (out / folder / "tokenizer.json").is_file()
    assert (out / "auto_gptq" / "quantize_config.json").is_file()
    assert json.loads((out / "auto_awq" / "config.json").read_text())["dtype"] == "float16"


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("sym", [True, False])
def test_every_format_loads_and_answers_alike(
    sym: bool, kind: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quantize(checkpoint(kind), out, ALL, **{"scheme.sym": sym, "output.dtype": "float32"})
    ids = token_ids(1, 12)
    first = logits(load(out / "auto_round", device="cpu"), ids)
    assert bool(torch.isfinite(first).all())
    for folder in PACKINGS:
        assert torch.equal(logits(load(out / folder, device="cpu"), ids), first), folder


def test_layers_kept_in_a_gptq_checkpoint_load_as_such(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    values = {"ignore": ["re:0.*q_proj", "down_proj"], "output.dtype": "float32"}
    quantize(checkpoint("llama"), out, "auto_round,auto_gptq,auto_awq", **values)
    ids = token_ids(1, 12)
    first = logits(load(out / "auto_round", device="cpu"), ids)
    for folder in ("auto_gptq", "auto_awq"):
        assert torch.equal(logits(load(out / folder, device="cpu"), ids), first)


def test_an_activation_order_is_followed(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    quantize(checkpoint("llama"), out, "auto_gptq", **{"output.dtype": "float32"})
    name = "model.layers.1.self_attn.q_proj"
    ids = token_ids(1, 12)
    model = load(out, device="cpu", dense=True)
    tensors = tensors_of(out)
    order = torch.arange(64, dtype=torch.int32) % 2
    tensors[name + ".g_idx"] = order
    save_file(tensors, out / "model.safetensors")
    layer = from_tensors(parts(tensors, name), Scheme(4, 32, True), packing="gptq", name=name)
    with torch.no_grad():
        for column, group in enumerate(order.tolist()):
            value = (layer.codes[:, column].float() - 8) * layer.scale[:, group].float()
            model.get_submodule(name).weight[:, column] = value
    expected = logits(model, ids)
    for dense in (True, False):
        found = logits(load(out, device="cpu", dense=dense), ids)
        assert torch.allclose(found, expected, atol=1e-5 if dense else 1e-3)


def test_a_group_that_does_not_exist_is_refused_by_name(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quantize(checkpoint("llama"), out, "auto_gptq")
    tensors = tensors_of(out)
    tensors["model.layers.1.self_attn.q_proj.g_idx"] += 1
    save_file(tensors, out / "model.safetensors")
    with pytest.raises(FormatError, match=r"layers\.1\.self_attn\.q_proj: g_idx names groups"):
        load(out, device="cpu")


def test_a_file_that_holds_nan_is_refused_by_name(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quantize(checkpoint("llama"), out, "auto_round")
    tensors = tensors_of(out)
    tensors["model.layers.1.mlp.up_proj.scales"][0, 3] = float("nan")
    save_file(tensors, out / "model.safetensors")
    with pytest.raises(FormatError, match=r"layers\.1\.mlp\.up_proj\.scales holds NaN"):
        load(out, device="cpu")


def test_a_bias_that_only_the_file_knows_counts(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quantize(checkpoint("llama"), out, "auto_gptq")
    ids = token_ids(1, 12)
    before = logits(load(out, device="cpu"), ids)
    tensors = tensors_of(out)
    tensors["model.layers.1.self_attn.q_proj.bias"] = torch.zeros(64, dtype=torch.float16)
    save_file(tensors, out / "model.safetensors")
    assert torch.equal(logits(load(out, device="cpu"), ids), before)
    tensors["model.layers.1.mlp.down_proj.bias"] = torch.ones(64, dtype=torch.float16)
    save_file(tensors, out / "model.safetensors")
    assert not torch.allclose(logits(load(out, device="cpu"), ids), before, atol=0.1)


def test_one_format_goes_straight_into_the_output(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    quantize(checkpoint("llama"), tmp_path / "out", "auto_gptq")
    assert (tmp_path / "out" / "config.json").is_file()
    assert "model.layers.0.mlp.up_proj.g_idx" in tensors_of(tmp_path / "out")


def test_a_layer_that_one_format_cannot_hold_is_kept_in_all(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    # The 96 inputs of down_proj are no multiple of the group size, which AWQ needs.
    values = {"scheme.group_size": 64}
    result = quantize(checkpoint("llama"), tmp_path / "out", "auto_round,auto_awq", **values)
    reasons = {x.name: x.reason for x in result.plan.blocks[0].layers if x.scheme is None}
    assert list(reasons) == ["model.layers.0.mlp.down_proj"]
    assert "which AWQ needs" in reasons["model.layers.0.mlp.down_proj"]
    assert "model.layers.0.mlp.down_proj.weight" in tensors_of(tmp_path / "out" / "auto_round")


def test_what_cannot_be_held_stops_before_any_work(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match="format auto_round:auto_awq cannot hold W3 g32 sym"):
        quantize(checkpoint("llama"), tmp_path / "out", ALL, **{"scheme.bits": 3})
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_run_of_several_formats_leaves_nothing(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autoround.export.safetensors_writer.output_config", stop)
    with pytest.raises(KeyboardInterrupt):
        quantize(checkpoint("llama"), tmp_path / "out", ALL)
    # What is finished is kept for --resume, and nothing of the output.
    assert [path.name for path in tmp_path.iterdir()] == ["out.journal"]


def test_values_too_large_for_float16_are_refused_by_name(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint("llama"))
    with torch.no_grad():
        model.lm_head.weight[3, 5] = 1e6
    recipe = load_recipe("rtn", values={"scheme.group_size": 32, "output.format": "auto_awq"})
    with pytest.raises(FormatError, match=r"tensor lm_head.weight holds values too large"):
        api.quantize(model, recipe, output_dir=tmp_path / "out", device="cpu")


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_transformers_reads_compressed_tensors(
    bits: int, sym: bool, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    needs_library(bits)
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    out = tmp_path / "out"
    values = {"scheme.sym": sym, "scheme.bits": bits, "ignore": ["re:0.*q_proj"]}
    values["layers"] = [{"kind": "lm_head", "bits": bits}]
    quantize(checkpoint("llama"), out, "compressed-tensors", **values)
    ids = token_ids(2, 12)
    ours = logits(load(out, device="cpu", dtype=torch.float32), ids)
    # The default route of transformers 5.23 makes room for unpacked zero points only.
    theirs = AutoModelForCausalLM.from_pretrained(
        out,
        dtype=torch.float32,
        quantization_config=CompressedTensorsConfig(dequantize=not sym),
    )
    assert torch.allclose(logits(theirs, ids), ours, atol=1e-2 * float(ours.std()))


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_transformers_reads_experts_of_compressed_tensors(
    bits: int, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    needs_library(3)  # and with 0.15 transformers reads no experts of any width
    from transformers import AutoModelForCausalLM

    rules = [{"kind": "experts", "bits": bits}, {"kind": "attention", "bits": 6}]
    out = tmp_path / "out"
    quantize(checkpoint("mixtral"), out, "compressed-tensors", layers=rules)
    ids = token_ids(2, 12)
    ours = logits(load(out, device="cpu", dtype=torch.float32), ids)
    theirs = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert torch.allclose(logits(theirs, ids), ours, atol=1e-2 * float(ours.std()))


@pytest.mark.parametrize(("bits", "sym"), [(3, False), (5, True), (6, False), (7, False)])
def test_rows_and_outputs_that_end_inside_a_word(bits: int, sym: bool, tmp_path: Path) -> None:
    needs_library(bits)
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    widths = {"hidden_size": 60, "intermediate_size": 100, "head_dim": 10}
    config = LlamaConfig(**{**COMMON, **widths})
    torch.manual_seed(bits)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    recipe = load_recipe(
        "rtn",
        values={
            "scheme.bits": bits,
            "scheme.sym": sym,
            "scheme.group_size": 20,
            "output.format": "compressed-tensors,fake",
        },
    )
    out = tmp_path / "out"
    result = api.quantize(tmp_path / "model", recipe, output_dir=out, device="cpu")
    assert sum(layer.scheme is not None for layer in result.plan.layers) == 14
    ids = token_ids(2, 12)
    plain = logits(AutoModelForCausalLM.from_pretrained(out / "fake", dtype=torch.float32), ids)
    ours = logits(load(out / "compressed-tensors", device="cpu", dtype=torch.float32), ids)
    torch.testing.assert_close(ours, plain, rtol=2e-3, atol=2e-3)
    theirs = AutoModelForCausalLM.from_pretrained(
        out / "compressed-tensors",
        dtype=torch.float32,
        quantization_config=CompressedTensorsConfig(dequantize=not sym),
    )
    torch.testing.assert_close(logits(theirs, ids), plain, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("bits", "sym", "size"), [(3, True, 32), (6, False, 32), (5, False, -1), (2, False, 16)]
)
def test_a_folder_that_the_library_compressed_is_read(
    bits: int, sym: bool, size: int, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    needs_library(bits)
    quantization = pytest.importorskip("compressed_tensors.quantization")
    utils = pytest.importorskip("compressed_tensors.quantization.utils")
    compressors = pytest.importorskip("compressed_tensors.compressors")
    arguments = {"strategy": "group", "group_size": size} if size > 0 else {"strategy": "channel"}
    weights = quantization.QuantizationArgs(num_bits=bits, symmetric=sym, **arguments)
    group = quantization.QuantizationScheme(targets=["Linear"], weights=weights)
    model = LlamaForCausalLM.from_pretrained(checkpoint("llama"), dtype=torch.float16)
    quantization.apply_quantization_config(
        model,
        quantization.QuantizationConfig(
            config_groups={"all": group}, format="pack-quantized", quantization_status="frozen"
        ),
    )
    layers = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    for layer in layers.values():
        weight = layer.weight.detach().float()
        rows = weight.reshape(len(weight), -1, size if size > 0 else weight.shape[1])
        scale, zero = utils.calculate_qparams(rows.amin(-1), rows.amax(-1), weights)
        layer.weight_scale.data = scale.half()
        if not sym:
            layer.weight_zero_point.data = zero.to(torch.int8)
    compressor = compressors.ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(tmp_path / "theirs")
    compressor.update_config(tmp_path / "theirs")
    compressor.decompress_model(model)
    ours = load(tmp_path / "theirs", device="cpu", dtype=torch.float32, dense=True)
    for name, layer in layers.items():
        assert torch.equal(ours.get_submodule(name).weight.half(), layer.weight.half()), name
    convert(tmp_path / "theirs", tmp_path / "back", formats=["compressed-tensors"])
    first, second = tensors_of(tmp_path / "theirs"), tensors_of(tmp_path / "back")
    assert all(
        torch.equal(first[f"{n}.weight_packed"], second[f"{n}.weight_packed"]) for n in layers
    )
