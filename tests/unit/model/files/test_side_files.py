"""Files beside the weights that go along with a model."""

from __future__ import annotations

from pathlib import Path

from autoround.model.files.side_files import side_files

TAKEN = (
    "tokenizer.json",
    "tokenizer.model",
    "generation_config.json",
    "merges.txt",
    "chat_template.jinja",
    "qwen.tiktoken",
    "LICENSE",
    "NOTICE.md",
)
LEFT = (
    "config.json",
    "model.safetensors.index.json",
    "model.safetensors",
    "plan.json",
    "quantize_config.json",
    "quant_config.json",
    "adapter_config.json",
    "modeling.py",
    "README.md",
    "pytorch_model.bin",
    "model.gguf",
)


def test_tokenizer_generation_and_licence_are_taken_and_nothing_else(tmp_path: Path) -> None:
    for name in (*TAKEN, *LEFT):
        (tmp_path / name).write_text("")
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / "tokenizer.model").write_text("")
    (tmp_path / "folder.json").mkdir()
    assert sorted(path.name for path in side_files(tmp_path)) == sorted(TAKEN)
    assert all(path.parent == tmp_path for path in side_files(tmp_path))


def test_a_folder_without_any_has_none(tmp_path: Path) -> None:
    assert side_files(tmp_path) == []
    assert side_files(tmp_path / "missing") == []
