"""The header of a GGUF file held against the file's size, before anything believes it.

The layout is that of the GGUF specification, versions 2 and 3: counts and lengths of 64 bits stand
before what they count. A file of fifty bytes may claim an array of 2^60 entries, which a reader
would go through one by one.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from autoround.errors import FormatError

MAGIC = b"GGUF"
#: Bytes of values by the number of their type; texts and arrays are measured.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _ARRAY = 8, 9
#: Arrays in arrays, at most; llama.cpp writes none.
_DEPTH = 4
#: Axes of a tensor at most, as in ggml.
_AXES = 4


def check_header(path: Path) -> None:
    """Refuse a file whose header claims more than the file holds.

    Args:
        path: of the file.

    Raises:
        FormatError: it is not a GGUF file, or its header is damaged or made to harm.
    """
    if path.stat().st_size < 24:
        raise FormatError(f"{path} is damaged or not a GGUF file: it has no room for a header")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            _Header(data).check()
        except _BadHeader as error:
            raise FormatError(f"{path} is damaged or not a GGUF file: {error}") from error


class _BadHeader(Exception):  # noqa: N818 (becomes an error with the file's name)
    """What is wrong with a header, in words."""


class _Header:
    """Goes through the header of a file, and never beyond its end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0
        self._order = "<"

    def check(self) -> None:
        """Go through counts, fields and tensors.

        Raises:
            _BadHeader: they do not fit into the file.
        """
        if self._take(4) != MAGIC:
            raise _BadHeader("it does not begin with GGUF")
        (version,) = struct.unpack("<I", self._take(4))
        if version & 0xFFFF == 0:
            # Written by a machine of the other byte order.
            self._order = ">"
            (version,) = struct.unpack(">I", struct.pack("<I", version))
        if version not in (2, 3):
            raise _BadHeader(f"version {version} of the format, where 2 and 3 are known")
        tensors, fields = self._number(), self._number()
        # The shortest field has 8 bytes of length, 4 of type and one of value; a tensor 24.
        self._expect(fields, 13, "fields")
        for _ in range(fields):
            self._text("the name of a field")
            self._value(self._word(), depth=0)
        self._expect(tensors, 24, "tensors")
        for _ in range(tensors):
            self._text("the name of a tensor")
            axes = self._word()
            if axes > _AXES:
                raise _BadHeader(f"a tensor of {axes} axes, where {_AXES} are possible")
            for _ in range(axes):
                self._number()
            self._word()
            self._number()

    def _value(self, kind: int, *, depth: int) -> None:
        if kind in _SIZES:
            self._take(_SIZES[kind])
        elif kind == _TEXT:
            self._text("a text")
        elif kind == _ARRAY and depth < _DEPTH:
            inner, count = self._word(), self._number()
            self._expect(count, _SIZES.get(inner, 8), "entries of an array")
            if inner in _SIZES:
                self._skip(count * _SIZES[inner])
                return
            for _ in range(count):
                self._value(inner, depth=depth + 1)
        else:
            raise _BadHeader(f"a value of type {kind}, which the format does not have here")

    def _text(self, what: str) -> None:
        length = self._number()
        self._expect(length, 1, f"bytes of {what}")
        self._skip(length)

    def _expect(self, count: int, size: int, what: str) -> None:
        left = len(self._data) - self._at
        if count * size > left:
            raise _BadHeader(f"it claims {count} {what}, and {left} bytes are left")

    def _number(self) -> int:
        value: int = struct.unpack(f"{self._order}Q", self._take(8))[0]
        return value

    def _word(self) -> int:
        value: int = struct.unpack(f"{self._order}I", self._take(4))[0]
        return value

    def _take(self, size: int) -> bytes:
        begin = self._at
        self._skip(size)
        return self._data[begin : self._at]

    def _skip(self, size: int) -> None:
        if self._at + size > len(self._data):
            raise _BadHeader("it ends within its header")
        self._at += size
