"""Fresh samples come after those of the calibration, which stay as they were, and share no text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoround.data.calibration import tokens_from_spec
from autoround.data.fresh import FreshSpec, draw_with_fresh, refuse_shared_text, split_rows
from autoround.data.tokens import build_tokens
from autoround.errors import DataError

torch = pytest.importorskip("torch")

SEQLEN = 24


def words(count: int, start: int = 0) -> str:
    return "".join(f"{number:05d} " for number in range(start, start + count))


def jsonl(path: Path, rows: list[str]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def running(path: Path, count: int) -> str:
    path.write_text(words(count))
    return str(path)


def drawn(spec: Any, tokenizer: Any, n: int, fresh: FreshSpec) -> tuple[Any, Any]:
    """Draw both; the calibration's must be those that are drawn without fresh ones."""
    tokens, more = draw_with_fresh(spec, tokenizer, nsamples=n, fresh=fresh, seqlen=SEQLEN, seed=3)
    alone = tokens_from_spec(spec, tokenizer, nsamples=n, seqlen=SEQLEN, seed=3)
    assert torch.equal(tokens.ids, alone.ids)
    assert tokens.description == alone.description
    return tokens, more


def numbers(tokens: Any, tokenizer: Any) -> set[str]:
    """Return the whole words of samples, which a text holds once each."""
    texts = [tokenizer.decode(row).removeprefix("<s>") for row in tokens.ids]
    return {word for text in texts for word in text.split(" ") if len(word) == 5}


@pytest.mark.parametrize("kind", ["running", "documents", "joined", "two"])
@pytest.mark.parametrize("fresh", [2, 7, 20])
def test_they_share_no_text_with_the_calibration(
    kind: str, fresh: int, tmp_path: Path, tokenizer: Any
) -> None:
    documents = [words(9, start=20 * n) for n in range(60)]
    spec = {
        "running": lambda: running(tmp_path / "a.txt", 900),
        "documents": lambda: jsonl(tmp_path / "b.jsonl", documents),
        "joined": lambda: jsonl(tmp_path / "c.jsonl", documents) + ":concat",
        "two": lambda: (
            running(tmp_path / "a.txt", 900)
            + ","
            + jsonl(tmp_path / "d.jsonl", [words(9, start=5000 + 20 * n) for n in range(60)])
        ),
    }[kind]()
    tokens, more = drawn(spec, tokenizer, 6, FreshSpec(fresh))
    assert more.ids.shape == (fresh, SEQLEN)
    assert not more.padded
    assert len({tuple(row.tolist()) for row in more.ids}) == fresh
    assert not numbers(tokens, tokenizer) & numbers(more, tokenizer)


def test_a_dataset_that_ends_is_filled_by_the_others(tmp_path: Path, tokenizer: Any) -> None:
    few = jsonl(tmp_path / "few.jsonl", [words(9, start=20 * n) for n in range(4)])
    many = jsonl(tmp_path / "many.jsonl", [words(9, start=5000 + 20 * n) for n in range(40)])
    for spec in (f"{few},{many}", f"{many},{few}"):
        tokens, more = drawn(spec, tokenizer, 6, FreshSpec(11))
        assert len(more.ids) == 11
        assert not numbers(tokens, tokenizer) & numbers(more, tokenizer)


def test_too_few_are_an_error_unless_fewer_will_do(tmp_path: Path, tokenizer: Any) -> None:
    spec = jsonl(tmp_path / "b.jsonl", [words(9, start=20 * n) for n in range(10)])
    with pytest.raises(DataError, match=r"only 4 of 9 fresh samples .*after the 6 of the calibr"):
        drawn(spec, tokenizer, 6, FreshSpec(9))
    assert len(drawn(spec, tokenizer, 6, FreshSpec(9, at_most=True))[1].ids) == 4
    # One sample cannot be divided into some to train on and some to validate on.
    assert drawn(spec, tokenizer, 9, FreshSpec(9, at_most=True))[1] is None


def test_a_text_whose_windows_overlap_has_none_left(tokenizer: Any) -> None:
    from autoround.data.encode import make_encoder
    from autoround.data.records import Text
    from autoround.data.sampling import SampleSpec, sample
    from autoround.data.sources import Source
    from autoround.data.spec import DatasetSpec

    pieces = [Text(words(40, start=12345), "x")]
    source = Source("short", lambda: iter(pieces), running=True, may_overlap=True)
    spec, encoder = DatasetSpec("short"), make_encoder(tokenizer)
    before = sample(spec, source, encoder=encoder, wish=SampleSpec(30, SEQLEN, "0"))
    assert len(before.samples) == 30
    after = sample(spec, source, encoder=encoder, wish=SampleSpec(5, SEQLEN, "0", after=30))
    assert after.samples == []


@pytest.mark.parametrize(
    ("fresh", "calibration", "shared"),
    [
        ("a.txt", "a.txt", True),
        ("b.txt,a.txt:concat", "c.txt,a.txt", True),
        ("o/n:split=test", "o/n", True),
        ("o/n:split=test", "o/n:split=train", False),
        ("o/n:split=test+train", "o/n:split=train", True),
        ("b.txt", "a.txt", False),
    ],
)
def test_a_dataset_that_both_read_is_refused(fresh: str, calibration: str, shared: bool) -> None:
    if not shared:
        refuse_shared_text(fresh, calibration)
        return
    with pytest.raises(DataError, match="leave it at auto"):
        refuse_shared_text(fresh, calibration)


def test_rows_are_divided_with_what_belongs_to_them() -> None:
    samples = [[n, n] if n % 2 else [n] for n in range(7)]
    tokens = build_tokens(samples, seqlen=2, pad_id=0, description="given")
    first, rest = split_rows(tokens, 4)
    assert rest is not None
    assert torch.equal(torch.cat([first.ids, rest.ids]), tokens.ids)
    assert first.lengths.tolist() + rest.lengths.tolist() == tokens.lengths.tolist()
    assert (first.description, rest.description) == ("given", "3 samples after those")
    assert split_rows(tokens, 6)[1] is None
    assert split_rows(tokens, 9)[1] is None
