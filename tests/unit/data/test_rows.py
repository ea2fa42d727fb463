from __future__ import annotations

from typing import Any

import pytest

from autoround.data.chats import Chat, Message
from autoround.data.encode import make_encoder
from autoround.data.records import Text, Unusable
from autoround.data.rows import RowReader
from autoround.data.spec import DatasetSpec
from autoround.errors import DataError

CHAT = Chat((Message("user", "hi"),), "f:2")
SYSTEM = Chat((Message("system", "x"), Message("user", "y")), "f:3")


def test_records_of_no_use_give_no_ids_and_are_counted(no_system_tokenizer: Any) -> None:
    reader = RowReader(DatasetSpec("f"), make_encoder(no_system_tokenizer))
    assert reader.document(CHAT, 9)
    assert (reader.left_out, reader.notes) == ("", ())
    assert reader.document(SYSTEM, 9) == []
    assert reader.body(Unusable("f:4: null", "f:4"), 9) == []
    assert reader.left_out.startswith(
        "2 of the 3 records read cannot be used and are left out, such as f:3: the model's"
    )
    assert reader.notes == (reader.left_out,)


def test_mistakes_are_not_counted_but_raised(no_system_tokenizer: Any) -> None:
    spec = DatasetSpec("f", system_prompt="Be kind.", apply_chat_template=True)
    reader = RowReader(spec, make_encoder(no_system_tokenizer))
    with pytest.raises(DataError, match="leave system_prompt out"):
        reader.document(CHAT, 9)
    assert reader.left_out == ""


def test_notes_say_how_conversations_were_written(tokenizer: Any, chat_tokenizer: Any) -> None:
    plain = RowReader(DatasetSpec("f"), make_encoder(tokenizer))
    assert plain.document(Text("hi", "f:1"), 9)
    assert plain.notes == ()
    assert plain.document(CHAT, 9)
    assert plain.notes == ("conversations as plain text (the tokenizer has no chat template)",)
    spec = DatasetSpec("f", system_prompt="Be kind.", apply_chat_template=True)
    by_template = RowReader(spec, make_encoder(chat_tokenizer))
    assert by_template.document(CHAT, 9)
    assert by_template.notes == ("chat template", "system prompt")
