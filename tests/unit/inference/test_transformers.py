"""What transformers loads, generates with and saves through our quantizer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import autoround
from autoround.checkpoints.convert import convert
from autoround.errors import FormatError, UsageError
from autoround.inference.kernels import quant_layers
from autoround.inference.load import load
from autoround.recipe.load import load_recipe
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
def test_gptq_and_awq_load_and_are_saved_as_they_were(
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
        assert old == new
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
    torch.testing.assert_close(logits(compiled, ids), logits(pair[0], ids), atol=1e-4, rtol=1e-4)


def test_it_can_be_unpacked(quantized: Callable[..., Path]) -> None:
    model = from_pretrained(quantized("llama"), dtype=torch.float32)
    ids = token_ids(1, 8)
    packed = logits(model, ids)
    dense = model.dequantize()
    assert not list(quant_layers(dense))
    torch.testing.assert_close(logits(dense, ids), packed, atol=2e-3, rtol=2e-3)


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
assert not any(type(f).__module__.startswith("autoround") for f in sys.meta_path)
assert importlib.util.find_spec("transformers.quantizers.auto").origin.endswith("auto.py")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_experts_that_transformers_could_not_place_are_refused(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    recipe = load_recipe("rtn", overrides=["scheme.group_size=32"])
    autoround.quantize(checkpoint("mixtral"), recipe, output_dir=tmp_path / "out", device="cpu")
    with pytest.raises(FormatError, match=r"experts.*autoround\.load"):
        from_pretrained(tmp_path / "out")
    assert bool(logits(load(tmp_path / "out", device="cpu"), token_ids(1, 8)).isfinite().all())
