from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from ...upload_hub import TOKEN, serve_uploads
from .conftest import Command


def test_a_quantized_model_goes_to_the_hub_with_its_card(
    autoround: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    made = autoround("quantize", model, "--recipe", "rtn", "--group-size", 32, "-o", out)
    assert made.code == 0, made.err
    asked = autoround("push", out, "me/model")
    assert asked.code == 2
    assert "add --yes" in asked.err
    assert "  README.md\n" in asked.out
    with serve_uploads() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        done = autoround("push", out, "me/model", "--yes", "--revision", "w4")
        assert done.code == 0, done.err
        files = hub.repos["me/model"].branches["w4"]
        assert done.out.endswith(f"uploaded     {hub.endpoint}/me/model/commit/{'1' * 40}\n")
    assert files["README.md"] == (out / "README.md").read_bytes()
    assert b"base_model_relation" not in files["README.md"]  # a folder has no name on the hub
    assert {"config.json", "model.safetensors", "plan.json"} <= files.keys()


def test_what_fails_has_its_code(
    autoround: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert autoround("push", tmp_path / "gone", "me/model", "--yes").code == 4
    assert autoround("push", model, "no-owner", "--yes").code == 2
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = autoround("push", model, "me/model", "--yes")
    assert offline.code == 11
    assert offline.err.startswith("error: me/model: the hub's client is offline")
