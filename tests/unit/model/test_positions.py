from __future__ import annotations

import pytest

from autoround.model.positions import position_limit, vocabulary_size

from ...tiny import KINDS, VOCAB, TinyModel, make_model

#: Kinds that look their positions up; all others turn queries and keys, or add a slope.
TABLES = ("gpt2", "opt")


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_table_of_positions_ends(kind: str) -> None:
    assert position_limit(make_model(kind)) == (64 if kind in TABLES else None)


def test_what_states_nothing_has_no_limit() -> None:
    assert position_limit(TinyModel()) is None
    assert position_limit(object()) is None


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_vocabulary_is_that_of_the_embeddings(kind: str) -> None:
    assert vocabulary_size(make_model(kind)) == VOCAB
    assert vocabulary_size(object()) is None
