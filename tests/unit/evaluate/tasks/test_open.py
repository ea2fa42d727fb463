from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autoround.errors import FormatError, UsageError
from autoround.evaluate.tasks import llama_cpp
from autoround.evaluate.tasks.model import encode_pair
from autoround.evaluate.tasks.open import open_task_model

Checkpoint = Callable[[str], Path]


def test_a_folder_is_run_by_torch(checkpoint: Checkpoint) -> None:
    model = open_task_model(checkpoint("llama"), device="cpu", batch_size=2)
    assert model.engine.startswith("torch ")
    assert model.engine.endswith("float32")
    (answer,) = model.score([encode_pair(model, "hello", " you")])
    assert answer.log_prob < 0
    model.close()


def test_engines_that_do_not_fit_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = checkpoint("llama")
    with pytest.raises(UsageError, match=r"legal engines are auto, torch, llama\.cpp"):
        open_task_model(folder, engine="vllm")
    with pytest.raises(UsageError, match="holds none"):
        open_task_model(folder, engine="llama.cpp")
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not a model" * 9)
    with pytest.raises(UsageError, match="torch opens folders"):
        open_task_model(file, engine="torch")


def test_a_gguf_file_needs_the_bindings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not a model" * 9)
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: False)
    with pytest.raises(UsageError, match="pip install xllamacpp"):
        open_task_model(file)
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: True)
    # Damaged files never reach llama.cpp.
    with pytest.raises(FormatError, match="not a GGUF file"):
        open_task_model(file)
