"""The processor of a model folder: what it makes in a process of its own, and what it may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from autoround import confined
from autoround.confined import ConfinedError, LimitError
from autoround.errors import DataError
from autoround.model.files.processor import load_processor

from ....tiny import make_tokenizer

CONFIG = "preprocessor_config.json"


def make_processor() -> Any:
    """Build a tiny processor of LLaVA's classes."""
    from transformers import LlavaProcessor
    from transformers.models.clip import CLIPImageProcessorPil

    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    size = {"height": 28, "width": 28}
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=size)
    return LlavaProcessor(images, tokenizer, patch_size=14, image_token="<image>")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(confined, "SECONDS", 2)
    monkeypatch.setattr(confined, "MEMORY", 1 << 30)
    # On a busy machine a second of a processor takes long.
    monkeypatch.setattr(confined, "PATIENCE", 1000)
    make_processor().save_pretrained(tmp_path)
    return tmp_path


def config_of(folder: Path) -> Path:
    """Return the file that says how images are cut: its name differs between releases."""
    names = (CONFIG, "processor_config.json")
    return next(folder / name for name in names if (folder / name).is_file())


def change(folder: Path, values: dict[str, Any]) -> None:
    path = config_of(folder)
    config = json.loads(path.read_text())
    config.get("image_processor", config).update(values)
    path.write_text(json.dumps(config))


PICTURE = Image.new("RGB", (40, 30), (200, 100, 50))


def test_it_makes_what_the_saved_one_does(folder: Path) -> None:
    ours, theirs = load_processor(folder), make_processor()
    text = "<image> a dot"
    inputs = ours(images=[PICTURE], text=text, return_tensors="pt")
    expected = theirs(images=[PICTURE], text=text, return_tensors="pt")
    assert inputs.keys() == expected.keys()
    assert all(torch.equal(inputs[name], expected[name]) for name in inputs)
    assert ours.image_token == theirs.image_token
    assert ours.pad_token_id == theirs.tokenizer.pad_token_id
    assert ours.eos_token_id == theirs.tokenizer.eos_token_id


@pytest.mark.parametrize("side", [10**5, 10**9])
def test_huge_images_are_refused(side: int, folder: Path) -> None:
    change(folder, {"crop_size": {"height": side, "width": side}, "size": {"shortest_edge": side}})
    processor = load_processor(folder)
    with pytest.raises((ConfinedError, LimitError)) as caught:
        processor(images=[PICTURE], text="<image>", return_tensors="pt")
    assert str(caught.value)


@pytest.mark.parametrize("values", [{"size": "big"}, {"image_std": "x"}, {"image_mean": [None]}])
def test_values_that_are_none_are_errors_in_words(values: dict[str, Any], folder: Path) -> None:
    change(folder, values)
    with pytest.raises((DataError, ConfinedError)):
        load_processor(folder)(images=[PICTURE], text="<image>", return_tensors="pt")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"image_processor_type": "os.system"}'])
def test_a_damaged_config_is_an_error_of_the_data(content: str, folder: Path) -> None:
    config_of(folder).write_text(content)
    with pytest.raises(DataError, match=r"no processor that can be loaded|takes no images"):
        load_processor(folder)


def test_a_folder_without_one_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no processor that can be loaded"):
        load_processor(tmp_path)


def test_a_file_larger_than_any_is_refused_unread(folder: Path) -> None:
    with config_of(folder).open("r+b") as file:
        file.truncate(200 << 20)
    with pytest.raises(DataError, match="has 200 MiB, and a tokenizer's or processor's file may"):
        load_processor(folder)
