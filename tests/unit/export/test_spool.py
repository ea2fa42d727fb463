from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from autoround.export import spool as shard
from autoround.export.safetensors_header import CODES
from autoround.export.spool import Spool

DTYPES = sorted(CODES, key=str)


@settings(max_examples=25, deadline=None)
@given(
    tensors=st.dictionaries(
        st.text('ab.é"\\', min_size=1, max_size=4),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)),
        min_size=1,
        max_size=6,
    )
)
def test_a_shard_is_what_the_library_writes(
    tensors: dict[str, tuple[torch.dtype, list[int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shard")
    made = {
        name: torch.arange(int(torch.tensor(shape).prod())).reshape(shape).to(dtype)
        for name, (dtype, shape) in tensors.items()
    }
    save_file(made, folder / "theirs", metadata={"format": "pt"})
    spool = Spool(folder / "ours")
    for name, tensor in made.items():
        spool.add(name, tensor)
    spool.finish({"format": "pt"})
    assert (folder / "ours").read_bytes() == (folder / "theirs").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["ours", "theirs"]


def test_long_tensors_are_copied_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "CHUNK", 7)
    tensor = torch.arange(100, dtype=torch.int16)
    spool = Spool(tmp_path / "one")
    spool.add("x", tensor)
    spool.finish({})
    assert torch.equal(load_file(tmp_path / "one")["x"], tensor)


def test_a_closed_spool_leaves_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "one")
    spool.add("x", torch.zeros(3))
    spool.close()
    assert list(tmp_path.iterdir()) == []
