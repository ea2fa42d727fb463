from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from autoround.device.runtime import Uploaded
from autoround.errors import ModelError
from autoround.export.files_on_device import FilesOnDevice
from autoround.model.files.source import CheckpointSource

TENSORS = {
    "a.weight_packed": torch.arange(6, dtype=torch.int32).reshape(2, 3),
    "a.weight_shape": torch.tensor([2, 24]),
    "b": torch.ones(2, dtype=torch.bfloat16),
}


class Files(CheckpointSource):
    """Notes what is read together."""

    asked: list[list[str]]

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        wanted = list(names)
        if wanted:
            self.asked.append(wanted)
        return super().read(wanted)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    save_file(TENSORS, tmp_path / "model.safetensors")
    files = Files(tmp_path)
    files.asked = []
    return files


def to_meta(tensors: Mapping[str, Tensor]) -> Uploaded:
    return Uploaded({name: tensor.to("meta") for name, tensor in tensors.items()})


def test_tensors_come_together_and_shapes_stay_where_they_are_read(files: Files) -> None:
    on_device = FilesOnDevice(files, to_meta)
    assert on_device.headers() == files.headers()
    on_device.bring(["a.weight_packed", "a.weight_shape"])
    tensors = on_device.read(["a.weight_shape", "a.weight_packed", "b"])
    assert list(tensors) == ["a.weight_shape", "a.weight_packed", "b"]
    assert tensors["a.weight_packed"].device.type == "meta"
    assert tensors["a.weight_packed"].shape == (2, 3)
    assert tensors["a.weight_shape"].tolist() == [2, 24]
    assert torch.equal(tensors["b"], TENSORS["b"])
    assert files.asked == [["a.weight_packed", "a.weight_shape"], ["b"]]


def test_what_goes_to_the_device_goes_in_one_piece_and_is_what_it_was(files: Files) -> None:
    uploads: list[Mapping[str, Tensor]] = []

    def upload(tensors: Mapping[str, Tensor]) -> Uploaded:
        uploads.append(tensors)
        return Uploaded({name: tensor.clone() for name, tensor in tensors.items()})

    on_device = FilesOnDevice(files, upload)
    on_device.bring(list(TENSORS))
    assert [[t.dtype for t in tensors.values()] for tensors in uploads] == [[torch.uint8]]
    tensors = on_device.read(list(TENSORS))
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_the_next_ones_are_read_meanwhile_and_once(files: Files) -> None:
    on_device = FilesOnDevice(files, to_meta)
    on_device.bring(["b"], following=["a.weight_packed"])
    on_device.bring(["a.weight_packed"])
    assert on_device.read(["a.weight_packed"])["a.weight_packed"].device.type == "meta"
    # Those of before are not kept.
    assert on_device.read(["b"])["b"].device.type == "cpu"
    assert files.asked == [["b"], ["a.weight_packed"], ["b"]]


def test_others_than_were_read_ahead_are_read(files: Files) -> None:
    on_device = FilesOnDevice(files, to_meta)
    on_device.bring([], following=["b"])
    on_device.bring(["a.weight_packed"])
    assert "a.weight_packed" in on_device.read(["a.weight_packed"])


def test_an_error_of_reading_ahead_is_raised_where_they_are_needed(files: Files) -> None:
    on_device = FilesOnDevice(files, to_meta)
    on_device.bring(["b"], following=["c"])
    with pytest.raises(ModelError, match="no tensor 'c'"):
        on_device.bring(["c"])
