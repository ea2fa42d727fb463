# Tests: autoround/gguf/reader.py autoround/gguf/opened.py
# Tests: autoround/gguf/fields.py
from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch

from autoround.errors import FormatError, VerificationError
from autoround.gguf.container import Container
from autoround.gguf.fields import Field
from autoround.gguf.opened import open_file
from autoround.gguf.reader import Reader

FIELDS = [
    Field("general.name", "näme", "text"),
    Field("llama.block_count", 3, "u32"),
    Field("llama.eps", 0.5, "f32"),
    Field("a.flag", True, "bool"),
    Field("a.words", ["x", "y"], "texts"),
    Field("a.numbers", [1, 2, 3], "i32s"),
    Field("a.scores", [-1.0, -2.5], "f32s"),
]
TENSORS = [("a.weight", (3, 64), "q8_0"), ("b.weight", (2, 5), "f16"), ("c.weight", (7,), "f32")]


def data_of() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randint(0, 100, (3, 68), generator=rng, dtype=torch.uint8),
        "b.weight": torch.randn(2, 5, generator=rng).half(),
        "c.weight": torch.randn(7, generator=rng),
    }


def write(path: Path, tensors: dict[str, torch.Tensor] | None = None) -> Container:
    container = Container(path, TENSORS, arch="llama", fields=FIELDS)
    for name, tensor in (tensors or data_of()).items():
        container.add(name, tensor)
    return container


def test_everything_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write(path).finish()
    reader = gguf.GGUFReader(path)
    for field in FIELDS:
        held = reader.get_field(field.key)
        assert held is not None
        value = held.contents()
        assert value == field.value
    assert {t.name: t.tensor_type.name for t in reader.tensors} == {
        "a.weight": "Q8_0",
        "b.weight": "F16",
        "c.weight": "F32",
    }
    found = {t.name: t.data for t in reader.tensors}
    for name, tensor in data_of().items():
        assert (torch.from_numpy(found[name].copy()).reshape(tensor.shape) == tensor).all()


def test_tensors_come_as_they_were_declared(tmp_path: Path) -> None:
    tensors = data_of()
    with pytest.raises(VerificationError, match=r"b\.weight .* but a\.weight"):
        write(tmp_path / "a.gguf", {"b.weight": tensors["b.weight"]})
    with pytest.raises(VerificationError, match=r"a\.weight of 136 bytes"):
        write(tmp_path / "b.gguf", {"a.weight": tensors["a.weight"][:2]})
    container = write(tmp_path / "c.gguf", {"a.weight": tensors["a.weight"]})
    with pytest.raises(VerificationError, match=r"b\.weight was never written"):
        container.finish()


def test_bytes_that_changed_on_the_disk_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    container = write(path)
    raw = bytearray(path.read_bytes())
    raw[-20] ^= 1
    path.write_bytes(raw)
    with pytest.raises(VerificationError, match="does not read back"):
        container.finish()


@pytest.mark.parametrize("keep", [0, 3, 20, 200, -10, -100])
def test_cut_files_are_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.gguf"
    write(path).finish()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FormatError, match=r"a\.gguf"):
        open_file(path)


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(FormatError, match=r"a\.gguf"):
        open_file(path)


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write(path).finish()
    config = {"model_type": "qwen2", "num_hidden_layers": 1}
    with pytest.raises(FormatError, match=r"token_embd\.weight should have shape \(8, 4\)"):
        Reader(path, config, {"model.embed_tokens.weight": (8, 4)})
