"""A byte that changes between writing and the last check fails the run, wherever it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from transformers import AutoModelForCausalLM

from autoround import api
from autoround.checkpoints.convert import convert
from autoround.errors import VerificationError
from autoround.export.shards import ShardWriter
from autoround.gguf.container import Container

from ..runs import NEAREST, even_device, small

__all__ = ["even_device"]

FORMATS = (
    *("auto_round", "auto_round:auto_awq", "auto_gptq", "gptq_v2", "auto_awq"),
    *("compressed-tensors", "mlx", "fake"),
)
#: Where the byte is, as a part of the file: in its header, and in tensors of several kinds.
PLACES = (0.0001, 0.005, 0.3, 0.6, 0.9999)
MakeModel = Callable[[str], Path]


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


def flipping_shards(monkeypatch: pytest.MonkeyPatch, place: float) -> None:
    real = ShardWriter._name_shards

    def named(self: ShardWriter) -> list[str]:
        names = real(self)
        flip(self.staging / names[0], place)
        return names

    monkeypatch.setattr(ShardWriter, "_name_shards", named)


def run(model: Path, out: Path, format_name: str) -> None:
    recipe = small({**NEAREST, "output.format": format_name})
    api.quantize(model, recipe, output_dir=out, tokenizer=None, device="cpu")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("format_name", FORMATS)
def test_a_changed_byte_of_a_checkpoint_fails_the_run(
    format_name: str,
    place: float,
    checkpoint: MakeModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flipping_shards(monkeypatch, place)
    with pytest.raises(VerificationError, match=r"model\.safetensors"):
        run(checkpoint("llama"), tmp_path / "out", format_name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", PLACES)
def test_a_changed_byte_fails_a_conversion(
    place: float, checkpoint: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(checkpoint("llama"), tmp_path / "source", "auto_gptq")
    flipping_shards(monkeypatch, place)
    with pytest.raises(VerificationError, match=r"model\.safetensors"):
        convert(tmp_path / "source", tmp_path / "out", formats=["gptq_v2", "auto_awq"])
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("what", ["metadata", "first tensor", "last tensor"])
@pytest.mark.parametrize("format_name", ["gguf:q4_0", "gguf:q8_0"])
def test_a_changed_byte_of_a_gguf_file_fails_the_run(
    format_name: str,
    what: str,
    checkpoint: MakeModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = Container._check

    def changed(self: Container) -> None:
        tensors = gguf.GGUFReader(self._path).tensors
        places = {
            "metadata": self._head.size // 2,
            "first tensor": int(tensors[0].data_offset),
            "last tensor": int(tensors[-1].data_offset + tensors[-1].n_bytes) - 1,
        }
        flip(self._path, places[what] / self._path.stat().st_size + 1e-9)
        real(self)

    monkeypatch.setattr(Container, "_check", changed)
    model = AutoModelForCausalLM.from_pretrained(checkpoint("llama"))
    recipe = small({**NEAREST, "output.format": format_name})
    with pytest.raises(VerificationError, match=r"\.gguf: .* not read back as"):
        api.quantize(model, recipe, output_dir=tmp_path / "out", device="cpu")
    assert list(tmp_path.iterdir()) == []
