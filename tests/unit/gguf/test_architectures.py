"""The table of architectures against the package that names them, and transformers' classes."""

from __future__ import annotations

import gguf
import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from autoround.errors import FormatError
from autoround.gguf.architectures import ARCHITECTURES, architecture_of


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_every_row_is_a_language_model_that_llama_cpp_has_a_name_for(kind: str) -> None:
    assert kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    assert ARCHITECTURES[kind].name in gguf.MODEL_ARCH_NAMES.values()


def test_another_type_is_refused_with_the_legal_ones() -> None:
    assert architecture_of({"model_type": "mistral"}).name == "llama"
    with pytest.raises(FormatError, match=r"'bert'.*legal: llama, mistral"):
        architecture_of({"model_type": "bert"})
