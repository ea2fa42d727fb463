"""Small tokenizers, made here, for the tests of the data package."""

from __future__ import annotations

from typing import Any

import pytest

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} "
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
)
DROPS_SYSTEM_TEMPLATE = (
    "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}"
)


def make_tokenizer(*, specials: bool = True, chat_template: str | None = None) -> Any:
    """Build a byte-level tokenizer: 256 bytes from id 3 on, <s>=0 and </s>=1 around a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {"<s>": 0, "</s>": 1, "<pad>": 2}
    for char in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab[char] = len(vocab)
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    if specials:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Return a tokenizer that puts <s> before and </s> after a text."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def plain_tokenizer() -> Any:
    """Return a tokenizer without special tokens around a text."""
    return make_tokenizer(specials=False)


@pytest.fixture(scope="session")
def chat_tokenizer() -> Any:
    """Return a tokenizer with a chat template that knows every role."""
    return make_tokenizer(chat_template=CHAT_TEMPLATE)


@pytest.fixture(scope="session")
def no_system_tokenizer() -> Any:
    """Return a tokenizer whose chat template raises on a system message."""
    return make_tokenizer(chat_template=NO_SYSTEM_TEMPLATE)


@pytest.fixture(scope="session")
def drops_system_tokenizer() -> Any:
    """Return a tokenizer whose chat template leaves system messages out."""
    return make_tokenizer(chat_template=DROPS_SYSTEM_TEMPLATE)
