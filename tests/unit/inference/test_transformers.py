"""What transformers loads, generates with and saves through our quantizer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import autoround
from autoround.checkpoints.convert import convert
from autoround.errors import FormatError, UsageError
from autoround.inference import hf_quantizer
from autoround.inference.kernels import quant_layers
from autoround.inference.load import load
from autoround.types import Scheme

from ...runs import logits
from ...tiny import token_ids
from ...tiny_quantized import write_quantized

Checkpoint = Callable[[str], Path]
SCHEMES = {
    "llama": Scheme(4, 32, True),
    "qwen2": Scheme(2, 16, False),
    "gemma2": Scheme(8, 32, True),
}


def from_pretrained(folder: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def tensors(folder: Path) -> dict[str, Any]:
    return {n: t for file in folder.glob("*.safetensors") for n, t in load_file(file).items()}


@pytest.fixture(scope="module")
def quantized(
    checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Return a function that gives a quantized folder by kind and format, each made once."""
    made: dict[tuple[str, str], Path] = {}

    def make(kind: str = "llama", format: str = "auto_round") -> Path:
        if (kind, format) not in made:
            folder = tmp_path_factory.mktemp("quantized") / kind
            write_quantized(checkpoint(kind), folder, lambda name: SCHEMES[kind])
            if format != "auto_round":
                convert(folder, folder.parent / "other", formats=(format,))
                folder = folder.parent / "other"
            made[kind, format] = folder
        return made[kind, format]

    return make


@pytest.mark.parametrize("kind", SCHEMES)
def test_it_loads_what_our_loader_loads(kind: str, quantized: Callable[..., Path]) -> None:
    folder = quantized(kind)
    model = from_pretrained(folder, device_map="cpu", dtype=torch.float32)
    own = load(folder, device="cpu", dtype=torch.float32)
    ids = token_ids(2, 12)
    assert torch.equal(logits(model, ids), logits(own, ids))
    found = {name: layer.kernel for name, layer in quant_layers(model)}
    assert found == {name: layer.kernel for name, layer in quant_layers(own)}
    assert len(found) == 14


@pytest.mark.parametrize("format", ["auto_gptq", "gptq_v2", "auto_awq", "auto_round:auto_awq"])
def test_gptq_and_awq_load_and_are_saved_as_auto_round_with_their_tensors(
    format: str, quantized: Callable[..., Path], tmp_path: Path
) -> None:
    folder = quantized("llama", format)
    config = autoround.AutoRoundConfig(backend="torch")
    model = from_pretrained(folder, dtype=torch.float32, quantization_config=config)
    assert {layer.kernel for _, layer in quant_layers(model)} == {"torch"}
    expected = load(quantized("llama"), device="cpu", dtype=torch.float32, backend="torch")
    ids = token_ids(2, 12)
    # Kept tensors may have been written in 16 bits.
    torch.testing.assert_close(logits(model, ids), logits(expected, ids), atol=5e-3, rtol=5e-3)
    model.to(torch.float16).save_pretrained(tmp_path / "saved")
    before, after = tensors(folder), tensors(tmp_path / "saved")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before if "proj" in n)
    for name in ("quant_method", "bits", "group_size"):
        old, new = (
            json.loads((f / "config.json").read_text())["quantization_config"][name]
            for f in (folder, tmp_path / "saved")
        )
        assert new == ("auto-round" if name == "quant_method" else old)
    again = load(tmp_path / "saved", device="cpu", dtype=torch.float32, backend="torch")
    torch.testing.assert_close(logits(again, ids), logits(expected, ids), atol=5e-3, rtol=5e-3)


def test_what_our_loader_loaded_can_be_saved(
    quantized: Callable[..., Path], tmp_path: Path
) -> None:
    folder = quantized("llama")
    load(folder, device="cpu", dtype=torch.float32).save_pretrained(tmp_path / "saved")
    before, after = tensors(folder), tensors(tmp_path / "saved")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
    ids = token_ids(1, 8)
    one, other = (load(f, device="cpu") for f in (folder, tmp_path / "saved"))
    assert torch.equal(logits(one, ids), logits(other, ids))


def test_the_config_of_transformers_serves_as_well(quantized: Callable[..., Path]) -> None:
    from transformers import AutoRoundConfig

    model = from_pretrained(
        quantized("llama", "auto_gptq"), quantization_config=AutoRoundConfig(backend="torch")
    )
    assert {layer.kernel for _, layer in quant_layers(model)} == {"torch"}


@pytest.fixture(scope="module")
def pair(quantized: Callable[..., Path]) -> tuple[Any, Any]:
    """Return a packed and an unpacked model of the same weights."""
    folder = quantized("llama")
    packed = from_pretrained(folder, dtype=torch.float32)
    return packed, load(folder, device="cpu", dtype=torch.float32, dense=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"num_beams": 2, "num_return_sequences": 2},
    ],
    ids=str,
)
def test_it_generates_what_the_unpacked_model_does(
    pair: tuple[Any, Any], options: dict[str, Any]
) -> None:
    ids = token_ids(3, 7)
    mask = torch.ones_like(ids)
    ids[0, :3], mask[0, :3] = 2, 0  # a shorter text, padded on the left
    packed, dense = (
        model.generate(
            ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=2, **options
        )
        for model in pair
    )
    assert torch.equal(packed, dense)


def test_it_can_be_compiled(pair: tuple[Any, Any]) -> None:
    compiled: Any = torch.compile(pair[0], backend="aot_eager")
    ids = token_ids(2, 9)
    torch.testing.assert_close(logits(compiled, ids), logits(pair[0], ids), atol=3e-4, rtol=3e-4)


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_it_can_be_unpacked(
    kind: str, quantized_family: Callable[[str], Path], tmp_path: Path
) -> None:
    model = from_pretrained(quantized_family(kind), dtype=torch.float32)
    ids = token_ids(1, 8)
    packed = logits(model, ids)
    dense = model.dequantize()
    assert not list(quant_layers(dense))
    torch.testing.assert_close(logits(dense, ids), packed, atol=2e-3, rtol=2e-3)
    dense.save_pretrained(tmp_path)
    plain = from_pretrained(tmp_path, dtype=torch.float32)
    assert not hasattr(plain.config, "quantization_config")
    assert torch.equal(logits(plain, ids), logits(dense, ids))


def test_unknown_kernels_and_disks_are_refused(quantized: Callable[..., Path]) -> None:
    config = autoround.AutoRoundConfig(backend="abacus")
    with pytest.raises(UsageError, match="no kernel is named 'abacus'"):
        from_pretrained(quantized("llama"), quantization_config=config)
    with pytest.raises(UsageError, match="packed layers cannot be on disk"):
        from_pretrained(quantized("llama"), device_map={"model": "cpu", "lm_head": "disk"})


@pytest.mark.parametrize(
    "first",
    [
        "import autoround; assert 'transformers' not in sys.modules; import transformers",
        "import transformers.quantizers.auto, autoround",
        "import autoround.inference.hf_quantizer",
    ],
)
def test_ours_is_found_whichever_is_imported_first(first: str) -> None:
    code = f"""
import sys
{first}
from transformers.quantizers import auto
import importlib.util
assert auto.AUTO_QUANTIZER_MAPPING["auto-round"].__module__.startswith("autoround."), auto
assert auto.AUTO_QUANTIZATION_CONFIG_MAPPING["auto-round"].__module__.startswith("autoround.")
assert not any(getattr(f, "target", "") == auto.__name__ for f in sys.meta_path)
assert importlib.util.find_spec("transformers.quantizers.auto").origin.endswith("auto.py")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_base_model_and_its_heads_load_too(
    quantized_family: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    ids = token_ids(2, 12)
    for kind in ("mixtral", "gpt2"):
        folder = quantized_family(kind)
        whole = from_pretrained(folder, dtype=torch.float32)
        base = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            expected = whole.base_model(input_ids=ids).last_hidden_state
            assert torch.equal(base(input_ids=ids).last_hidden_state, expected)
        classes, report = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=3, dtype=torch.float32, output_loading_info=True
        )
        # A new head, which transformers says.
        assert report["missing_keys"] == {"score.weight"}
        classes.config.pad_token_id = 2
        assert list(quant_layers(classes))
        classes.save_pretrained(tmp_path / kind)
        again = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / kind, dtype=torch.float32
        )
        again.config.pad_token_id = 2
        assert torch.equal(logits(again, ids), logits(classes, ids))
        base.save_pretrained(tmp_path / "base" / kind)
        again = AutoModel.from_pretrained(tmp_path / "base" / kind, dtype=torch.float32)
        with torch.no_grad():
            assert torch.equal(again(input_ids=ids).last_hidden_state, expected)
    with pytest.raises(FormatError, match="layer lm_head: the files hold neither"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "base" / "mixtral")


def test_a_decoder_that_lacks_a_layer_is_refused(
    quantized: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    folder, name = quantized("llama"), "model.layers.1.mlp.up_proj"
    shutil.copytree(folder, tmp_path / "out")
    state = {n: t for n, t in tensors(folder).items() if not n.startswith(name)}
    save_file(state, tmp_path / "out" / "model.safetensors")
    with pytest.raises(FormatError, match=f"layer {name}: the files hold neither"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")


def test_devices_and_dtype_may_be_left_to_transformers(quantized: Callable[..., Path]) -> None:
    model = from_pretrained(quantized("llama"), device_map="auto", torch_dtype="auto")
    assert model.dtype == torch.float32
    ids = token_ids(1, 6)
    made = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=2)
    assert made.shape == (1, 10)
    with pytest.raises(UsageError, match="packed layers to the CPU"):
        from_pretrained(
            quantized("llama"), device_map={"model": "cpu", "lm_head": "meta", "": "cuda:0"}
        )


@pytest.mark.parametrize("format", ["auto_gptq", "mlx"])
@pytest.mark.parametrize("kind", ["mixtral", "gpt2"])
def test_other_formats_are_loaded_and_saved_as_they_were(
    kind: str, format: str, quantized_family: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    convert(quantized_family(kind), folder, formats=(format,))
    ids = token_ids(2, 12)
    own = load(folder, device="cpu", dtype=torch.float32, backend="torch")
    own.save_pretrained(tmp_path / "saved")
    before, after = tensors(folder), tensors(tmp_path / "saved")
    assert before.keys() == after.keys()
    packed = [n for n, t in before.items() if not t.is_floating_point()]
    assert packed
    assert all(torch.equal(before[n], after[n]) for n in packed)
    if format == "auto_gptq":
        config = autoround.AutoRoundConfig(backend="torch")
        model = from_pretrained(folder, dtype=torch.float32, quantization_config=config)
        assert torch.equal(logits(model, ids), logits(own, ids))


def test_it_is_said_once_who_loads(
    quantized: Callable[..., Path], caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    monkeypatch.setattr(hf_quantizer, "_SAID", [])
    for _ in range(2):
        from_pretrained(quantized("llama"))
    said = [r.message for r in caplog.records if r.name == "autoround"]
    assert len(said) == 1
    assert "autoround.use_for_transformers(False)" in said[0]
    caplog.clear()
    monkeypatch.setattr(hf_quantizer, "_SAID", [])
    load(quantized("llama"), device="cpu")
    config = autoround.AutoRoundConfig(backend="torch")
    from_pretrained(quantized("llama", "auto_gptq"), quantization_config=config)
    assert not [r for r in caplog.records if r.name == "autoround"]


def test_it_can_be_switched_off(quantized: Callable[..., Path]) -> None:
    autoround.use_for_transformers(False)
    try:
        # transformers' own asks for the package.
        with pytest.raises(ImportError, match="auto-round"):
            from_pretrained(quantized("llama"))
        assert list(quant_layers(load(quantized("llama"), device="cpu")))
    finally:
        autoround.use_for_transformers()
    assert list(quant_layers(from_pretrained(quantized("llama"))))


@pytest.mark.parametrize("some", [False, True])
def test_experts_that_are_not_all_packed_are_read_unpacked(
    some: bool, quantized_family: Callable[[str], Path], tmp_path: Path
) -> None:
    convert(quantized_family("mixtral"), tmp_path / "out", formats=("auto_gptq",))
    folder = tmp_path / "out"
    state = tensors(folder)
    plain = load(folder, device="cpu", dense=True, dtype=torch.float32)
    plain.save_pretrained(tmp_path / "plain")
    dense = tensors(tmp_path / "plain")
    names = {n.rpartition(".")[0] for n in state if ".experts." in n}
    names = {n for n in names if not some or n.endswith("layers.1.block_sparse_moe.experts.2.w3")}
    assert len(names) == (1 if some else 24)
    for name in names:
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            state.pop(f"{name}.{part}", None)
        state[f"{name}.weight"] = dense[f"{name}.weight"]
    save_file(state, folder / "model.safetensors")
    config = autoround.AutoRoundConfig(backend="torch")
    model = from_pretrained(folder, dtype=torch.float32, quantization_config=config)
    own = load(folder, device="cpu", dtype=torch.float32, backend="torch")
    ids = token_ids(2, 12)
    assert torch.equal(logits(model, ids), logits(own, ids))
    torch.testing.assert_close(logits(model, ids), logits(plain, ids), atol=1e-4, rtol=1e-4)
    if some:  # the experts of one layer; the others stay packed
        assert len([n for n, x in quant_layers(model) if x.of_experts]) == 12 + 8 - 4
    model.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved", device="cpu", dtype=torch.float32, backend="torch")
    torch.testing.assert_close(logits(again, ids), logits(own, ids))
