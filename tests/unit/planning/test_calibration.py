from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autoround.errors import DataError
from autoround.model.skeleton import adopt_model
from autoround.planning.calibration import load_calibration
from autoround.recipe.load import load_recipe
from autoround.recipe.schema import CalibrationOptions

from ...runs import NEAREST, small
from ...tiny import VOCAB, make_model, make_tokenizer, token_ids


def test_plain_rounding_reads_no_data() -> None:
    tokens, what = load_calibration(
        small({**NEAREST, "calibration.dataset": "gone.txt"}),
        adopt_model(make_model("llama")),
        tokenizer=None,
        data=None,
    )
    assert tokens is None
    assert "no data" in what


def test_given_data_takes_the_place_of_the_dataset() -> None:
    ids = token_ids(6, 20)
    tokens, what = load_calibration(
        small({"calibration.dataset": "gone.txt"}),
        adopt_model(make_model("llama")),
        tokenizer=None,
        data=ids,
    )
    assert tokens is not None
    assert torch.equal(tokens.ids, ids[:4, :16])
    assert what == tokens.description


def test_a_file_named_by_the_recipe_is_read(tmp_path: Path) -> None:
    text = tmp_path / "calib.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    tokens, what = load_calibration(
        small({"calibration.dataset": str(text)}),
        adopt_model(make_model("llama")),
        tokenizer=make_tokenizer(),
        data=None,
    )
    assert tokens is not None
    assert tokens.ids.shape == (4, 16)
    assert "calib.txt" in what


def test_the_default_dataset_out_of_reach_is_replaced_and_that_is_said() -> None:
    recipe = small()
    assert recipe.calibration.dataset == CalibrationOptions().dataset
    tokens, what = load_calibration(
        recipe, adopt_model(make_model("llama")), tokenizer=make_tokenizer(), data=None
    )
    assert tokens is not None
    assert "because NeelNanda/pile-10k cannot be reached" in what


def test_a_dataset_that_was_named_is_never_replaced() -> None:
    recipe = small({"calibration.dataset": "someone/something"})
    with pytest.raises(DataError, match="someone/something"):
        load_calibration(
            recipe, adopt_model(make_model("llama")), tokenizer=make_tokenizer(), data=None
        )


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    data = [[1, 2, VOCAB]]
    with pytest.raises(DataError, match=str(VOCAB)):
        load_calibration(small(), adopt_model(make_model("llama")), tokenizer=None, data=data)


def test_the_default_recipe_names_the_default_dataset() -> None:
    # Only then is a default out of reach told from a dataset that was asked for.
    assert load_recipe("default").calibration.dataset == CalibrationOptions().dataset


def test_samples_longer_than_the_table_of_positions_are_refused() -> None:
    skeleton = adopt_model(make_model("gpt2"))
    for given, dataset in ((token_ids(4, 65), "gone.txt"), (None, "embedded")):
        recipe = small({"calibration.seqlen": 65, "calibration.dataset": dataset})
        with pytest.raises(DataError, match="positions for 64 only: use --seqlen 64 or less"):
            load_calibration(recipe, skeleton, tokenizer=make_tokenizer(), data=given)


def test_the_defaults_dataset_is_not_replaced_where_it_was_named() -> None:
    skeleton = adopt_model(make_model("llama"))
    named = load_recipe("default", values={"calibration.dataset": "NeelNanda/pile-10k"})
    with pytest.raises(DataError, match=r"NeelNanda/pile-10k .*cannot be loaded.*embedded"):
        load_calibration(named, skeleton, tokenizer=make_tokenizer(), data=None)
