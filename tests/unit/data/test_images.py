"""Pairs of images and text are read line by line, and laid out by the model's processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from autoround.data.images import read_pairs, tokens_from_images
from autoround.errors import DataError

Image = pytest.importorskip("PIL.Image")


class Tokenizer:
    pad_token_id: int | None = 9
    eos_token_id = 1


class Processor:
    """Gives a token for each image and each letter, pixels, and kinds of tokens."""

    image_token = "<i>"

    def __init__(self) -> None:
        self.tokenizer = Tokenizer()
        self.seen: list[str] = []

    def __call__(self, *, images: list[Any], text: str, return_tensors: str) -> dict[str, Any]:
        self.seen.append(text)
        if "boom" in text:
            raise RuntimeError("no\n  such luck")
        ids = [100] * text.count("<i>") + [ord(c) % 50 + 10 for c in text.replace("<i>", "")]
        found: dict[str, Any] = {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids)),
            "pixel_values": torch.full((len(images), 3), float(images[0].getpixel((0, 0))[0])),
            "token_type_ids": torch.tensor([[int(i == 100) for i in ids]]),
            "names": ["not a tensor"],
        }
        return found | ({"extra": torch.ones(1, 2)} if "extra" in text else {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, shade in (("a.png", 10), ("b.png", 200)):
        Image.new("L", (4, 4), shade).save(tmp_path / name)
    return tmp_path


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def test_lines_name_one_image_or_several(folder: Path) -> None:
    rows = [{"image": "a.png", "text": "x"}, "", {"images": ["a.png", "b.png"], "text": "y"}]
    pairs = read_pairs(write(folder, *rows))
    assert [[path.name for path in pair.images] for pair in pairs] == [
        ["a.png"],
        ["a.png", "b.png"],
    ]
    assert [pair.text for pair in pairs] == ["x", "y"]
    assert pairs[1].where.endswith("pairs.jsonl:3")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ([1], "expected an object"),
        ({"text": "x"}, "'image' is a file name"),
        ({"images": [], "text": "x"}, "'image' is a file name"),
        ({"images": ["a.png", 3], "text": "x"}, "'image' is a file name"),
        ({"image": "a.png"}, "'text' is a text"),
        ({"image": "a.png", "text": ""}, "'text' is a text"),
        ({"image": "c.png", "text": "x"}, "there is no image"),
        ({"image": "../a.png", "text": "x"}, "is outside"),
        ({"image": "/etc/hostname", "text": "x"}, "is outside"),
        ({"image": "a\0.png", "text": "x"}, "is no file name"),
    ],
)
def test_a_line_that_cannot_be_used_is_told_with_its_number(
    row: Any, words: str, folder: Path
) -> None:
    with pytest.raises(DataError, match=rf"pairs.jsonl:2: .*{words}"):
        read_pairs(write(folder, {"image": "a.png", "text": "x"}, row))


def test_a_link_out_of_the_folder_is_outside(folder: Path, tmp_path_factory: Any) -> None:
    other = tmp_path_factory.mktemp("other") / "c.png"
    Image.new("L", (4, 4)).save(other)
    (folder / "link.png").symlink_to(other)
    with pytest.raises(DataError, match="is outside"):
        read_pairs(write(folder, {"image": "link.png", "text": "x"}))


def test_missing_and_empty_files_are_told(folder: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        read_pairs(folder / "none.jsonl")
    with pytest.raises(DataError, match="holds no samples"):
        read_pairs(write(folder, "", "  "))
    (folder / "latin.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_pairs(folder / "latin.jsonl")


def test_samples_are_padded_to_the_longest_and_so_is_what_goes_token_by_token(folder: Path) -> None:
    file = write(folder, {"image": "a.png", "text": "ab"}, {"image": "b.png", "text": "abcd"})
    found = tokens_from_images(file, Processor(), nsamples=9, seqlen=16, seed=0)
    assert found.ids.shape == (2, 5)
    assert sorted(found.lengths.tolist()) == [3, 5]
    for ids, length, media in zip(found.ids, found.lengths.tolist(), found.media, strict=True):
        assert ids[length:].tolist() == [9] * (5 - length)
        assert set(media) == {"pixel_values", "token_type_ids"}
        assert media["token_type_ids"].tolist() == [[1, 0, 0, 0, 0]]
        assert media["pixel_values"][0, 0] == (10.0 if length == 3 else 200.0)
    assert found.description == "pairs.jsonl, 2 samples of images and text, up to 5 tokens"


def test_no_more_than_are_asked_for_are_taken_and_the_seed_decides_which(folder: Path) -> None:
    file = write(folder, *({"image": "a.png", "text": "x" * n} for n in range(1, 9)))
    drawn = [
        tuple(tokens_from_images(file, Processor(), nsamples=3, seqlen=16, seed=s).lengths.tolist())
        for s in (0, 0, 1, 2)
    ]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 3
    assert len(set(drawn)) > 1


def test_without_a_pad_token_the_end_of_text_pads(folder: Path) -> None:
    processor = Processor()
    processor.tokenizer.pad_token_id = None
    file = write(folder, {"image": "a.png", "text": "ab"}, {"image": "b.png", "text": "abcd"})
    found = tokens_from_images(file, processor, nsamples=9, seqlen=16, seed=0)
    assert found.ids[found.lengths == 3][0].tolist()[3:] == [1, 1]


def test_images_go_where_the_text_says_or_before_it(folder: Path) -> None:
    processor = Processor()
    rows = [
        {"image": "a.png", "text": "see <i> here"},
        {"images": ["a.png", "b.png"], "text": "two"},
    ]
    tokens_from_images(write(folder, *rows), processor, nsamples=2, seqlen=99, seed=0)
    assert sorted(processor.seen) == ["<i><i>two", "see <i> here"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"image": "a.png", "text": "boom"}], r"jsonl:1: the model's processor .*: no such luck"),
        ([{"image": "a.png", "text": "x" * 20}], r"take 21 tokens, more than calibration.seqlen"),
        ([{"image": "bad.png", "text": "x"}], r"jsonl:1: .* is no image that can be read"),
        (
            [{"image": "a.png", "text": "extra"}, {"image": "a.png", "text": "x"}],
            "gives some samples other inputs than the rest",
        ),
    ],
)
def test_samples_that_cannot_be_made_are_told(
    rows: list[dict[str, str]], words: str, folder: Path
) -> None:
    (folder / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=words):
        tokens_from_images(write(folder, *rows), Processor(), nsamples=4, seqlen=16, seed=0)
