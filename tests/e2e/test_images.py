"""Calibration on real images and text, by the model's own processor, from folder to folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from autoround.cli.main import run
from autoround.data.images import read_pairs, tokens_from_images
from autoround.errors import DataError
from autoround.inference.load import load

from ..runs import even_device
from ..tiny import make_tokenizer
from ..zoo import IMAGE, make_model

__all__ = ["even_device"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Return a file of four pictures, each with a text of another length."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    lines = []
    for i in range(4):
        picture = Image.new("RGB", (40 + 5 * i, 30), (60 * i, 255 - 40 * i, 90))
        ImageDraw.Draw(picture).ellipse((5, 5, 25, 22), fill=(200, 20 * i, 30))
        picture.save(folder / f"{i}.png")
        lines.append(json.dumps({"image": f"{i}.png", "text": f"a dot {'and more ' * i}"}))
    file = folder / "pairs.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def processor(name: str) -> Any:
    """Make a tiny processor of the family's own classes."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    if name == "mllama":
        from transformers import MllamaProcessor
        from transformers.models.mllama import MllamaImageProcessorPil

        tokenizer.add_special_tokens({"additional_special_tokens": ["<|image|>"]})
        images = MllamaImageProcessorPil(size={"height": 28, "width": 28}, max_image_tiles=1)
        return MllamaProcessor(images, tokenizer)
    from transformers import LlavaProcessor
    from transformers.models.clip import CLIPImageProcessorPil

    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    assert tokenizer.convert_tokens_to_ids("<image>") == IMAGE
    images = CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    )


@pytest.mark.parametrize("name", ["llava", "mllama"])
def test_a_model_is_tuned_on_images(name: str, pairs: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    make_model(name).save_pretrained(source)
    processor(name).save_pretrained(source)
    code = run(
        [
            "quantize", str(source), "--group-size", "32", "--iters", "10", "--batch-size", "2",
            "--nsamples", "4", "--seqlen", "64", "--set", f"calibration.images={pairs}",
            "--set", "tuning.num_validations=1", "--set", "tuning.init_rounding=nearest",
            "--device", "cpu", "-o", str(out),
        ]
    )  # fmt: skip
    assert code == 0
    plan = json.loads((out / "plan.json").read_text())
    assert plan["calibration"].startswith("pairs.jsonl, 4 samples of images and text")
    rows = [json.loads(line) for line in (out / "report.jsonl").read_text().splitlines()]
    # Cross-attention, which text alone does not reach, is tuned as well.
    assert len(rows) == (3 if name == "mllama" else 2)
    assert all(row["loss_after"] < row["loss_before"] for row in rows)
    assert (out / "preprocessor_config.json").is_file() or (out / "processor_config.json").is_file()
    loaded = load(out, device="cpu", dtype=torch.float32)
    tokens = tokens_from_images(pairs, processor(name), nsamples=1, seqlen=64, seed=0)
    with torch.no_grad():
        answer = loaded(input_ids=tokens.ids, use_cache=False, **tokens.media[0]).logits
    assert bool(answer.isfinite().all())


@pytest.mark.parametrize("fresh", [2, 3])
def test_the_whole_model_is_tuned_on_fresh_images(fresh: int, pairs: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    make_model("mllama").save_pretrained(source)
    processor("mllama").save_pretrained(source)
    asked = {
        "calibration.images": pairs,
        "end_to_end.nsamples": fresh,
        "end_to_end.steps": 2,
        "end_to_end.batch_size": 1,
        "scheme.bits": 2,
    }
    code = run(
        [
            "quantize", str(source), "--group-size", "32", "--iters", "2", "--batch-size", "2",
            "--nsamples", "2", "--seqlen", "64", "--device", "cpu", "-o", str(out),
            *(word for key, value in asked.items() for word in ("--set", f"{key}={value}")),
        ]
    )  # fmt: skip
    # The file has four pairs.
    if fresh > 2:
        assert code != 0
        assert not out.exists()
        return
    assert code == 0
    assert "end to end on 2 samples after those" in (out / "plan.json").read_text()
    loaded = load(out, device="cpu", dtype=torch.float32)
    tokens = tokens_from_images(pairs, processor("mllama"), nsamples=1, seqlen=64, seed=0)
    with torch.no_grad():
        answer = loaded(input_ids=tokens.ids, use_cache=False, **tokens.media[0]).logits
    assert bool(answer.isfinite().all())


def test_samples_are_padded_and_keep_what_goes_with_them(pairs: Path) -> None:
    tokens = tokens_from_images(pairs, processor("mllama"), nsamples=9, seqlen=64, seed=1)
    width = tokens.ids.shape[1]
    assert len(tokens.ids) == len(tokens.media) == 4
    assert int(tokens.lengths.max()) == width > int(tokens.lengths.min())
    for given in tokens.media:
        assert given["cross_attention_mask"].shape[1] == width
        assert given["pixel_values"].is_floating_point()
    again = tokens_from_images(pairs, processor("mllama"), nsamples=2, seqlen=64, seed=1)
    assert torch.equal(again.media[1]["pixel_values"], tokens.media[1]["pixel_values"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[", "pairs.jsonl:2: not JSON"),
        ("[1]", "pairs.jsonl:2: expected an object"),
        ('{"text": "a"}', "'image' is a file name"),
        ('{"image": "0.png"}', "'text' is a text"),
        ('{"image": "9.png", "text": "a"}', "there is no image"),
        ('{"image": "../x.png", "text": "a"}', "is outside"),
        ('{"image": "/etc/hostname", "text": "a"}', "is outside"),
    ],
)
def test_mistakes_say_where_they_are(line: str, words: str, pairs: Path) -> None:
    first = pairs.read_text().splitlines()[0]
    pairs.write_text(f"{first}\n{line}\n")
    with pytest.raises(DataError, match=words):
        read_pairs(pairs)


def test_what_is_no_image_or_too_long_is_refused(pairs: Path) -> None:
    with pytest.raises(DataError, match=r"take \d+ tokens, more than calibration.seqlen \(6\)"):
        tokens_from_images(pairs, processor("llava"), nsamples=4, seqlen=6, seed=0)
    (pairs.parent / "2.png").write_text("no picture")
    with pytest.raises(DataError, match="is no image that can be read"):
        tokens_from_images(pairs, processor("llava"), nsamples=4, seqlen=64, seed=0)
    with pytest.raises(DataError, match="there is no file"):
        read_pairs(pairs / "nothing")
