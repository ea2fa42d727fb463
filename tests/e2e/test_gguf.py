"""GGUF files of whole runs, read by transformers and by llama.cpp's own package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from autoround import api
from autoround.core.grids.gguf_types import GGUF_TYPES
from autoround.errors import FormatError, ModelError, VerificationError
from autoround.evaluate.models import load_any
from autoround.export import gguf_writer as gguf_output
from autoround.formats.gguf import blocks as gguf_layout
from autoround.model.files.tokenizer import load_tokenizer
from autoround.model.skeleton import adopt_model
from autoround.recipe.load import load_recipe
from autoround.recipe.schema import Recipe
from autoround.types import RunResult

from ..runs import NEAREST, SMALL, even_device

__all__ = ["even_device"]

COMMON: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "initializer_range": 0.05,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 256,
    "norm_topk_prob": True,
}
DEEP = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 256,
    "first_k_dense_replace": 1,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
TEXT = ["The quick brown fox jumps over the lazy dog 1234 times.", "Tokens and tokens again!"] * 20


def tiny(kind: str = "LlamaConfig", **values: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**{**COMMON, **values})
    model = transformers.AutoModelForCausalLM.from_config(config).eval().float()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.0 if "bias" in name else 1.0, 0.2)
    return model


def byte_tokenizer() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=310,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def recipe_of(formats: str, **values: object) -> Recipe:
    given = {**SMALL, "output.format": formats, "output.dtype": "auto", **values}
    return load_recipe("default", values=given)


#: Samples and tokens of one: fewer than a layer has inputs, so tuning learns them alone.
TUNED_ON = (4, 16)


def quantize(model: Any, out: Path, formats: str, **values: object) -> RunResult:
    ids = np.random.default_rng(0).integers(3, 300, size=TUNED_ON).tolist()
    return api.quantize(
        model,
        recipe_of(formats, **values),
        output_dir=out,
        data=ids,
        tokenizer=byte_tokenizer(),
        device="cpu",
    )


def logits(model: Any, seed: int = 1, shape: tuple[int, int] = (2, 24)) -> Tensor:
    ids = torch.from_numpy(np.random.default_rng(seed).integers(3, 300, size=shape))
    with torch.no_grad():
        found: Tensor = model(input_ids=ids).logits
    return found


def file_of(folder: Path) -> Path:
    return next(folder.glob("*.gguf"))


def dense(folder: Path) -> dict[str, Tensor]:
    """Read all tensors by llama.cpp's package."""
    return {
        t.name: torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type)))
        for t in gguf.GGUFReader(file_of(folder)).tensors
    }


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("LlamaConfig", {"tie_word_embeddings": True}),
        ("MistralConfig", {"sliding_window": None}),
        ("Qwen2Config", {}),
        ("Qwen3Config", {"head_dim": 64}),
        ("Gemma2Config", {"head_dim": 64, "query_pre_attn_scalar": 64}),
        ("Phi3Config", {"original_max_position_embeddings": 64}),
        ("GPT2Config", {"n_embd": 256, "n_layer": 2, "n_head": 4, "n_positions": 64}),
        ("GemmaConfig", {"head_dim": 64}),
        ("Gemma3TextConfig", {"head_dim": 64, "query_pre_attn_scalar": 64}),
        ("MixtralConfig", {"num_local_experts": 4}),
        ("Qwen2MoeConfig", {"num_experts": 4, "moe_intermediate_size": 256}),
        ("Qwen3MoeConfig", EXPERTS),
        ("GPTNeoXConfig", {"num_key_value_heads": 4}),
        ("Glm4MoeConfig", {**DEEP, "head_dim": 64}),
    ],
)
def test_every_architecture_comes_back(kind: str, values: dict[str, Any], tmp_path: Path) -> None:
    model = tiny(kind, **values)
    quantize(model, tmp_path / "out", "gguf:q8_0", **NEAREST)
    read = load_any(tmp_path / "out", device="cpu")
    assert (tmp_path / "out" / "config.json").is_file()
    before, after = logits(model), logits(read)
    error = float((after - before).square().mean() / before.square().mean())
    # Eight bits, through a few layers of random weights; a row out of place gives above 0.1.
    assert error < 5e-3


@pytest.mark.parametrize("formats", ["gguf:q2_k_s", "gguf:q4_0", "auto_round,gguf:q4_0"])
def test_experts_in_one_tensor_are_rounded_and_pass_the_last_check(
    formats: str, tmp_path: Path
) -> None:
    model = tiny("MixtralConfig", num_local_experts=4)
    out = tmp_path / "out"
    quantize(model, out, formats, **NEAREST)
    held = gguf.GGUFReader(file_of(out / "gguf-q4_0" if "," in formats else out)).tensors
    experts = [t.tensor_type.name for t in held if "_exps" in t.name]
    assert len(experts) == 6
    assert set(experts) <= {"Q2_K", "Q3_K", "Q4_0"}


def test_experts_that_differ_from_the_rounded_ones_fail_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("MixtralConfig", num_local_experts=4)
    real = gguf_output.WrittenGguf.block

    def other(self: Any, *args: Any) -> dict[str, Tensor]:
        found = real(self, *args)
        return {n: t.flip(0) if n.endswith("experts.down_proj") else t for n, t in found.items()}

    monkeypatch.setattr(gguf_output.WrittenGguf, "block", other)
    with pytest.raises(VerificationError, match="format gguf:q4_0: read back, the last block"):
        quantize(model, tmp_path / "out", "gguf:q4_0", **NEAREST)
    assert list(tmp_path.iterdir()) == []


def test_experts_that_the_recipe_ignores_stay_in_16_bit(tmp_path: Path) -> None:
    model = tiny("MixtralConfig", num_local_experts=4)
    quantize(model, tmp_path / "out", "gguf:q4_0", ignore=["re:experts"], **NEAREST)
    held = gguf.GGUFReader(file_of(tmp_path / "out")).tensors
    kinds = {t.tensor_type.name for t in held if "_exps" in t.name}
    assert kinds == {"F16"}


@pytest.mark.parametrize("kind", ["LlamaConfig", "Qwen2Config", "Phi3Config"])
def test_transformers_reads_the_file_alone(kind: str, tmp_path: Path) -> None:
    model = tiny(kind)
    quantize(model, tmp_path / "out", "gguf:q4_k_m", **NEAREST)
    ours = logits(load_any(tmp_path / "out", device="cpu"))
    (tmp_path / "alone").mkdir()
    file_of(tmp_path / "out").rename(tmp_path / "alone" / "model.gguf")
    theirs = logits(load_any(tmp_path / "alone", device="cpu"))
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert load_tokenizer(tmp_path / "alone").encode("a b")


@pytest.mark.parametrize("file_type", ["q2_k_s", "q3_k_m", "q4_k_m", "q5_1", "q6_k"])
def test_the_codes_in_the_file_are_those_that_were_tuned(
    file_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    seen: dict[str, Tensor] = {}
    real = gguf_output.pack_checked

    def spy(layer: gguf_layout.GgufTensor, name: str) -> Tensor:
        seen[name] = gguf_layout.dequantize(layer)
        return real(layer, name)

    monkeypatch.setattr(gguf_output, "pack_checked", spy)
    result = quantize(model, tmp_path / "out", f"gguf:{file_type}")
    assert all(block.loss_after <= block.loss_before for block in result.blocks)
    stored = dense(tmp_path / "out")
    assert len(seen) == 2 * 7 + 2
    for name, weight in seen.items():
        assert torch.equal(stored[name], weight), name
    kinds = {
        t.name: t.tensor_type.name.lower()
        for t in gguf.GGUFReader(file_of(tmp_path / "out")).tensors
    }
    planned = {
        x.name: str(x.scheme).lower() for b in result.plan.blocks for x in b.layers if x.scheme
    }
    gate = planned["model.layers.1.mlp.gate_proj"]
    if file_type.endswith(("_s", "_m", "6_k")):
        assert gate == kinds["blk.1.ffn_gate.weight"]


def test_tuning_on_the_k_quant_grid_beats_rounding(tmp_path: Path) -> None:
    model = tiny()
    nearest = {"tuning.iters": 30, "tuning.init_rounding": "nearest"}
    tuned = quantize(model, tmp_path / "t", "gguf:q2_k_s", **nearest)
    assert all(block.loss_after < 0.97 * block.loss_before for block in tuned.blocks)
    given = {"seed": 0, "shape": TUNED_ON}
    before, error = logits(model, **given), {}
    quantize(
        model, tmp_path / "r", "gguf:q2_k_s", **{"tuning.iters": 0, "tuning.init_scale": "search"}
    )
    for folder in ("t", "r"):
        after = logits(load_any(tmp_path / folder, device="cpu"), **given)
        error[folder] = float((after - before).square().mean())
    assert error["t"] < 0.5 * error["r"]


def test_formats_of_other_grids_take_another_pass(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = quantize(tiny(), out, "auto_round,auto_gptq,gguf:q4_k_m")
    assert sorted(p.name for p in out.iterdir()) == ["auto_gptq", "auto_round", "gguf-q4_k_m"]
    assert [o.format for o in result.plan.outputs] == ["auto_round", "auto_gptq"]
    (second,) = result.plan.further
    assert [o.format for o in second.outputs] == ["gguf:q4_k_m"]
    assert any("done 2 times" in note for note in result.plan.notes)
    assert len(result.blocks) == 4
    assert result.disk_bytes == sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    for folder in out.iterdir():
        assert torch.isfinite(logits(load_any(folder, device="cpu"))).all()


def test_formats_of_equal_grids_share_one_pass(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = quantize(
        tiny(), out, "auto_round,gguf:q4_0", **{"scheme.group_size": 32, "scheme.bits": 4}
    )
    assert result.plan.further == ()
    assert len(result.blocks) == 2
    own = load_any(out / "auto_round", device="cpu").state_dict()
    stored = dense(out / "gguf-q4_0")
    assert torch.equal(own["model.layers.1.mlp.down_proj.weight"], stored["blk.1.ffn_down.weight"])
    q = own["model.layers.0.self_attn.q_proj.weight"]
    pairs = q.reshape(4, 2, 32, 256).transpose(1, 2).reshape(256, 256)
    assert torch.equal(pairs, stored["blk.0.attn_q.weight"])


def test_the_tokenizer_comes_back(tmp_path: Path) -> None:
    quantize(tiny(), tmp_path / "out", "gguf:q4_0", **NEAREST)
    ours, theirs = byte_tokenizer(), load_tokenizer(tmp_path / "out")
    for text in (*TEXT[:2], "naïve  spaces\n\tand code: x = 12345", "日本語"):
        assert ours(text)["input_ids"] == theirs.encode(text)
    assert theirs.eos_token_id == ours.eos_token_id


def test_ignored_layers_and_odd_widths_are_float16(tmp_path: Path) -> None:
    model = tiny(intermediate_size=260)
    result = quantize(model, tmp_path / "out", "gguf:q4_k_s", ignore=["v_proj"], **NEAREST)
    kept = {x.name: x.reason for b in result.plan.blocks for x in b.layers if x.scheme is None}
    assert "ignored" in kept["model.layers.0.self_attn.v_proj"]
    assert "260" in kept["model.layers.0.mlp.down_proj"]
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(file_of(tmp_path / "out")).tensors}
    assert types["blk.0.attn_v.weight"] == types["blk.0.ffn_down.weight"] == "F16"
    assert types["blk.0.attn_q.weight"] == "Q4_K"
    assert types["blk.0.attn_norm.weight"] == "F32"


def test_the_plan_counts_the_very_bytes(tmp_path: Path) -> None:
    model = tiny()
    plan, estimate = api.plan(
        model, recipe_of("gguf:q4_k_m", **NEAREST), tokenizer=byte_tokenizer(), device="cpu"
    )
    quantize(model, tmp_path / "out", "gguf:q4_k_m", **NEAREST)
    held = gguf.GGUFReader(file_of(tmp_path / "out")).tensors
    assert estimate.disk_bytes == sum(int(t.n_bytes) for t in held)
    kinds = {x.scheme.kind for b in plan.blocks for x in b.layers if x.scheme}
    assert kinds == {"q4_k", "q6_k"} <= {name for name, kind in GGUF_TYPES.items() if kind.nested}
    assert any("not used" in note for note in plan.notes)


def test_an_unknown_architecture_is_refused_with_the_list(tmp_path: Path) -> None:
    model = tiny("PersimmonConfig")
    with pytest.raises(FormatError, match=r"persimmon.*llama, mistral"):
        quantize(model, tmp_path / "out", "gguf:q4_0", **NEAREST)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_without_a_place_is_refused_before_work(
    tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    with pytest.raises(FormatError, match="tokenizer"):
        api.plan(checkpoint("llama"), recipe_of("gguf:q4_0", **NEAREST), device="cpu")


def test_what_llama_cpp_computes_otherwise_is_refused(tmp_path: Path) -> None:
    for kind, values, word in (
        ("LlamaConfig", {"hidden_act": "gelu"}, "gelu"),
        ("Gemma2Config", {"head_dim": 64, "query_pre_attn_scalar": 100}, "query_pre_attn_scalar"),
        ("Qwen3MoeConfig", {"num_experts": 4, "norm_topk_prob": False}, "norm_topk_prob"),
        ("LlamaConfig", {"rope_parameters": DYNAMIC}, "dynamic"),
    ):
        model = tiny(kind, **values)
        with pytest.raises(FormatError, match=word):
            quantize(model, tmp_path / "out", "gguf:q8_0", **NEAREST)


def test_a_file_that_reads_back_otherwise_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = gguf_layout.pack

    def shifted(layer: gguf_layout.GgufTensor) -> Tensor:
        data = real(layer).clone()
        data[:, 5] ^= 0x11
        return data

    monkeypatch.setattr(gguf_output.blocks, "pack", shifted)
    with pytest.raises(VerificationError, match="come back"):
        quantize(tiny(), tmp_path / "out", "gguf:q4_0", **NEAREST)
    assert list(tmp_path.iterdir()) == []


def test_several_files_in_a_folder_are_ambiguous(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"a\.gguf, b\.gguf"):
        load_any(tmp_path, device="cpu")


def test_adopted_models_have_no_missing_tensor() -> None:
    skeleton = adopt_model(tiny())
    assert len(skeleton.keys) == 2 * 9 + 3


def test_the_text_part_of_a_model_with_a_tower_is_written_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.LlavaConfig(
        text_config={"model_type": "llama", **COMMON},
        vision_config=vision,
        image_token_index=319,
        tie_word_embeddings=False,
    )
    model = transformers.LlavaForConditionalGeneration(config).eval().float()
    result = quantize(model, tmp_path / "out", "gguf:q8_0", **NEAREST)
    assert any("text model only" in note for note in result.plan.notes)
    weights = dense(tmp_path / "out")
    assert len(weights) == 2 * 9 + 3
    up = model.state_dict()["model.language_model.layers.1.mlp.up_proj.weight"]
    error = float((weights["blk.1.ffn_up.weight"] - up).square().mean() / up.square().mean())
    assert error < 1e-4
    with pytest.raises(FormatError, match="text part of a llava model only"):
        load_any(tmp_path / "out", device="cpu")
