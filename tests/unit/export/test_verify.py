"""Whatever goes wrong between the codes in memory and the files, the run fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autoround import api
from autoround.errors import AutoRoundError, ModelError, VerificationError
from autoround.export import verify
from autoround.formats.auto_round.format import AutoRoundFormat
from autoround.formats.gptq.layout import AUTO_ROUND_V1, GptqLayout
from autoround.model.files.locate import locate_model

from ...runs import NEAREST, even_device, small
from ...tiny import token_ids

__all__ = ["even_device"]

CHECKPOINT = Callable[[str], Path]


def quantize(model: Path, out: Path, **values: object) -> None:
    recipe = small({**NEAREST, **values})
    api.quantize(model, recipe, output_dir=out, data=token_ids(4, 16), device="cpu")


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "gemma2"])
def test_good_files_pass(kind: str, checkpoint: CHECKPOINT, tmp_path: Path) -> None:
    seen: list[float | None] = []
    real = verify.ReadBackCheck.compare

    def spy(self: verify.ReadBackCheck, written: verify.WrittenModel, what: str) -> float | None:
        seen.append(real(self, written, what))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify.ReadBackCheck, "compare", spy)
        quantize(checkpoint(kind), tmp_path / "a")
        quantize(checkpoint(kind), tmp_path / "b", **{"output.dtype": "float16"})
    assert seen[0] == 0.0
    assert seen[1] is not None
    assert 0.0 <= seen[1] < 1e-5


@pytest.mark.parametrize(("key", "value"), [("sym", False), ("group_size", 16), ("bits", 8)])
def test_a_config_that_says_something_else_fails_the_run(
    key: str, value: Any, checkpoint: CHECKPOINT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = AutoRoundFormat.config

    def wrong(*args: Any) -> dict[str, Any]:
        found = real(*args)
        if key == "sym":
            return {**found, "packing_format": "auto_round"}
        return {**found, key: value}

    monkeypatch.setattr(AutoRoundFormat, "config", wrong)
    with pytest.raises(AutoRoundError):
        quantize(checkpoint("llama"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_zero_points_one_off_fail_the_run(
    checkpoint: CHECKPOINT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a layout would whose writer and reader make the same mistake, but not the loader."""
    real = GptqLayout.from_tensors_late

    def reading(*args: Any, **kwargs: Any) -> Any:
        layer, faults = real(*args, **kwargs)
        return layer.__class__(layer.codes, layer.scale, layer.zero + 1, layer.scheme), faults

    monkeypatch.setattr(GptqLayout, "from_tensors_late", reading)
    monkeypatch.setattr("autoround.export.safetensors_writer.pack_layers", _unchecked)
    with pytest.raises(VerificationError, match=r"format auto_round: read back"):
        quantize(checkpoint("llama"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def _unchecked(layers: Any, packing: str) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{part}": tensor
        for name, layer in layers.items()
        for part, tensor in AUTO_ROUND_V1.to_tensors(layer).items()
    }


def test_an_unfinished_folder_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "INCOMPLETE").write_text("")
    with pytest.raises(ModelError, match="unfinished output"):
        locate_model(tmp_path)
