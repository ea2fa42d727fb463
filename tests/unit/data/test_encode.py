from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoround.data.chats import Chat, Message
from autoround.data.encode import Encoder, make_encoder, pieces
from autoround.data.forms import UnusableError
from autoround.data.records import Ids, Text, Unusable
from autoround.errors import DataError

CHAT = Chat((Message("user", "hi"), Message("assistant", "yes")), "f:1")


def ids_of(encoder: Encoder, text: str) -> list[int]:
    return encoder.text_ids([text], None, where="test")


@given(st.text(alphabet="ab \n\tc", max_size=200), st.integers(1, 20))
def test_pieces_join_to_the_text_and_obey_the_size(text: str, piece_chars: int) -> None:
    cut = list(pieces(text, piece_chars))
    assert "".join(cut) == text
    assert all(0 < len(piece) <= piece_chars for piece in cut)


def test_pieces_are_cut_after_line_breaks_then_before_spaces_then_anywhere() -> None:
    assert list(pieces("aa bb\ncc dd ee", 9)) == ["aa bb\n", "cc dd ee"]
    assert list(pieces("aaaa bbbb cccc", 10)) == ["aaaa bbbb", " cccc"]
    assert list(pieces("aaaaaaaaaaaa", 5)) == ["aaaaa", "aaaaa", "aa"]


def test_special_tokens_are_found(tokenizer: Any, plain_tokenizer: Any) -> None:
    found = make_encoder(tokenizer)
    assert (found.prefix, found.suffix, found.pad_id) == ((0,), (1,), 2)
    bare = make_encoder(plain_tokenizer)
    assert (bare.prefix, bare.suffix) == ((), ())


def test_document_has_special_tokens_and_body_has_not(tokenizer: Any) -> None:
    encoder = make_encoder(tokenizer)
    bare = ids_of(encoder, "hello")
    text = Text("hello", "f:1")
    document = encoder.document(text, 99, apply_chat=False, system_prompt=None)
    assert document == [0, *bare, 1] == tokenizer.encode("hello")
    assert encoder.document(text, 4, apply_chat=False, system_prompt=None) == [0, *bare[:3]]
    for record in (text, Ids(tuple(document), "f:1"), Ids(tuple(bare), "f:1")):
        assert encoder.body(record, 99, apply_chat=False, system_prompt=None) == bare
        assert encoder.body(record, 2, apply_chat=False, system_prompt=None) == bare[:2]


def test_a_long_text_is_tokenized_only_as_far_as_needed(plain_tokenizer: Any) -> None:
    class Counting:
        pad_token_id = eos_token_id = chat_template = None
        seen = 0

        def encode(self, text: str, *, add_special_tokens: bool, verbose: bool) -> list[int]:
            self.seen += len(text)
            return list(text.encode())

        def apply_chat_template(
            self, conversation: Any, *, tools: Any, tokenize: bool, add_generation_prompt: bool
        ) -> str:
            raise AssertionError("not a conversation")

    counting = Counting()
    encoder = make_encoder(counting)
    text = "word " * 1_000_000
    assert len(encoder.text_ids([text], 100, where="f")) == 100
    assert counting.seen < 5_000


def test_pieces_of_a_long_text_give_the_ids_of_the_whole(plain_tokenizer: Any) -> None:
    text = "".join(f"line {number} of a text\n" for number in range(2_000))
    encoder = make_encoder(plain_tokenizer)
    limit = 20_000
    expected = plain_tokenizer.encode(text)[:limit]
    assert encoder.text_ids([text[:7000], text[7000:]], limit, where="f") == expected


def test_conversations_go_through_the_template(chat_tokenizer: Any) -> None:
    encoder = make_encoder(chat_tokenizer)

    def decoded(record: Text | Chat, system_prompt: str | None = None) -> str:
        ids = encoder.document(record, 999, apply_chat=True, system_prompt=system_prompt)
        return str(chat_tokenizer.decode(ids))

    assert decoded(CHAT) == "<s><user> hi <assistant> yes "
    assert decoded(Text("hi", "f:1")) == "<s><user> hi <assistant>"
    assert decoded(CHAT, "Be.") == "<s><system> Be. <user> hi <assistant> yes "
    own = Chat((Message("system", "old"), Message("user", "hi")), "f:1")
    assert decoded(own, "new") == "<s><system> new <user> hi <assistant>"
    assert decoded(own) == "<s><system> old <user> hi <assistant>"


def test_body_of_a_conversation_loses_the_template_s_first_token(chat_tokenizer: Any) -> None:
    encoder = make_encoder(chat_tokenizer)
    ids = encoder.body(CHAT, 999, apply_chat=False, system_prompt=None)
    assert chat_tokenizer.decode(ids) == "<user> hi <assistant> yes "


def test_template_ids_equal_those_of_transformers(chat_tokenizer: Any) -> None:
    encoder = make_encoder(chat_tokenizer)
    conversation = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    expected = chat_tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=False)
    assert encoder.document(CHAT, 999, apply_chat=False, system_prompt=None) == expected


def test_a_refused_system_prompt_is_never_left_out_silently(
    no_system_tokenizer: Any, drops_system_tokenizer: Any
) -> None:
    for model, part in (
        (no_system_tokenizer, "refuses a system message (no system role): leave system_prompt out"),
        (drops_system_tokenizer, "drops the system message"),
    ):
        encoder = make_encoder(model)
        assert encoder.document(CHAT, 99, apply_chat=False, system_prompt=None)
        with pytest.raises(DataError) as caught:
            encoder.document(CHAT, 99, apply_chat=False, system_prompt="Be kind.")
        assert str(caught.value).startswith("f:1: ")
        assert part in str(caught.value)


def test_a_conversation_the_template_refuses_is_named(no_system_tokenizer: Any) -> None:
    chat = Chat((Message("system", "x"), Message("user", "y")), "f:9")
    with pytest.raises(DataError, match=r"f:9: .* roles system, user: no system role"):
        make_encoder(no_system_tokenizer).document(chat, 99, apply_chat=False, system_prompt=None)


def test_what_cannot_be_encoded_says_why(tokenizer: Any) -> None:
    text = Text("hi", "f:1")
    with pytest.raises(DataError, match="needs a tokenizer"):
        make_encoder(None).document(text, 9, apply_chat=False, system_prompt=None)
    encoder = make_encoder(tokenizer)
    with pytest.raises(DataError, match="needs a chat template"):
        encoder.document(text, 9, apply_chat=True, system_prompt=None)
    with pytest.raises(DataError, match="add ':apply_chat_template'"):
        encoder.document(text, 9, apply_chat=False, system_prompt="Be.")


def test_a_conversation_without_a_template_is_plain_text(tokenizer: Any) -> None:
    encoder = make_encoder(tokenizer)
    assert not encoder.has_chat_template
    ids = encoder.document(CHAT, 99, apply_chat=False, system_prompt="Be.")
    assert tokenizer.decode(ids) == "<s>System: Be.\n\nUser: hi\n\nAssistant: yes</s>"
    body = encoder.body(CHAT, 99, apply_chat=False, system_prompt="Be.")
    assert [0, *body, 1] == ids


def test_an_unusable_record_says_why(tokenizer: Any) -> None:
    record = Unusable("f:1: 'text' is null", "f:1")
    for encode in (make_encoder(tokenizer).document, make_encoder(tokenizer).body):
        with pytest.raises(UnusableError, match="f:1: 'text' is null"):
            encode(record, 9, apply_chat=False, system_prompt=None)


def test_ids_outside_the_vocabulary_are_refused(tokenizer: Any) -> None:
    encoder = make_encoder(tokenizer, vocab_size=50)
    good = encoder.document(Ids((0, 49), "f:1"), 9, apply_chat=False, system_prompt=None)
    assert good == [0, 49]
    for record in (Ids((50,), "f:1"), Ids((-1,), "f:1"), Text("z", "f:1")):
        with pytest.raises(DataError, match=r"f:1: token id"):
            encoder.document(record, 9, apply_chat=False, system_prompt=None)
