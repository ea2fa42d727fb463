"""Where calibration records come from: files, the hub, and the embedded text."""

from __future__ import annotations

import codecs
import importlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoround.data.embedded import EMBEDDED_LABEL, embedded_split
from autoround.data.encode import PIECE_CHARS, safe_cut
from autoround.data.forms import columns_to_read, rows_of
from autoround.data.hub import hub_records
from autoround.data.records import MAX_RECORD_CHARS, Record, Text, to_record
from autoround.data.spec import DatasetSpec
from autoround.errors import DataError

#: Name that stands for the text that comes with Python.
EMBEDDED = "embedded"
#: Suffixes of files that can be read.
SUFFIXES = (".txt", ".jsonl", ".json", ".parquet")
#: Bytes of a .txt file that are read at most; what follows is never looked at.
MAX_TEXT_BYTES = 2**30
#: Bytes of a .json file, which has to be parsed whole.
MAX_JSON_BYTES = 256 * 2**20

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")
_PARQUET_ROWS = 64


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset that can be read from its start as often as needed.

    running: the records are consecutive pieces of one text, not documents of their own.
    may_overlap: windows may share tokens when the text is too short for separate ones.
    """

    label: str
    records: Callable[[], Iterator[Record]]
    running: bool = False
    may_overlap: bool = False


def open_source(spec: DatasetSpec) -> Source:
    """Find what a dataset spec names, without reading it.

    Raises: DataError when the file is missing, of an unknown kind, or an option does not fit.
    """
    path = Path(spec.name)
    if spec.name == EMBEDDED:
        source = Source(EMBEDDED_LABEL, _embedded_pieces, running=True, may_overlap=True)
    elif os.path.isfile(path) or path.suffix.lower() in SUFFIXES:
        source = _file_source(path, spec)
    elif os.path.isdir(path):
        raise DataError(
            f"dataset {spec.name} is a folder: name one file in it "
            f"({', '.join(SUFFIXES)}), or several separated by commas"
        )
    elif _HUB_ID.fullmatch(spec.name):
        return Source(spec.name, lambda: hub_records(spec))
    else:
        raise DataError(
            f"dataset {spec.name!r} is neither a file here, nor 'embedded', nor a hub dataset "
            f"written owner/name; legal files: {', '.join(SUFFIXES)}"
        )
    if spec.splits:
        raise DataError(
            f"dataset {spec.name}: split={'+'.join(spec.splits)} works on hub datasets only: "
            "leave it out"
        )
    if source.running:
        _refuse_record_options(spec)
    return source


def _refuse_record_options(spec: DatasetSpec) -> None:
    asked = {
        "apply_chat_template": spec.apply_chat_template,
        "system_prompt": spec.system_prompt is not None,
        "key": spec.text_key is not None,
    }
    for option, used in asked.items():
        if used:
            raise DataError(
                f"dataset {spec.name}: {option} works on datasets of records "
                f"({', '.join(SUFFIXES[1:])}, hub), not on one running text: leave it out"
            )


def _file_source(path: Path, spec: DatasetSpec) -> Source:
    suffix = path.suffix.lower()
    if os.path.isdir(path):
        raise DataError(f"dataset {spec.name} is a folder, not a {suffix} file")
    if not os.path.isfile(path):
        raise DataError(f"dataset {spec.name}: there is no such file")
    if suffix not in SUFFIXES:
        raise DataError(
            f"dataset {spec.name}: files of kind {suffix or '(no suffix)'} cannot be read; "
            f"legal kinds: {', '.join(SUFFIXES)}"
        )
    if suffix == ".txt":
        return Source(spec.name, lambda: _text_pieces(path), running=True)
    readers = {".jsonl": _jsonl_records, ".json": _json_records, ".parquet": _parquet_records}
    reader = readers[suffix]
    return Source(spec.name, lambda: reader(path, spec))


def _embedded_pieces() -> Iterator[Record]:
    yield Text(embedded_split()[0], EMBEDDED_LABEL)


def _text_pieces(path: Path) -> Iterator[Record]:
    """Yield a .txt file in pieces of about PIECE_CHARS characters, cut where no word splits."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    buffer, read, final = "", 0, False
    with _opened(path) as file:
        while not final:
            block = _read(path, file.read, min(PIECE_CHARS, MAX_TEXT_BYTES - read))
            final = len(block) == 0
            pending = len(decoder.getstate()[0])
            # At the size limit a character may be cut in two; its half is dropped.
            try:
                text = decoder.decode(block, final and read < MAX_TEXT_BYTES)
            except UnicodeDecodeError as error:
                raise _not_utf8(str(path), read - pending + error.start) from error
            buffer += text.removeprefix("\ufeff") if read == 0 else text
            read += len(block)
            while len(buffer) > PIECE_CHARS:
                end = safe_cut(buffer, 0, end=PIECE_CHARS)
                yield Text(buffer[:end], str(path))
                buffer = buffer[end:]
    if buffer:
        yield Text(buffer, str(path))


def _jsonl_records(path: Path, spec: DatasetSpec) -> Iterator[Record]:
    number = 0
    with _opened(path) as file:
        while True:
            number += 1
            where = f"{path}:{number}"
            line = _read(path, file.readline, MAX_RECORD_CHARS + 1)
            if not line:
                return
            if len(line) > MAX_RECORD_CHARS:
                raise DataError(
                    f"{where}: this line is over the limit of {MAX_RECORD_CHARS} bytes: "
                    "split it into several records, or give the text as a .txt file"
                )
            text = _decoded(line, where).removeprefix("\ufeff").strip()
            if text:
                yield _record(_parsed(text, where), where, spec=spec)


def _json_records(path: Path, spec: DatasetSpec) -> Iterator[Record]:
    with _opened(path) as file:
        raw = _read(path, file.read, MAX_JSON_BYTES + 1)
    if len(raw) > MAX_JSON_BYTES:
        raise DataError(
            f"{path}: a .json file is parsed whole, and this one is over the limit of "
            f"{MAX_JSON_BYTES} bytes: convert it to .jsonl, one record a line"
        )
    text = _decoded(raw, str(path)).removeprefix("\ufeff").strip()
    if not text:
        return
    for index, value in enumerate(_rows(_parsed(text, str(path)), path)):
        where = f"{path}[{index}]"
        yield _record(value, where, spec=spec)


def _rows(value: object, path: Path) -> list[Any]:
    """Return the records of a parsed .json file: a list, a mapping of columns, or one record."""
    rows = rows_of(value)
    if rows is not None:
        return rows
    raise DataError(
        f"{path}: a list of records is needed, or a mapping of columns of equal length, "
        f"not a value of type {type(value).__name__}"
        + (
            f" with the fields {', '.join(map(repr, list(value)[:20]))}"
            if isinstance(value, dict)
            else ""
        )
    )


def _parquet_records(path: Path, spec: DatasetSpec) -> Iterator[Record]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        arrow = importlib.import_module("pyarrow")
    except ImportError as error:
        raise DataError(
            f"{path}: reading .parquet needs the package pyarrow: pip install pyarrow"
        ) from error
    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            names: list[str] = file.schema_arrow.names
            if spec.text_key is not None and spec.text_key not in names:
                raise DataError(
                    f"{path}: no column {spec.text_key!r}; columns found: {', '.join(names)}"
                )
            # With no known form all columns are read, so that the error can name them.
            columns = [spec.text_key] if spec.text_key else columns_to_read(names)
            batches = file.iter_batches(batch_size=_PARQUET_ROWS, columns=columns)
            for batch in batches:
                for value in batch.to_pylist():
                    yield _record(value, f"{path} row {row}", spec=spec)
                    row += 1
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as .parquet: {error}") from error


def _record(value: object, where: str, *, spec: DatasetSpec) -> Record:
    return to_record(value, where, key=spec.text_key, prefer_chat=spec.apply_chat_template)


def _parsed(text: str, where: str) -> object:
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: not valid JSON, line {error.lineno} column {error.colno}: {error.msg}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not acceptable JSON: {error}") from error
    return value


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error.start) from error


def _not_utf8(where: str, offset: int) -> DataError:
    return DataError(
        f"{where}: byte {offset} (counted from 0) is not valid UTF-8: convert the text to UTF-8"
    )


def _opened(path: Path) -> Any:
    return _read(path, path.open, "rb")


def _read(path: Path, action: Callable[..., Any], *arguments: object) -> Any:
    try:
        return action(*arguments)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
