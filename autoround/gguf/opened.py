"""GGUF files opened for reading: headers are checked before anything believes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoround.errors import FormatError, one_line
from autoround.gguf.header_check import check_header


def open_file(path: Path) -> Any:
    """Open a GGUF file for reading; no tensor is read yet.

    Raises:
        FormatError: The file is damaged, or is not a GGUF file.
    """
    import gguf

    check_header(path)
    try:
        reader = gguf.GGUFReader(path)
    except Exception as error:  # a damaged file fails in many unrelated ways
        raise FormatError(f"{path} is damaged or not a GGUF file: {one_line(error)}") from error
    size = path.stat().st_size
    for tensor in reader.tensors:
        if int(tensor.data_offset) + int(tensor.n_bytes) > size:
            raise FormatError(f"{path}: tensor {tensor.name} reaches beyond the end of the file")
    return reader
