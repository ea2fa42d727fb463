"""Layers beyond the model class are left out on purpose, others are not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from autoround.errors import FormatError
from autoround.model.beyond import beyond_notes, is_beyond


class Tiny(nn.Module):
    def __init__(self, further: int | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 8)
        self.layers = nn.ModuleList(nn.ModuleDict({"q": nn.Linear(8, 8)}) for _ in range(2))
        self.config = SimpleNamespace(num_nextn_predict_layers=further)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed


class Ignoring(Tiny):
    _keys_to_ignore_on_load_unexpected = (r"^visual\..*", r"layers\.9\.")


@pytest.mark.parametrize(
    ("name", "beyond"),
    [
        ("mtp.layers.0.q", True),
        ("model.mtp.fc", True),
        ("model.mtp_layers.0.q", True),
        ("nextn.q", True),
        ("layers.2.q", True),
        ("model.layers.2.q", True),
        ("layers.3.q", False),
        ("layers.1.other", False),
        ("smtp.q", False),
        ("other.2.q", False),
    ],
)
def test_blocks_that_predict_further_tokens_are_known_by_name_and_number(
    name: str, beyond: bool
) -> None:
    assert is_beyond(Tiny(1), name) == beyond
    if "layers.2" in name:
        assert not is_beyond(Tiny(), name)


def test_a_class_says_what_it_leaves_out() -> None:
    assert is_beyond(Ignoring(), "visual.blocks.0.q")
    assert is_beyond(Ignoring(), "model.layers.9.q")
    assert not is_beyond(Tiny(), "visual.blocks.0.q")


def test_what_is_left_out_is_named_and_what_is_strange_refused() -> None:
    assert beyond_notes(Tiny(1), []) == []
    (note,) = beyond_notes(Tiny(1), ["mtp.fc", "layers.2.q"])
    assert note.startswith("layer mtp.fc and 1 more: transformers' class has no such layers")
    with pytest.raises(FormatError, match=r"layer layers.7.q is quantized, and the model has no"):
        beyond_notes(Tiny(1), ["mtp.fc", "layers.7.q"])
