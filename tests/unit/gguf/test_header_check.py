"""Headers of GGUF files that claim more than there is, and those that do not."""

from __future__ import annotations

import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoround.errors import FormatError
from autoround.gguf.header_check import check_header
from autoround.gguf.opened import open_file

gguf = pytest.importorskip("gguf")
HEAD = b"GGUF" + struct.pack("<I", 3)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def written(path: Path) -> bytes:
    writer: Any = gguf.GGUFWriter(str(path), "llama")
    writer.add_uint32("a.number", 7)
    writer.add_string("a.text", "héllo")
    writer.add_array("a.texts", ["one", "two", ""])
    writer.add_array("a.floats", [1.0, 2.0])
    writer.add_bool("a.flag", True)
    writer.add_tensor("weight", np.arange(64, dtype=np.float32).reshape(2, 32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_what_the_library_writes_passes(tmp_path: Path) -> None:
    written(tmp_path / "m.gguf")
    check_header(tmp_path / "m.gguf")
    assert [t.name for t in open_file(tmp_path / "m.gguf").tensors] == ["weight"]


def test_the_other_byte_order_passes(tmp_path: Path) -> None:
    writer: Any = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_string("a.text", "x")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    check_header(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        # An array of 2^60 entries in 49 bytes.
        (
            HEAD + struct.pack("<QQ", 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 0, 2**60),
            "entries of an array",
        ),
        (
            HEAD + struct.pack("<QQ", 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 8, 2**60),
            "entries of an array",
        ),
        (HEAD + struct.pack("<QQ", 0, 2**63), "fields"),
        (HEAD + struct.pack("<QQ", 2**62, 0), "tensors"),
        (HEAD + struct.pack("<QQQ", 0, 1, 2**61) + b"x" * 16, "name of a field"),
        (HEAD + struct.pack("<QQ", 0, 1) + text(b"k") + struct.pack("<IB", 77, 0), "type 77"),
        (HEAD + struct.pack("<QQ", 1, 0) + text(b"t") + struct.pack("<I", 9) + b"0" * 99, "9 axes"),
        (
            HEAD
            + struct.pack("<QQ", 0, 1)
            + text(b"k")
            + struct.pack("<I", 9)
            + struct.pack("<IQ", 9, 1) * 50
            + b"0" * 99,
            "type 9",
        ),
        (b"GGUF" + struct.pack("<IQQ", 99, 0, 0), "version 99"),
        (b"GGML" + struct.pack("<IQQ", 3, 0, 0), "does not begin"),
        (b"GGUF", "no room"),
        (b"", "no room"),
    ],
)
def test_claims_beyond_the_file_are_refused_at_once(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    started = time.perf_counter()
    with pytest.raises(FormatError, match=reason):
        open_file(path)
    assert time.perf_counter() - started < 2


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_anywhere_is_an_error_or_harmless(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    whole = bytearray(written(path))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        width = data.draw(st.integers(1, 8))
        whole[at : at + width] = data.draw(st.binary(min_size=width, max_size=width))
    path.write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    # Any other error fails the test.
    with suppress(FormatError):
        open_file(path)
