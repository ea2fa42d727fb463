"""Finished blocks come back from their files bit for bit, or not at all."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from autoround.core.grids.gguf_types import scheme_of_type
from autoround.core.rtn import quantize_matrix
from autoround.errors import OutputError
from autoround.formats.gguf.blocks import GgufTensor
from autoround.formats.gguf.tensors import nested_tensor
from autoround.resume.records import (
    read_record,
    record_weights,
    recorded_weights,
    write_record,
)
from autoround.session.block_output import QuantizedWeight
from autoround.session.packed_weights import pack_weights, unpack_weight
from autoround.types import Scheme

from ...tiny_quantized import nearest

FACTS = {"loss": 0.1, "nan": float("nan"), "names": ["a", "σ"], "none": None}


def gguf_tensor(kind: str) -> GgufTensor:
    codes, _, _, nested = quantize_matrix(torch.randn(3, 256), scheme_of_type(kind), search=False)
    assert nested is not None
    return nested_tensor(kind, codes, nested)


def layers() -> dict[str, QuantizedWeight]:
    torch.manual_seed(0)
    weight = torch.randn(5, 96)
    plain = {
        f"{bits} bits, groups of {group}": nearest(weight, Scheme(bits, group, bits % 2 == 0))
        for bits, group in ((2, 32), (3, -1), (4, 0), (5, 16), (8, 64))
    }
    return {**plain, **{kind: gguf_tensor(kind) for kind in ("q2_k", "q4_k", "q6_k", "q5_1")}}


def test_layers_are_what_they_were(tmp_path: Path) -> None:
    own = layers()
    packed = pack_weights(own, {}, "")
    write_record(tmp_path / "record", *record_weights(packed))
    back = recorded_weights(*read_record(tmp_path / "record"))
    assert {name: one.packing for name, one in back.items()} == dict.fromkeys(own, "")
    found = {name: unpack_weight(one) for name, one in back.items()}
    assert list(found) == list(own)
    for name, layer in own.items():
        other = found[name]
        assert type(other) is type(layer)
        for field in layer.__dataclass_fields__:
            left, right = getattr(layer, field), getattr(other, field)
            if isinstance(left, Tensor):
                assert torch.equal(left, right), (name, field)
                assert left.dtype == right.dtype
            else:
                assert left == right


def test_tensors_and_facts_of_any_kind_are_what_they_were(tmp_path: Path) -> None:
    tensors = {
        "turned": torch.randn(4, 6).t(),
        "half": torch.randn(3).bfloat16(),
        "empty": torch.zeros(0, 3),
        "one": torch.tensor(7),
    }
    write_record(tmp_path / "record", tensors, FACTS)
    found, facts = read_record(tmp_path / "record")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
    assert math.isnan(facts.pop("nan"))
    assert facts == {key: value for key, value in FACTS.items() if key != "nan"}


def test_a_record_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    for step in (1, 2):
        write_record(tmp_path / "record", {"a": torch.full((2,), step)}, {"step": step})
    tensors, facts = read_record(tmp_path / "record")
    assert (tensors["a"].tolist(), facts) == ([2, 2], {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["record"]


def test_any_byte_that_changes_is_told(tmp_path: Path) -> None:
    path = tmp_path / "record"
    layer = nearest(torch.randn(4, 32), Scheme(4, 32, True))
    write_record(path, *record_weights(pack_weights({"layer": layer}, {}, "")))
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    places = np.random.default_rng(0).integers(0, len(whole), 150)
    for place in [*places, 0, 8, 8 + header, len(whole) - 1]:
        if whole[place : place + 1] == b" " and 8 <= place < 8 + header:
            continue  # what pads the header
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(OutputError, match="is damaged.* --restart"):
            read_record(path)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_record_that_is_cut_off_or_missing_is_told(size: int, tmp_path: Path) -> None:
    path = tmp_path / "record"
    write_record(path, {"a": torch.ones(40)}, {})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(OutputError, match="record is damaged"):
        read_record(path)
    path.unlink()
    with pytest.raises(OutputError, match="record is damaged"):
        read_record(path)


def test_a_file_of_somebody_else_is_no_record(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for metadata in (None, {"format": "pt"}, {"record": "{}", "crc": "x"}):
        save_file({"a": torch.ones(2)}, tmp_path / "record", metadata=metadata)
        with pytest.raises(OutputError, match="record is damaged"):
            read_record(tmp_path / "record")
