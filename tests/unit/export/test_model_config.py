"""The config of a written model: the original's, with what a run changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from autoround.export.model_config import model_config, untie, with_harmless_keys
from autoround.model.files.legacy_config import with_legacy_keys
from autoround.model.files.quantization_config import KEYS
from autoround.model.skeleton import Skeleton, adopt_model, open_model

from ...tiny import make_model


@pytest.fixture
def stated(checkpoint: Callable[[str], Path], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that gives the config written for a checkpoint with other entries."""

    def of(kind: str = "llama", dtype: str = "bfloat16", **entries: Any) -> dict[str, Any]:
        folder = tmp_path / "model"
        shutil.copytree(checkpoint(kind), folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **entries}))
        return model_config(open_model(folder), "Tiny", dtype)

    return of


def test_entries_of_the_original_stay_known_or_not(stated: Callable[..., dict[str, Any]]) -> None:
    found = stated(own_entry=[1, {"a": None}], rms_norm_eps=0.25)
    assert found["own_entry"] == [1, {"a": None}]
    assert (found["rms_norm_eps"], found["model_type"]) == (0.25, "llama")
    assert found["architectures"] == ["LlamaForCausalLM"]
    assert json.loads(json.dumps(found)) == found


def test_the_dtype_is_the_one_that_is_written(stated: Callable[..., dict[str, Any]]) -> None:
    found = stated(dtype="float16", torch_dtype="float64")
    assert found["dtype"] == "float16"
    assert "torch_dtype" not in found


@pytest.mark.parametrize("architectures", [None, []])
def test_a_config_without_architecture_gets_that_of_the_class(
    architectures: list[str] | None, stated: Callable[..., dict[str, Any]]
) -> None:
    assert stated(architectures=architectures)["architectures"] == ["Tiny"]


def test_what_a_quantized_original_says_of_itself_is_left_out(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("llama"), folder)
    skeleton = open_model(folder)
    config = json.loads((folder / "config.json").read_text())
    for key in KEYS:
        config[key] = {"quant_method": "fp8"}
    (folder / "config.json").write_text(json.dumps(config))
    assert not set(KEYS) & set(model_config(skeleton, "T", "float16"))


def test_a_model_in_memory_has_its_own_config_with_the_words_of_older_programs() -> None:
    model = make_model("llama").to(torch.bfloat16)
    skeleton: Skeleton = adopt_model(model)
    before = model.config.to_dict()
    found = model_config(skeleton, "LlamaForCausalLM", "bfloat16")
    assert found["rope_theta"] == found["rope_parameters"]["rope_theta"]
    assert found["hidden_size"] == before["hidden_size"]
    assert found["architectures"] == ["LlamaForCausalLM"]
    assert model.config.to_dict() == before


def test_a_head_of_its_own_is_told_wherever_the_config_says_the_opposite() -> None:
    config: dict[str, Any] = {
        "tie_word_embeddings": True,
        "text_config": {"tie_word_embeddings": True, "hidden_size": 4},
        "vision_config": {"hidden_size": 8},
    }
    untie(config)
    assert config == {
        "tie_word_embeddings": False,
        "text_config": {"tie_word_embeddings": False, "hidden_size": 4},
        "vision_config": {"hidden_size": 8},
    }
    plain: dict[str, Any] = {}
    untie(plain)
    assert plain == {"tie_word_embeddings": False}


#: Rotary parameters as published models have them, in place of the defaults of a class.
ROTARY: dict[str, dict[str, Any]] = {
    "default": {},
    "theta": {"rope_type": "default", "rope_theta": 50000.0},
    "linear": {"rope_type": "linear", "rope_theta": 50000.0, "factor": 2.0},
}


@pytest.mark.parametrize("rotary", ROTARY)
def test_every_class_of_transformers_reads_the_same_with_keys_for_older_programs(
    rotary: str,
) -> None:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoConfig

    checked, added = 0, 0
    for kind in CONFIG_MAPPING:
        try:
            options = {"rope_parameters": dict(ROTARY[rotary])} if ROTARY[rotary] else {}
            config = AutoConfig.for_model(kind, **options)
            plain = config.to_dict()
            again = type(config).from_dict(deepcopy(plain)).to_dict()
        except (StrictDataclassError, AttributeError, ImportError, KeyError, ValueError, OSError):
            # A default that the class itself does not take, or not with these; or it asks the hub.
            continue
        larger = with_harmless_keys(plain, with_legacy_keys(plain), type(config))
        new = larger.keys() - plain.keys()
        read = type(config).from_dict(deepcopy(larger)).to_dict()
        assert {k: v for k, v in read.items() if k not in new} == again, kind
        checked, added = checked + 1, added + bool(new)
    assert checked > 200
    assert added > 20
