"""From records to token ids, in pieces, so that no text is ever tokenized whole.

A text longer than one piece is cut after a line break, or else before a space, and the pieces are
tokenized one after another until enough ids are there. A tokenizer whose merges cross such a cut,
or that starts every text with a space marker, can give one id more or less there than it would
for the whole text: once in about a million characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from autoround.data.chats import Chat, Message
from autoround.data.forms import UnusableError
from autoround.data.records import Ids, Record, Text, Unusable
from autoround.data.rendering import plain_chat, render_chat
from autoround.errors import DataError

#: Characters tokenized at once.
PIECE_CHARS = 2**20

_SMALLEST_PIECE = 4096
#: More than the characters that one token stands for in most texts.
_CHARS_PER_TOKEN = 8


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    @property
    def pad_token_id(self) -> Any:
        """Id that fills padding, or None."""

    @property
    def eos_token_id(self) -> Any:
        """Id that ends a text, or None."""

    @property
    def chat_template(self) -> Any:
        """Jinja template of a conversation, or None."""

    def encode(self, text: str, *, add_special_tokens: bool, verbose: bool) -> list[int]:
        """Return the ids of a text, with or without the special tokens around it."""

    def apply_chat_template(
        self, conversation: Any, *, tools: Any, tokenize: bool, add_generation_prompt: bool
    ) -> Any:
        """Return a conversation as one string when ``tokenize`` is False."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """A tokenizer (or none, for ids alone), and the special tokens it puts around a text."""

    tokenizer: Tokenizer | None
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    pad_id: int = 0
    vocab_size: int | None = None

    def document(
        self, record: Record, limit: int, *, apply_chat: bool, system_prompt: str | None
    ) -> list[int]:
        """Return the first ``limit`` ids of a record, special tokens included.

        A conversation carries the special tokens its template writes, and ids are left as they are.

        Raises: UnusableError when the record is of no use to this model, DataError when it or an
        option is a mistake.
        """
        if isinstance(record, Ids):
            return self._checked(list(record.ids[:limit]), record.where)
        text, plain = self._text(record, apply_chat=apply_chat, system_prompt=system_prompt)
        if not plain:
            return self.text_ids([text], limit, where=record.where)
        body = self.text_ids([text], limit - len(self.prefix), where=record.where)
        return [*self.prefix, *body, *self.suffix][:limit]

    def body(
        self, record: Record, limit: int, *, apply_chat: bool, system_prompt: str | None
    ) -> list[int]:
        """Return at most ``limit`` ids of a record without special tokens around them."""
        if isinstance(record, Ids):
            ids = self._checked(list(record.ids), record.where)
        else:
            text, plain = self._text(record, apply_chat=apply_chat, system_prompt=system_prompt)
            ids = self.text_ids([text], limit + len(self.prefix), where=record.where)
            if plain:
                return ids[:limit]
        head, tail = len(self.prefix), len(self.suffix)
        if head and tuple(ids[:head]) == self.prefix:
            ids = ids[head:]
        if tail and tuple(ids[-tail:]) == self.suffix:
            ids = ids[:-tail]
        return ids[:limit]

    def text_ids(
        self,
        texts: Iterable[str],
        limit: int | None,
        *,
        where: str,
        pieces_for: int | None = None,
    ) -> list[int]:
        """Return the first ``limit`` ids of consecutive texts, no special tokens added.

        The text is tokenized in pieces that a smaller limit makes smaller: those of ``pieces_for``
        have the same ids at the beginning as that limit gives.
        """
        if self.tokenizer is None:
            raise DataError(
                f"{where}: text needs a tokenizer, and the model has none: give token ids "
                '({"input_ids": [...]}) instead'
            )
        piece_chars = PIECE_CHARS
        if limit is not None:
            wanted = max(_SMALLEST_PIECE, (pieces_for or limit) * _CHARS_PER_TOKEN)
            piece_chars = min(PIECE_CHARS, wanted)
        ids: list[int] = []
        for text in texts:
            for piece in pieces(text, piece_chars):
                if limit is not None and len(ids) >= limit:
                    return ids[:limit]
                new = self.tokenizer.encode(piece, add_special_tokens=False, verbose=False)
                ids += self._checked(new, where)
        return ids[:limit]

    @property
    def has_chat_template(self) -> bool:
        """Tell whether conversations go through a chat template, or into a plain form."""
        return self.tokenizer is not None and bool(self.tokenizer.chat_template)

    def _text(
        self, record: Text | Chat | Unusable, *, apply_chat: bool, system_prompt: str | None
    ) -> tuple[str, bool]:
        """Return the text to tokenize, and whether it is plain (not from a template)."""
        if isinstance(record, Unusable):
            raise UnusableError(record.reason)
        if isinstance(record, Text):
            if not apply_chat and system_prompt is not None:
                raise DataError(
                    f"{record.where}: system_prompt works on conversations, and this record is "
                    "plain text: add ':apply_chat_template', or leave system_prompt out"
                )
            if not apply_chat:
                return record.text, True
            record = Chat((Message("user", record.text),), record.where)
        if self.tokenizer is not None and self.tokenizer.chat_template:
            return render_chat(self.tokenizer, record, system_prompt=system_prompt), False
        if apply_chat:
            raise DataError(
                f"{record.where}: apply_chat_template needs a chat template, and the model's "
                "tokenizer has none: leave the option out, or use a model with a chat template"
            )
        return plain_chat(record, system_prompt=system_prompt), True

    def _checked(self, ids: list[int], where: str) -> list[int]:
        if ids:
            check_ids(min(ids), max(ids), vocab_size=self.vocab_size, where=where)
        return ids


def check_ids(least: int, most: int, *, vocab_size: int | None, where: str) -> None:
    """Refuse token ids that a model does not know.

    Args:
        least: of the ids.
        most: of the ids.
        vocab_size: rows of the model's embeddings; None where they are not known.
        where: the ids come from.

    Raises:
        DataError: some are outside the vocabulary.
    """
    if least < 0:
        raise DataError(f"{where}: token id {least} is negative")
    if vocab_size is not None and most >= vocab_size:
        raise DataError(
            f"{where}: token id {most} is outside the model's vocabulary "
            f"(0 to {vocab_size - 1}): the tokenizer or the ids belong to another model"
        )


def make_encoder(tokenizer: Tokenizer | None, *, vocab_size: int | None = None) -> Encoder:
    """Find out which special tokens a tokenizer puts before and after a text.

    vocab_size: number of ids the model knows; ids from there on are refused. None: no check.
    """
    if tokenizer is None:
        return Encoder(None, vocab_size=vocab_size)
    bare = tokenizer.encode("a", add_special_tokens=False, verbose=False)
    full = tokenizer.encode("a", add_special_tokens=True, verbose=False)
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            prefix, suffix = tuple(full[:start]), tuple(full[start + len(bare) :])
            break
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = tokenizer.eos_token_id
    return Encoder(tokenizer, prefix, suffix, 0 if pad is None else int(pad), vocab_size)


def pieces(text: str, piece_chars: int) -> Iterator[str]:
    """Cut a text into pieces of at most ``piece_chars`` characters at safe places."""
    start = 0
    while len(text) - start > piece_chars:
        end = safe_cut(text, start, end=start + piece_chars)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def safe_cut(text: str, start: int, *, end: int) -> int:
    """Return a place in the second half of [start, end] where a cut splits no word.

    After a line break that is followed by text; else before a run of spaces; else at ``end``.
    """
    low = start + (end - start) // 2
    at = text.rfind("\n", low, end - 1)
    while at >= 0:
        if not text[at + 1].isspace():
            return at + 1
        at = text.rfind("\n", low, at)
    at = text.rfind(" ", low, end)
    while at > start and text[at - 1].isspace():
        at -= 1
    return at if at > start else end
