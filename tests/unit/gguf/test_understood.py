"""Keys of configs that nothing here speaks of."""

from __future__ import annotations

import pytest
import transformers

from autoround.errors import FormatError
from autoround.gguf.architectures import ARCHITECTURES
from autoround.gguf.understood import refuse_unknown_keys

NOTHING: frozenset[str] = frozenset()


def test_a_key_of_the_class_with_another_value_is_refused() -> None:
    config = transformers.GPT2Config(scale_attn_by_inverse_layer_idx=True).to_dict()
    with pytest.raises(
        FormatError, match=r"scale_attn_by_inverse_layer_idx=True.*default is False"
    ):
        refuse_unknown_keys(config, NOTHING)
    refuse_unknown_keys(config, frozenset(["scale_attn_by_inverse_layer_idx"]))


def test_what_no_class_declares_changes_nothing() -> None:
    config = transformers.LlamaConfig(hidden_size=64, unsloth_version="1").to_dict()
    refuse_unknown_keys({**config, "surprise": 3}, NOTHING)
    refuse_unknown_keys({"model_type": "nobody's", "surprise": 3}, NOTHING)


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_every_key_that_an_architecture_speaks_of_is_one_of_its_class(kind: str) -> None:
    made = transformers.AutoConfig.for_model(kind)
    spoken = ARCHITECTURES[kind].known_keys()
    assert [key for key in spoken if not hasattr(made, key)] == []
