from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autoround.errors import DataError
from autoround.model.skeleton import adopt_model
from autoround.planning.calibration import Calibration, load_calibration
from autoround.recipe.load import load_recipe
from autoround.recipe.schema import CalibrationOptions

from ...runs import NEAREST, small
from ...tiny import VOCAB, make_model, make_tokenizer, token_ids


def test_plain_rounding_reads_no_data() -> None:
    tokens, what, _ = load_calibration(
        small({**NEAREST, "calibration.dataset": "gone.txt"}),
        adopt_model(make_model("llama")),
        tokenizer=None,
        data=None,
    )
    assert tokens is None
    assert "no data" in what


def test_given_data_takes_the_place_of_the_dataset() -> None:
    ids = token_ids(6, 20)
    tokens, what, fresh = load_calibration(
        small({"calibration.dataset": "gone.txt"}),
        adopt_model(make_model("llama")),
        tokenizer=None,
        data=ids,
    )
    assert tokens is not None
    assert torch.equal(tokens.ids, ids[:4, :16])
    assert what == tokens.description
    assert fresh is None


def test_a_file_named_by_the_recipe_is_read(tmp_path: Path) -> None:
    text = tmp_path / "calib.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    tokens, what, _ = load_calibration(
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
    tokens, what, _ = load_calibration(
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


FRESH: dict[str, object] = {"end_to_end.steps": 2, "end_to_end.batch_size": 2}


def loaded(values: dict[str, object], data: object = None) -> Calibration:
    return load_calibration(
        small({**FRESH, **values}),
        adopt_model(make_model("llama")),
        tokenizer=make_tokenizer(),
        data=data,
    )


def test_of_given_data_those_behind_the_calibration_are_fresh() -> None:
    ids = token_ids(12, 16)
    tokens, what, fresh = loaded({"end_to_end.nsamples": 6}, ids)
    assert tokens is not None
    assert fresh is not None
    assert torch.equal(tokens.ids, ids[:4])
    assert torch.equal(fresh.ids, ids[4:10])
    assert "4 × 16 tokens, the first of a larger set; end to end on 6 samples after those" in what


def test_fewer_than_both_need_are_refused_with_both_counts() -> None:
    with pytest.raises(DataError, match=r"only 5 of 6 fresh .*9 samples were given, and 4 calibr"):
        loaded({"end_to_end.nsamples": 6}, token_ids(9, 16))


@pytest.mark.parametrize(("rows", "found"), [(4, 0), (5, 0), (6, 2), (9, 5), (40, 12)])
def test_auto_takes_what_there_is(rows: int, found: int) -> None:
    # Two steps of two, and eight that validate.
    tokens, what, fresh = loaded({"end_to_end.nsamples": "auto"}, token_ids(rows, 16))
    assert tokens is not None
    assert len(tokens.ids) == 4
    assert (0 if fresh is None else len(fresh.ids)) == found
    assert ("end to end" in what) == bool(found)


def test_without_steps_or_for_gguf_alone_none_are_loaded() -> None:
    ids = token_ids(6, 16)
    off = {"end_to_end.nsamples": 9, "end_to_end.steps": 0}
    gguf = {"end_to_end.nsamples": 9, "output.format": "gguf:q4_0"}
    assert loaded(off, ids).fresh is loaded(gguf, ids).fresh is None


def write(folder: Path, name: str, word: str) -> str:
    path = folder / name
    path.write_text("".join(f"{word} {number} " for number in range(4000)))
    return str(path)


def test_a_text_goes_on_after_the_calibration_or_another_is_read(tmp_path: Path) -> None:
    one, two = (write(tmp_path, f"{word}.txt", word) for word in ("fox", "dog"))
    plain = loaded({"calibration.dataset": one})
    on = loaded({"calibration.dataset": one, "end_to_end.nsamples": 9})
    other = loaded(
        {"calibration.dataset": one, "end_to_end.nsamples": 9, "end_to_end.dataset": two}
    )
    assert plain.tokens is not None
    for found in (on, other):
        assert found.tokens is not None
        assert found.fresh is not None
        assert torch.equal(found.tokens.ids, plain.tokens.ids)
        assert found.fresh.ids.shape == (9, 16)
        assert found.fresh_samples == 9
    assert "dog.txt" in other.description


def test_a_dataset_that_the_calibration_reads_or_nothing_reads_is_refused(tmp_path: Path) -> None:
    text = write(tmp_path, "fox.txt", "fox")
    named: dict[str, object] = {"calibration.dataset": text, "end_to_end.dataset": text}
    with pytest.raises(DataError, match=r"the calibration reads .*fox.txt, too; leave it at auto"):
        loaded({**named, "end_to_end.nsamples": 4})
    with pytest.raises(DataError, match=r"read for end_to_end.nsamples alone, which is 0"):
        loaded(named)
