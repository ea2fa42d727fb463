"""The GGUF container: header and tensor list first, then tensors as they are ready.

Written and read through the ``gguf`` package. Only one tensor is in memory at a time.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoround.errors import OutputError, VerificationError
from autoround.gguf.fields import Field
from autoround.gguf.opened import open_file
from autoround.storage.checksum import raw_bytes
from autoround.storage.files import WritableFile

#: Floating-point types of tensors that are not quantized.
FLOATS = {"f16": torch.float16, "f32": torch.float32}


class Container:
    """Writes one file; tensors come in the order in which they were declared."""

    def __init__(
        self,
        path: Path,
        tensors: Sequence[tuple[str, tuple[int, ...], str]],
        *,
        arch: str,
        fields: Iterable[Field],
    ) -> None:
        """Write everything but the tensors' data.

        Args:
            path: The file; it is overwritten.
            tensors: Name, shape as in torch, and GGUF type of each, in the order they will come.
            arch: llama.cpp's name of the architecture.
            fields: Entries of the header.

        Raises:
            OutputError: The file cannot be written.
        """
        import gguf

        self._path = path
        # No path yet: the header goes first, and lists tensors that are still to be declared.
        self._writer: Any = gguf.GGUFWriter(None, arch)
        for field in fields:
            _add_field(self._writer, field)
        self._declared: list[tuple[str, int]] = []
        self._sums: dict[str, int] = {}
        for name, shape, kind in tensors:
            self._declare(name, shape, kind)
        self._next = 0
        try:
            self._file = WritableFile(path)
            self._head = self._begin()
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error}") from error

    def _begin(self) -> _ChecksumFile:
        """Write all that comes before the tensors' data."""
        import gguf.gguf_writer

        head = _ChecksumFile(self._file)
        # As if the writer had opened it: this one sums the header as it is written.
        self._writer.fout = [head]
        self._writer.state = gguf.gguf_writer.WriterState.EMPTY
        self._writer.write_header_to_file()
        self._writer.write_kv_data_to_file()
        self._writer.write_ti_data_to_file()
        self._size = head.size
        # Tensors begin at multiples of the alignment, so each is filled up to the next one.
        self._pad()
        return head

    def _declare(self, name: str, shape: tuple[int, ...], kind: str) -> None:
        import gguf

        if kind in FLOATS:
            dtype = np.dtype(np.float16 if kind == "f16" else np.float32)
            size = int(np.prod(shape)) * dtype.itemsize
            self._writer.add_tensor_info(name, shape, dtype, size)
        else:
            number = gguf.GGMLQuantizationType[kind.upper()]
            block, width = gguf.GGML_QUANT_SIZES[number]
            # In bytes: of uint8 the package works out the weights by the type.
            stored = (*shape[:-1], shape[-1] // block * width)
            size = int(np.prod(stored))
            self._writer.add_tensor_info(name, stored, np.dtype(np.uint8), size, number)
        self._declared.append((name, size))

    def add(self, name: str, data: Tensor) -> None:
        """Write the next tensor.

        Args:
            name: Its name, the next of those declared.
            data: Packed blocks as uint8 [..., bytes], or numbers in their type.

        Raises:
            VerificationError: Another tensor, or another size, was declared.
            OutputError: The disk is full, or the file cannot be written.
        """
        array = data.detach().cpu().contiguous().numpy()
        expected, size = self._declared[self._next]
        if (name, array.nbytes) != (expected, size):
            raise VerificationError(
                f"{self._path.name}: {name} of {array.nbytes} bytes was added, but {expected} of "
                f"{size} bytes was declared"
            )
        try:
            self._write(raw_bytes(data))
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error}") from error
        self._sums[name] = zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data)
        self._next += 1

    def finish(self) -> None:
        """Close the file, and check that all of it reads back as it was written.

        Raises:
            VerificationError: It does not, or a tensor is missing.
            OutputError: The disk fails.
        """
        if self._next != len(self._declared):
            name = self._declared[self._next][0]
            raise VerificationError(f"{self._path.name}: tensor {name} was never written")
        # On the disk before it is checked and, later, renamed.
        try:
            self._file.sync()
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error}") from error
        self.close()
        self._check()

    def close(self) -> None:
        """Close the file, as it is."""
        self._file.close()

    def _write(self, data: memoryview) -> None:
        self._file.write(data)
        self._size += data.nbytes
        self._pad()

    def _pad(self) -> None:
        missing = -self._size % self._writer.data_alignment
        if missing:
            self._file.write(bytes(missing))
            self._size += missing

    def _check(self) -> None:
        """Compare the CRC-32 of header and tensors with those of what was written."""
        with self._path.open("rb") as file:
            if zlib.crc32(file.read(self._head.size)) != self._head.sum:
                raise VerificationError(
                    f"{self._path.name}: its header does not read back as it was written"
                )
        reader = open_file(self._path)
        for tensor in reader.tensors:
            data = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1)
            if zlib.crc32(data.data) != self._sums.pop(tensor.name, None):
                raise VerificationError(
                    f"{self._path.name}: tensor {tensor.name} does not read back as it was written"
                )
        if self._sums:
            raise VerificationError(
                f"{self._path.name}: tensor {next(iter(self._sums))} is missing"
            )


class _ChecksumFile:
    """A file to write to that keeps the CRC-32 of what is written."""

    def __init__(self, file: WritableFile) -> None:
        self._file = file
        self.sum = self.size = 0

    def write(self, data: bytes) -> None:
        """Write bytes."""
        self.sum = zlib.crc32(data, self.sum)
        self.size += len(data)
        self._file.write(data)

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""


def _add_field(writer: Any, field: Field) -> None:
    add = {
        "u32": writer.add_uint32,
        "f32": writer.add_float32,
        "bool": writer.add_bool,
        "text": writer.add_string,
        "texts": writer.add_array,
        "i32s": writer.add_array,
        "f32s": writer.add_array,
        "bools": writer.add_array,
    }[field.kind]
    add(field.key, field.value)
