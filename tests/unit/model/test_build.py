"""Modules of a model are made from its config alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig

from autoround.errors import ModelError
from autoround.model.build import (
    _EmptyWeights,
    build_empty,
    build_from,
    build_from_values,
    plain_floats,
)

from ...tiny import KINDS, make_model
from ...zoo import make_config
from ...zoo import make_model as make_family


def write(folder: Path, **entries: Any) -> Path:
    config = {"model_type": "llama", **KINDS["llama"].options, **entries}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_parameters_are_on_meta_and_buffers_are_there(tmp_path: Path) -> None:
    model = build_empty(write(tmp_path))
    wanted = make_model("llama")
    assert type(model) is type(wanted) is type(build_empty(tmp_path))
    assert not model.training
    assert all(parameter.is_meta for parameter in model.parameters())
    shapes = {name: tensor.shape for name, tensor in wanted.state_dict().items()}
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    buffers = dict(wanted.named_buffers())
    assert buffers
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name])


def test_random_values_are_only_made_for_tensors_that_hold_any() -> None:
    filled: list[torch.device] = []

    class Counting(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func.__name__ in ("normal_", "uniform_"):
                filled.append((args[0] if args else kwargs["tensor"]).device)
            return func(*args, **(kwargs or {}))

    with Counting():
        build_from(make_config("qwen3_moe"))
    assert torch.device("meta") not in filled
    with _EmptyWeights():
        assert torch.nn.init.normal_(torch.zeros(9)).count_nonzero() == 9


def test_tied_parameters_are_one() -> None:
    model: Any = build_from(make_model("gemma2").config)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_model_is_made_of_plain_modules_whatever_its_files_hold(tmp_path: Path) -> None:
    quantized = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    model = build_empty(write(tmp_path, quantization_config=quantized))
    assert type(model.get_submodule("model.layers.0.mlp.up_proj")) is torch.nn.Linear


def test_a_vision_model_is_what_its_config_says_it_is() -> None:
    config = make_config("gemma3")
    assert type(build_from(config)).__name__ == type(make_family("gemma3")).__name__
    config.architectures = ["Gemma3ForConditionalGeneration"]
    assert type(build_from(config)).__name__ == "Gemma3ForConditionalGeneration"


@pytest.mark.parametrize(
    "architectures",
    [
        None,
        [],
        [7],
        ["LlamaModel"],
        ["LlamaForSequenceClassification"],
        ["NoSuchForCausalLM"],
        ["T5ForConditionalGeneration"],
    ],
)
def test_classes_that_do_not_answer_are_passed_over(
    architectures: list[Any] | None, tmp_path: Path
) -> None:
    folder = write(tmp_path)
    config = type(make_model("llama").config).from_pretrained(folder)
    try:
        config.architectures = architectures
    except StrictDataclassError:
        pytest.skip("this transformers does not take it")
    assert type(build_from(config)).__name__ == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"model_type": "no_such_type"}, "no_such_type"),
        ({"model_type": "vit"}, "a vit is no causal language model"),
        ({"num_attention_heads": "four"}, "num_attention_heads"),
    ],
)
def test_what_is_no_language_model_is_refused_in_one_line(
    entries: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="cannot be built as a causal language model") as raised:
        build_empty(write(tmp_path, **entries))
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400 + len(str(tmp_path))


def test_a_config_that_is_not_written_yet_makes_the_same_modules(tmp_path: Path) -> None:
    folder = write(tmp_path)
    values = json.loads((folder / "config.json").read_text())
    before = json.dumps(values)
    built, opened = build_from_values(values), build_empty(folder)
    assert json.dumps(values) == before
    assert {n: p.shape for n, p in built.named_parameters()} == {
        n: p.shape for n, p in opened.named_parameters()
    }
    with pytest.raises(ModelError, match="no_such_type"):
        build_from_values({**values, "model_type": "no_such_type"})


def test_nothing_is_allocated_for_the_weights() -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    experts = {"num_local_experts": 256, "hidden_size": 4096, "intermediate_size": 8192}
    values = {"model_type": "mixtral", "num_hidden_layers": 2, **experts}
    model = build_from_values(values)
    assert sum(p.numel() for p in model.parameters()) > 20 * 2**30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_infinite_numbers_of_a_config_are_read_as_transformers_writes_them(tmp_path: Path) -> None:
    config = AutoConfig.for_model("bamba", num_hidden_layers=2, attn_layer_indices=[1])
    config.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert "__float__" in json.dumps(values)
    assert type(build_from_values(values)) is type(build_empty(tmp_path))
    assert plain_floats({"a": [0, {"__float__": "Infinity"}]}) == {"a": [0, float("inf")]}
    assert plain_floats({"__float__": "-Infinity"}) == float("-inf")
