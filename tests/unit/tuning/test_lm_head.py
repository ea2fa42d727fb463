"""What lies outside the blocks: heads, tied or not, and towers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from autoround.checkpoints.convert import convert
from autoround.errors import FormatError
from autoround.events import ignore
from autoround.inference.linear import QuantLinear
from autoround.inference.load import load
from autoround.pipeline import run
from autoround.planning.estimate import disk_bytes
from autoround.preparation import Request

from ...families import text
from ...runs import even_device, logits, open_device, open_model, small, tensors_of
from ...zoo import make_model

__all__ = ["even_device"]


def quantize(name: str, folder: Path, values: dict[str, object]) -> tuple[Any, Any]:
    model = make_model(name)
    model.save_pretrained(folder / "source")
    skeleton = open_model(folder / "source")
    request = Request(skeleton, small(values), open_device("cpu"), "tiny", None, text(4, 16))
    result = run(request, folder / "out", sink=ignore)
    return model, result


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_a_head_is_tuned_written_and_read(name: str, tmp_path: Path) -> None:
    values: dict[str, object] = {
        "lm_head.bits": 4,
        "tuning.iters": 20,
        "tuning.init_rounding": "nearest",
    }
    model, result = quantize(
        name, tmp_path, values | {"output.format": "auto_round,auto_gptq,compressed-tensors,fake"}
    )
    last = result.blocks[-1]
    assert last.loss_after < 0.8 * last.loss_before
    tied = name == "gemma2"
    assert any("tie_word_embeddings" in note for note in result.plan.notes) == tied
    plain = type(model).from_pretrained(tmp_path / "out" / "fake", dtype=torch.float32).eval()
    ids = text(2, 16, seed=3)
    wanted = logits(plain, ids)
    for form in ("auto_round", "auto_gptq", "compressed-tensors"):
        loaded = load(tmp_path / "out" / form, device="cpu", backend="torch", dtype=torch.float32)
        assert isinstance(loaded.lm_head, QuantLinear)
        assert not isinstance(loaded.get_input_embeddings(), QuantLinear)
        torch.testing.assert_close(logits(loaded, ids), wanted, rtol=1e-5, atol=1e-5)
    embedding = "model.embed_tokens.weight"
    kept = tensors_of(tmp_path / "out" / "auto_round")[embedding]
    assert torch.equal(kept, model.state_dict()[embedding].to(kept.dtype))
    skeleton = open_model(tmp_path / "source")
    sizes = [tensors_of(tmp_path / "out" / o.folder) for o in result.plan.outputs]
    written = sum(t.numel() * t.element_size() for one in sizes for t in one.values())
    assert written == disk_bytes(result.plan, skeleton)


def test_a_quantized_head_converts(tmp_path: Path) -> None:
    quantize("llama", tmp_path, {"lm_head.bits": 8, "tuning.iters": 0})
    source = tmp_path / "out"
    done = convert(source, tmp_path / "other", formats=["auto_gptq"])
    assert not done.lossy
    ids = text(2, 16)
    one, other = (
        load(p, device="cpu", backend="torch", dtype=torch.float32)
        for p in (source, done.output_dir)
    )
    torch.testing.assert_close(logits(one, ids), logits(other, ids), rtol=1e-3, atol=1e-3)
    with pytest.raises(FormatError, match=r"to auto_awq: it holds|keep the head"):
        convert(source, tmp_path / "awq", formats=["auto_awq"])


def test_matrices_the_class_drops_are_copied_and_named_as_kept(tmp_path: Path) -> None:
    """Engines run such layers, which stand among the blocks, with what a config says of them."""
    model = make_model("llama")
    model.save_pretrained(tmp_path / "source")
    file = tmp_path / "source" / "model.safetensors"
    extra = torch.randn(64, 128)
    tensors = load_file(file) | {"model.layers.2.eh_proj.weight": extra}
    save_file(tensors, file, metadata={"format": "pt"})
    skeleton = open_model(tmp_path / "source")
    recipe = small({"output.format": "auto_round,auto_gptq", "tuning.iters": 0})
    request = Request(skeleton, recipe, open_device("cpu"), "tiny", None, text(4, 16))
    run(request, tmp_path / "out", sink=ignore)
    for form in ("auto_round", "auto_gptq"):
        folder = tmp_path / "out" / form
        assert torch.equal(tensors_of(folder)["model.layers.2.eh_proj.weight"], extra)
        config = json.loads((folder / "config.json").read_text())["quantization_config"]
        kept = config["extra_config"] if form == "auto_round" else config["dynamic"]
        assert any("eh_proj" in name for name in kept)


def test_awq_refuses_a_quantized_head(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"lm_head.bits=4 in format auto_awq: its programs"):
        quantize("llama", tmp_path, {"lm_head.bits": 4, "output.format": "auto_awq"})
    assert not (tmp_path / "out").exists()


def test_towers_are_kept_unless_asked_for(tmp_path: Path) -> None:
    values: dict[str, object] = {"tuning.iters": 0, "tuning.init_scale": "minmax"}
    _, kept = quantize("llava", tmp_path / "kept", values)
    assert all(x.scheme is None for x in kept.plan.kept)
    assert any("quantize_vision" in x.reason for x in kept.plan.kept)
    _, done = quantize("llava", tmp_path / "done", values | {"quantize_vision": True})
    names = {x.name for x in done.plan.kept if x.scheme is not None}
    assert len(names) == 2 * 6
    assert all(".vision_tower." in name for name in names)
    loaded = load(tmp_path / "done" / "out", device="cpu", backend="torch", dtype=torch.float32)
    found = {n for n, m in loaded.named_modules() if isinstance(m, QuantLinear)}
    assert names < found
    assert not any("projector" in name or "lm_head" in name for name in found)
