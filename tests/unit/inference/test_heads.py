"""Heads beside a decoder may be new; what the decoder and its logits need may not."""

from __future__ import annotations

import pytest
import transformers
from accelerate import init_empty_weights
from torch import nn

from autoround.inference.heads import new_heads

from ...zoo import make_config


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize(
    ("auto", "heads"),
    [
        ("AutoModel", set()),
        ("AutoModelForCausalLM", set()),
        ("AutoModelForSequenceClassification", {"score.weight"}),
        ("AutoModelForQuestionAnswering", {"qa_outputs.weight", "qa_outputs.bias"}),
    ],
)
def test_what_a_checkpoint_may_lack(kind: str, auto: str, heads: set[str]) -> None:
    with init_empty_weights():
        model = getattr(transformers, auto).from_config(make_config(kind))
    assert new_heads(model) == heads


def test_a_model_that_is_none_of_transformers_needs_all() -> None:
    assert new_heads(nn.Sequential(nn.Linear(4, 4))) == frozenset()
