"""Text to evaluate on, kept apart from what calibration sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from autoround.data.chats import Chat
from autoround.data.embedded import embedded_split
from autoround.data.encode import Encoder, Tokenizer, make_encoder
from autoround.data.records import Record, Text, Unusable
from autoround.data.sources import SUFFIXES, Source, open_source
from autoround.data.spec import DatasetSpec
from autoround.errors import DataError

if TYPE_CHECKING:
    import torch

__all__ = ["embedded_split", "text_tokens"]

#: Ids taken when no limit is given; about 64 MB of English text.
MAX_TOKENS = 2**24


def text_tokens(
    text_or_path: str | Path, tokenizer: Tokenizer, *, max_tokens: int | None = None
) -> torch.Tensor:
    """Return the ids of a text, in its order, for evaluation.

    text_or_path: a str is the text itself; a Path is a .txt, .jsonl, .json or .parquet file,
    whose records are joined without anything between them. max_tokens: ids to return at most,
    None for up to MAX_TOKENS.

    Returns int64 [n], led by the special tokens that the tokenizer starts a text with.
    Raises: DataError when the file cannot be read, or there is no text in it.
    """
    import torch

    limit = MAX_TOKENS if max_tokens is None else max_tokens
    encoder = make_encoder(tokenizer)
    if limit <= len(encoder.prefix):
        raise DataError(
            f"max_tokens={limit} leaves no room for text: {len(encoder.prefix) + 1} or more is "
            "needed"
        )
    room = limit - len(encoder.prefix)
    if isinstance(text_or_path, str):
        where = "the evaluation text"
        ids = encoder.text_ids([text_or_path], room, where=where)
    else:
        where = str(text_or_path)
        source = _file(text_or_path)
        if source.running:
            texts = (r.text for r in source.records() if isinstance(r, Text))
            ids = encoder.text_ids(texts, room, where=where)
        else:
            ids = _record_ids(source.records(), encoder, room=room)
    if not ids:
        raise DataError(f"{where} holds no text to evaluate on")
    return torch.tensor([*encoder.prefix, *ids], dtype=torch.int64)


def check_text(path: Path) -> None:
    """Read the first record of an evaluation file, to find mistakes before they cost time.

    Raises: DataError when the file cannot be read, or there is nothing in it.
    """
    first = next(iter(_file(path).records()), None)
    if first is None:
        raise DataError(f"{path} holds no text to evaluate on")
    _check_kind(first)


def _file(path: Path) -> Source:
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{path}: files of kind {path.suffix or '(no suffix)'} cannot be read; "
            f"legal kinds: {', '.join(SUFFIXES)}"
        )
    return open_source(DatasetSpec(str(path)))


def _record_ids(records: Iterator[Record], encoder: Encoder, *, room: int) -> list[int]:
    ids: list[int] = []
    for record in records:
        _check_kind(record)
        ids += encoder.body(record, room - len(ids), apply_chat=False, system_prompt=None)
        if len(ids) >= room:
            break
    return ids


def _check_kind(record: Record) -> None:
    if isinstance(record, Unusable):
        raise DataError(record.reason)
    if isinstance(record, Chat):
        raise DataError(f"{record.where}: a conversation is not a text to evaluate on")
