"""What is said of configs that make no causal language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from autoround.errors import ModelError
from autoround.model.build import build_empty

CODE = {"AutoModelForCausalLM": "modeling_x.XForCausalLM"}
CASES: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "llamma"}, r"has no model_type llamma; it has llama"),
    ({"model_type": "chatglm", "auto_map": CODE}, r"no model_type chatglm.* never run .*converted"),
    ({"model_type": "qwen2_5_omni"}, r"its thinker can be quantized alone.*ThinkerForConditional"),
    ({"model_type": "vit"}, r"a vit is no causal language model"),
    ({"model_type": "clip"}, r"a clip is no causal language model"),
]


@pytest.mark.parametrize(("entries", "words"), CASES)
def test_the_reason_says_what_can_be_done(
    entries: dict[str, Any], words: str, tmp_path: Path
) -> None:
    config = dict(entries)
    if entries["model_type"] == "qwen2_5_omni":
        config = AutoConfig.for_model("qwen2_5_omni").to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config, default=str))
    with pytest.raises(ModelError, match=words) as caught:
        build_empty(tmp_path)
    assert len(str(caught.value)) < 600
