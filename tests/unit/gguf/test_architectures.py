"""The table of architectures against the package that names them, and transformers' classes."""

from __future__ import annotations

import gguf
import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from autoround.errors import FormatError
from autoround.gguf.architectures import ARCHITECTURES, architecture_of, text_part


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_every_row_is_a_language_model_that_llama_cpp_has_a_name_for(kind: str) -> None:
    assert kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    assert ARCHITECTURES[kind].name in gguf.MODEL_ARCH_NAMES.values()


def test_another_type_is_refused_with_the_legal_ones() -> None:
    assert architecture_of({"model_type": "mistral"}).name == "llama"
    with pytest.raises(FormatError, match=r"'bert'.*legal: llama, mistral"):
        architecture_of({"model_type": "bert"})


def test_a_model_with_towers_is_its_text_part() -> None:
    config = {
        "model_type": "llava",
        "tie_word_embeddings": True,
        "text_config": {"model_type": "qwen2", "tie_word_embeddings": False, "hidden_size": 8},
    }
    assert architecture_of(config).name == "qwen2"
    assert text_part(config)["hidden_size"] == 8
    assert text_part(config)["tie_word_embeddings"] is True
    plain = {"model_type": "llama"}
    assert text_part(plain) is plain
    other = {"model_type": "llava", "text_config": {"model_type": "opt"}}
    with pytest.raises(FormatError, match=r"'opt' \(text part of 'llava'\) cannot be written"):
        architecture_of(other)
