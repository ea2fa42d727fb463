from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autoround.errors import ModelError
from autoround.model.build import build_empty
from autoround.model.files.source import CheckpointSource
from autoround.model.files.stored import SINGLE
from autoround.model.skeleton import adopt_model, open_model

from ...tiny import HIDDEN, KINDS, VOCAB, TinyModel

Checkpoint = Callable[[str], Path]


@pytest.fixture
def altered(checkpoint: Checkpoint, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies a checkpoint with other config entries or tensors."""

    def alter(
        kind: str,
        config: dict[str, Any] | None = None,
        tensors: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    ) -> Path:
        folder = tmp_path / "altered"
        shutil.copytree(checkpoint(kind), folder)
        if config is not None:
            entries = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**entries, **config}))
        if tensors is not None:
            stored = tensors(load_file(folder / SINGLE))
            save_file(stored, folder / SINGLE, metadata={"format": "pt"})
        return folder

    return alter


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_is_there_and_right(kind: str, checkpoint: Checkpoint) -> None:
    from transformers import AutoModelForCausalLM

    skeleton = open_model(checkpoint(kind))
    expected = AutoModelForCausalLM.from_pretrained(checkpoint(kind)).state_dict()
    assert set(skeleton.keys) | set(skeleton.tied) == set(expected)
    for name, tensor in skeleton.read(skeleton.keys).items():
        assert torch.equal(tensor, expected[name]), name
        assert skeleton.header(name) == (tuple(tensor.shape), tensor.dtype)
    assert skeleton.unmapped == ()
    assert skeleton.folder == checkpoint(kind)
    inside = [name for block in skeleton.blocks for name in skeleton.names_under(block)]
    outside = skeleton.names_outside_blocks()
    assert sorted(inside + outside) == sorted(skeleton.keys)
    assert len(set(inside + outside)) == len(inside + outside)


def test_opening_reads_no_weight(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckpointSource, "read", None)
    skeleton = open_model(checkpoint("llama"))
    assert all(p.is_meta for p in skeleton.model.parameters())
    assert not any(b.is_meta for b in skeleton.model.buffers())
    assert not skeleton.model.training


def test_block_1_is_not_taken_for_block_10(altered: Callable[..., Path]) -> None:
    def more(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        first = {n: t for n, t in tensors.items() if n.startswith("model.layers.0.")}
        for i in range(2, 12):
            tensors |= {n.replace(".0.", f".{i}.", 1): t.clone() for n, t in first.items()}
        return tensors

    skeleton = open_model(altered("llama", {"num_hidden_layers": 12}, more))
    assert len(skeleton.blocks) == 12
    assert len(skeleton.names_under("model.layers.1")) == 9
    assert all(n.startswith("model.layers.1.") for n in skeleton.names_under("model.layers.1"))
    assert len(skeleton.names_outside_blocks()) == 3


def test_names_without_the_causal_models_prefix_are_found(altered: Callable[..., Path]) -> None:
    """The files of the first GPT-2 are saved so, with masks that are computed today."""

    def bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        plain = {name.removeprefix("transformer."): t for name, t in tensors.items()}
        return plain | {"h.0.attn.bias": torch.ones(1, 1, 8, 8)}

    folder = altered("gpt2", tensors=bare)
    skeleton = open_model(folder)
    assert skeleton.keys["transformer.h.0.attn.c_attn.weight"].endswith("h.0.attn.c_attn.weight")
    assert skeleton.names.tensor("transformer.h.0.ln_1.bias") == "transformer.h.0.ln_1.bias"
    assert skeleton.unmapped == ("h.0.attn.bias",)
    name = "transformer.h.1.mlp.c_fc.weight"
    stored = load_file(folder / SINGLE)
    assert torch.equal(skeleton.read([name])[name], stored["h.1.mlp.c_fc.weight"])


def test_names_that_transformers_converts_are_converted(checkpoint: Checkpoint) -> None:
    skeleton = open_model(checkpoint("mixtral"))
    assert all(parameter.is_meta for parameter in skeleton.model.parameters())
    assert skeleton.names.tensor("model.layers.1.mlp.gate.weight") == (
        "model.layers.1.block_sparse_moe.gate.weight"
    )
    stored = load_file(checkpoint("mixtral") / SINGLE)
    name = "model.layers.1.mlp.experts.down_proj"
    assert name not in stored
    experts = skeleton.read([name])[name]
    assert experts.shape == (4, HIDDEN, 96)
    for i in range(4):
        expected = stored[f"model.layers.1.block_sparse_moe.experts.{i}.w2.weight"]
        assert torch.equal(experts[i], expected)


@pytest.mark.parametrize("saved", ["embeddings", "head", "both"])
def test_tied_weights_are_found_under_either_name(saved: str, altered: Callable[..., Path]) -> None:
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"

    def save(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if saved != "embeddings":
            tensors[head] = tensors[embedding].clone()
        if saved == "head":
            del tensors[embedding]
        return tensors

    skeleton = open_model(altered("gemma2", tensors=save))
    assert skeleton.tied == {head: embedding}
    assert skeleton.keys[embedding] == (head if saved == "head" else embedding)
    assert head not in skeleton.keys
    assert skeleton.unmapped == ()
    assert skeleton.read([embedding])[embedding].shape == (VOCAB, HIDDEN)


def test_tensors_that_the_class_does_not_know_are_extras(altered: Callable[..., Path]) -> None:
    extra = {"mtp.fc.weight": torch.ones(2, 2), "model.layers.2.odd": torch.ones(1)}
    skeleton = open_model(altered("llama", tensors=lambda t: t | extra))
    assert sorted(skeleton.unmapped) == sorted(extra)


def test_a_missing_tensor_is_named(altered: Callable[..., Path]) -> None:
    def without(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        del tensors["model.layers.1.mlp.up_proj.weight"]
        return tensors

    folder = altered("llama", tensors=without)
    with pytest.raises(ModelError, match=r"lacks 1 tensors .* 'model.layers.1.mlp.up_proj.weight'"):
        open_model(folder)


def test_a_tensor_of_another_shape_is_refused(altered: Callable[..., Path]) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    folder = altered("llama", tensors=lambda t: t | {name: t[name][:-1].contiguous()})
    with pytest.raises(ModelError, match="should have shape"):
        open_model(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": "two"},
        {"num_hidden_layers": None},
        {"num_attention_heads": 0},
        {"num_attention_heads": 3},
        {"hidden_size": -1},
        {"head_dim": 10**15},
        {"model_type": "no-such-model"},
        {"model_type": 5},
        {"model_type": "vit"},
        {"hidden_act": "no-such-function"},
        {"rope_parameters": 5},
        {"layer_types": ["no-such-type"]},
        {"dtype": "no-such-dtype"},
        {"id2label": 5},
    ],
    ids=str,
)
def test_an_odd_config_is_refused(config: dict[str, Any], altered: Callable[..., Path]) -> None:
    folder = altered("llama", config)
    with pytest.raises(ModelError, match=r"cannot be built as a causal language model: ."):
        build_empty(folder)


def test_a_vocabulary_beyond_the_files_is_refused_and_never_allocated(
    altered: Callable[..., Path],
) -> None:
    folder = altered("llama", {"vocab_size": 2**28})
    with pytest.raises(ModelError, match="should have shape"):
        open_model(folder)


def test_code_beside_a_checkpoint_is_not_run(altered: Callable[..., Path]) -> None:
    folder = altered(
        "llama", {"auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    )
    (folder / "evil.py").write_text("raise SystemExit('ran')\n")
    assert type(open_model(folder).model).__name__ == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, "already quantized"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"num_hidden_layers": 0}, "no decoder blocks"),
    ],
)
def test_models_that_cannot_be_quantized_are_refused(
    config: dict[str, Any], message: str, altered: Callable[..., Path]
) -> None:
    with pytest.raises(ModelError, match=message):
        open_model(altered("llama", config))


def test_a_model_in_memory_is_adopted(checkpoint: Checkpoint) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint("gpt2"))
    skeleton = adopt_model(model)
    assert type(skeleton.model) is type(model)
    assert all(p is q for p, q in zip(skeleton.model.parameters(), model.parameters(), strict=True))
    assert skeleton.folder is None
    assert skeleton.blocks == ("transformer.h.0", "transformer.h.1")
    assert skeleton.tied == {"lm_head.weight": "transformer.wte.weight"}
    assert skeleton.unmapped == ()
    name = "transformer.h.0.mlp.c_fc.weight"
    assert torch.equal(skeleton.read([name])[name], model.state_dict()[name])


def test_what_is_no_model_is_not_adopted() -> None:
    with pytest.raises(ModelError, match="Linear is not a transformers model: it has no config"):
        adopt_model(nn.Linear(2, 2))
    quantized = TinyModel()
    quantized.config.to_dict = lambda: {  # type: ignore[method-assign]
        "model_type": "toy",
        "quantization_config": {"quant_method": "bitsandbytes"},
    }
    with pytest.raises(ModelError, match=r"TinyModel is already quantized .*'bitsandbytes'"):
        adopt_model(quantized)
