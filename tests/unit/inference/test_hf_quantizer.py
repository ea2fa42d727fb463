"""What transformers is given to load packed checkpoints with."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.quantizers.base import HfQuantizer
from transformers.utils import quantization_config as theirs

from autoround.errors import UsageError
from autoround.inference.hf_quantizer import (
    METHOD,
    AutoRoundConfig,
    AutoRoundQuantizer,
    register,
    unregister,
)

STATED: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "nested": {"a": [1]}}


def test_a_config_says_again_what_the_checkpoint_said() -> None:
    config = AutoRoundConfig.from_dict(STATED)
    assert config.to_dict() == STATED
    config.to_dict()["nested"]["a"].append(2)
    assert config.to_dict() == STATED
    again, unused = AutoRoundConfig.from_dict(STATED, return_unused_kwargs=True)
    assert (again.to_dict(), unused) == (STATED, {})
    assert AutoRoundConfig(backend="torch").to_dict() == {
        "quant_method": METHOD,
        "backend": "torch",
    }


def test_a_config_of_transformers_passes_for_one_of_ours() -> None:
    assert isinstance(theirs.AutoRoundConfig(backend="torch"), AutoRoundConfig)
    assert isinstance(AutoRoundConfig(), theirs.AutoRoundConfig)
    assert not isinstance(theirs.GPTQConfig(bits=4), AutoRoundConfig)


def test_a_kernel_that_does_not_exist_is_refused_before_anything_is_read() -> None:
    AutoRoundQuantizer(AutoRoundConfig(backend="torch"))
    with pytest.raises(UsageError, match="no kernel is named 'abacus'"):
        AutoRoundQuantizer(AutoRoundConfig(backend="abacus"))


def test_layers_are_not_put_on_disk() -> None:
    made = AutoRoundQuantizer(AutoRoundConfig())
    for fine in (None, {"": "cpu"}, {"model": 0, "lm_head": "cpu"}):
        assert made.update_device_map(fine) == fine
    with pytest.raises(UsageError, match="packed layers cannot be on disk"):
        made.update_device_map({"model": "cpu", "lm_head": "disk"})


def test_a_loaded_model_can_be_saved_and_takes_adapters() -> None:
    made = AutoRoundQuantizer(AutoRoundConfig())
    assert made.is_serializable()
    assert made.is_trainable
    assert made.update_dtype(torch.bfloat16) == torch.bfloat16


def test_ours_takes_the_place_of_theirs_in_the_tables() -> None:
    tables: Any = SimpleNamespace(
        AUTO_QUANTIZER_MAPPING={METHOD: object, "gptq": int},
        AUTO_QUANTIZATION_CONFIG_MAPPING={METHOD: object},
        AutoRoundConfig=object,
    )
    module: ModuleType = tables
    register(module)
    assert {METHOD: AutoRoundQuantizer, "gptq": int} == tables.AUTO_QUANTIZER_MAPPING
    assert {METHOD: AutoRoundConfig} == tables.AUTO_QUANTIZATION_CONFIG_MAPPING
    assert tables.AutoRoundConfig is AutoRoundConfig


def test_what_stood_there_is_put_back() -> None:
    stood = {"quantizer": int, "config": float, "given": complex}
    tables: Any = SimpleNamespace(
        AUTO_QUANTIZER_MAPPING={METHOD: stood["quantizer"], "gptq": str},
        AUTO_QUANTIZATION_CONFIG_MAPPING={METHOD: stood["config"]},
        AutoRoundConfig=stood["given"],
    )
    register(tables)
    register(tables)
    unregister(tables)
    assert {METHOD: int, "gptq": str} == tables.AUTO_QUANTIZER_MAPPING
    assert {METHOD: float} == tables.AUTO_QUANTIZATION_CONFIG_MAPPING
    assert tables.AutoRoundConfig is complex
    unregister(tables)  # nothing of ours is there
    assert tables.AutoRoundConfig is complex


@pytest.mark.skipif(
    not hasattr(HfQuantizer, "get_new_dtype"), reason="transformers before 5.21 does not ask"
)
def test_tensors_of_packed_layers_keep_their_dtype() -> None:
    from transformers.core_model_loading import WeightRenaming

    made = AutoRoundQuantizer(AutoRoundConfig())
    made._as_stored = {"a.scales"}
    scales = torch.ones(2, dtype=torch.float16)
    packed, plain = (WeightRenaming(name, name) for name in ("a.scales", "a.bias"))
    assert made.get_new_dtype(packed, scales, torch.float32) is None
    assert made.get_new_dtype(plain, scales, torch.float32) == torch.float32


def test_a_device_map_that_offloads_packed_layers_is_refused() -> None:
    made = AutoRoundQuantizer(AutoRoundConfig())
    made._packed = {"model.layers.0.q": "model.layers.0.q"}
    made.validate_environment(device_map={"": "cpu"}, weights_only=True)
    made.validate_environment(device_map="auto")
    with pytest.raises(UsageError, match="gives 1 packed layers to the CPU"):
        made.validate_environment(device_map={"model.layers": "cpu", "lm_head": 0})
