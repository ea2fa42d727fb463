"""Token ids of the records of one dataset, and a count of those that are of no use."""

from __future__ import annotations

from collections.abc import Callable

from autoround.data.chats import Chat
from autoround.data.encode import Encoder
from autoround.data.forms import UnusableError
from autoround.data.records import Record
from autoround.data.rendering import PLAIN_CHATS
from autoround.data.spec import DatasetSpec


class RowReader:
    """Makes ids of records as a dataset spec says; records of no use give none and are counted."""

    def __init__(self, spec: DatasetSpec, encoder: Encoder) -> None:
        self._spec = spec
        self._encoder = encoder
        self._records = 0
        self._unusable = 0
        self._first_reason = ""
        self._plain_chats = False

    def document(self, record: Record, limit: int) -> list[int]:
        """Return the first ``limit`` ids of a record, special tokens included.

        Args:
            record: of the dataset.
            limit: at least 1.

        Returns:
            The ids; none where the record is of no use.
        """
        return self._ids(self._encoder.document, record, limit)

    def body(self, record: Record, limit: int) -> list[int]:
        """Return at most ``limit`` ids of a record without special tokens around them.

        Args:
            record: of the dataset.
            limit: at least 1.

        Returns:
            The ids; none where the record is of no use.
        """
        return self._ids(self._encoder.body, record, limit)

    @property
    def left_out(self) -> str:
        """Say how many records were of no use, and why one of them was; nothing if none was."""
        if not self._unusable:
            return ""
        return (
            f"{self._unusable} of the {self._records} records read cannot be used and are left "
            f"out, such as {self._first_reason}"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what was done with the records that is worth knowing."""
        notes = []
        if self._spec.apply_chat_template:
            notes.append("chat template")
        if self._plain_chats:
            notes.append(PLAIN_CHATS)
        if self._spec.system_prompt is not None:
            notes.append("system prompt")
        return (*notes, self.left_out) if self._unusable else tuple(notes)

    def _ids(self, encode: Callable[..., list[int]], record: Record, limit: int) -> list[int]:
        self._records += 1
        try:
            ids = encode(
                record,
                limit,
                apply_chat=self._spec.apply_chat_template,
                system_prompt=self._spec.system_prompt,
            )
        except UnusableError as error:
            self._unusable += 1
            self._first_reason = self._first_reason or str(error)
            return []
        if isinstance(record, Chat) and not self._encoder.has_chat_template:
            self._plain_chats = True
        return ids
