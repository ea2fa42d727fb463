"""Where checkpoints say how they are quantized."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoround.errors import ModelError
from autoround.model.files.quantization_config import find_quantization, without_quantization

GPTQ = {"quant_method": "gptq", "bits": 4}
MLX = {"bits": 4, "group_size": 64}


@pytest.mark.parametrize(
    "config",
    [
        {"quantization_config": GPTQ},
        {"compression_config": GPTQ},
        {"quantization": MLX, "quantization_config": GPTQ},
        {"text_config": {"quantization_config": GPTQ}},
        {"quantization_config": None, "text_config": {"compression_config": GPTQ}},
    ],
)
def test_a_config_says_it_under_several_keys(config: dict[str, Any], tmp_path: Path) -> None:
    assert find_quantization(tmp_path, config) == GPTQ
    left = without_quantization({**config, "hidden_size": 4})
    assert left.pop("hidden_size") == 4
    assert left in ({}, {"text_config": {}})


def test_nothing_may_be_said(tmp_path: Path) -> None:
    for config in ({}, {"quantization_config": None}, {"text_config": None}, {"text_config": {}}):
        assert find_quantization(tmp_path, config) is None


@pytest.mark.parametrize(
    ("keys", "method"),
    [
        ({"config_groups": {}}, "compressed-tensors"),
        ({"packing_format": "auto_round", "bits": 4}, "auto-round"),
        ({"zero_point": True, "bits": 4}, "awq"),
        ({"w_bit": 4}, "awq"),
        ({"desc_act": False, "bits": 4, "group_size": 128}, "gptq"),
        ({"checkpoint_format": "gptq_v2", "quant_method": None}, "gptq"),
        ({"bits": 4, "group_size": 64}, None),
        ({"quant_method": "fp8", "desc_act": False}, "fp8"),
    ],
)
def test_the_method_may_be_told_by_other_keys(
    keys: dict[str, Any], method: str | None, tmp_path: Path
) -> None:
    found = find_quantization(tmp_path, {"quantization_config": keys})
    assert found is not None
    assert found.get("quant_method") == method


@pytest.mark.parametrize(
    ("file", "method"), [("quantize_config.json", "gptq"), ("quant_config.json", "awq")]
)
def test_older_programs_say_it_in_a_file_of_their_own(
    file: str, method: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_text(json.dumps({"bits": 4, "group_size": 128}))
    assert find_quantization(tmp_path, {}) == {
        "quant_method": method,
        "bits": 4,
        "group_size": 128,
    }
    assert find_quantization(tmp_path, {"quantization_config": {"quant_method": "fp8"}}) == {
        "quant_method": "fp8"
    }
    for text in ("[", "[1]", "4"):
        (tmp_path / file).write_text(text)
        with pytest.raises(ModelError, match="is not a JSON object"):
            find_quantization(tmp_path, {})


def test_mlx_described_by_two_programs_is_read_by_its_own(tmp_path: Path) -> None:
    own = {"quant_method": "auto-round", "packing_format": "mlx", "bits": 4}
    assert find_quantization(tmp_path, {"quantization_config": own, "quantization": MLX}) == MLX
    assert find_quantization(tmp_path, {"quantization_config": own}) == own


def test_what_is_no_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its quantization_config is not an object"):
        find_quantization(tmp_path, {"quantization_config": [4]})
