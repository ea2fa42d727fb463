"""The tokenizer of a model folder, run in a process of its own.

It is used by the names that transformers has for what it does, so that a tokenizer of transformers
can stand in its place.
"""

from __future__ import annotations

import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from autoround.confined import Confined, ConfinedError, Handler, LimitError, Message
from autoround.errors import DataError, one_line
from autoround.model.files.locate import foreign_gguf

#: Bytes of a tokenizer's file at most: of a million entries it has half of this.
MAX_BYTES = 128 << 20
#: Entries of a vocabulary at most, and characters of one.
MAX_ENTRIES, MAX_ENTRY_CHARS = 1 << 22, 1 << 11
#: Characters at most that a chat template makes of a conversation, or a tokenizer of tokens.
MAX_TEXT_CHARS = 1 << 24
#: Tokens at most of a text of n characters: this and this times n. Bytes of decomposed characters
#: are 33 for one.
TOKENS_PER_CHAR = 64
#: What is read of a folder's tokenizer, by name.
_FILES = ("*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken", "*.spm", "*.bpe", "*.codes")
#: Attributes that are asked for once.
_ATTRIBUTES = ("pad_token_id", "eos_token_id", "bos_token_id", "unk_token_id", "chat_template")


class Backend(NamedTuple):
    """The content of a tokenizer.json."""

    text: str

    def to_str(self) -> str:
        """Return it as the tokenizers library does."""
        return self.text


class ModelTokenizer:
    """A tokenizer of files that nobody has vouched for.

    Args:
        folder: of the model.

    Raises:
        DataError: it has none that can be loaded, within the limits.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._where = folder / "tokenizer.json"
        if not self._where.is_file():
            self._where = folder
        refuse_large(folder)
        # Kept, or files of llama.cpp would begin a process beside a run's threads.
        self._backend: Backend | None = None
        try:
            self._process: Confined | None = Confined(lambda: _make_handler(folder))
            self._known: Mapping[str, Any] = self._process.ask(["attributes"]).value
        except (ConfinedError, LimitError) as error:
            reason = f"its tokenizer {error}" if isinstance(error, LimitError) else one_line(error)
            raise DataError(
                f"{folder} has no tokenizer that can be loaded ({reason}); text needs one, token "
                "ids do not"
            ) from error

    def encode(
        self, text: str, *, add_special_tokens: bool = True, verbose: bool = True
    ) -> list[int]:
        """Return the ids of a text.

        Args:
            text: of any length.
            add_special_tokens: whether to add those that a text begins and ends with.
            verbose: whether transformers may warn of long texts.

        Raises:
            DataError: the tokenizer fails, or takes more than it may.
        """
        data = text.encode("utf-8", "surrogatepass")
        ids = array.array("q", self._ask(["encode", add_special_tokens, verbose], data).data)
        return ids.tolist()

    def decode(self, ids: Any, *, skip_special_tokens: bool = False) -> str:
        """Return the text of ids.

        Args:
            ids: numbers or a tensor of them, [n]; or one number.
            skip_special_tokens: whether to leave special tokens out.

        Raises:
            DataError: the tokenizer fails, or takes more than it may.
        """
        # A streamer of transformers asks for the last id by itself.
        several = [ids] if isinstance(ids, int) else ids
        numbers = array.array("q", [int(number) for number in several])
        request = ["decode", skip_special_tokens]
        return str(self._ask(request, numbers.tobytes()).value)

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Any] | None = None,
        tokenize: bool = False,
        add_generation_prompt: bool = False,
    ) -> str:
        """Return a conversation as one text, by the model's chat template.

        Args:
            conversation: its messages.
            tools: descriptions of functions.
            tokenize: False; ids are those of the text.
            add_generation_prompt: whether the model is to answer.

        Raises:
            ConfinedError: the template raises something, in its words.
            DataError: it takes more than it may.
        """
        if tokenize:
            raise ValueError("a chat template gives text here: tokenize has to be False")
        try:
            request = ["render", list(conversation), tools, add_generation_prompt]
            return str(self._awake().ask(request).value)
        except LimitError as error:
            raise DataError(f"{self._template_file}: the model's chat template {error}") from error

    @property
    def pad_token_id(self) -> Any:
        """Id that fills padding, or None."""
        return self._known["pad_token_id"]

    @property
    def eos_token_id(self) -> Any:
        """Id that ends a text, or None."""
        return self._known["eos_token_id"]

    @property
    def bos_token_id(self) -> Any:
        """Id that begins a text, or None."""
        return self._known["bos_token_id"]

    @property
    def unk_token_id(self) -> Any:
        """Id of what is not in the vocabulary, or None."""
        return self._known["unk_token_id"]

    @property
    def chat_template(self) -> Any:
        """Jinja template of a conversation, several by name, or None."""
        return self._known["chat_template"]

    @property
    def backend_tokenizer(self) -> Backend | None:
        """The content of its tokenizer.json, or None for a tokenizer that is written in Python."""
        if self._backend is None:
            text = self._ask(["backend"]).data
            self._backend = Backend(text.decode()) if text else None
        return self._backend

    def rest(self) -> None:
        """End its process, whose memory is free then; what is asked next begins another one."""
        if self._process is not None:
            self._process.close()
        self._process = None

    @property
    def _template_file(self) -> Path:
        files = (self._folder / name for name in ("chat_template.jinja", "tokenizer_config.json"))
        return next((file for file in files if file.is_file()), self._folder)

    def _awake(self) -> Confined:
        if self._process is None:
            self._process = Confined(lambda: _make_handler(self._folder))
        return self._process

    def _ask(self, value: Any, data: bytes = b"") -> Message:
        try:
            return self._awake().ask(value, data)
        except LimitError as error:
            raise DataError(
                f"{self._where}: the model's tokenizer {error}; use the files of the model's "
                "publisher, or token ids"
            ) from error
        except ConfinedError as error:
            raise DataError(
                f"{self._where}: the model's tokenizer fails: {error.kind}: {one_line(error)}"
            ) from error


def load_tokenizer(folder: Path) -> ModelTokenizer:
    """Load the tokenizer of a model folder.

    Args:
        folder: of the model.

    Raises:
        DataError: the folder has none that transformers can load.
    """
    return ModelTokenizer(folder)


def refuse_large(folder: Path) -> None:
    """Refuse files that are larger than any tokenizer or processor.

    Args:
        folder: of the model.

    Raises:
        DataError: there is one.
    """
    files = {file for pattern in _FILES for file in folder.glob(pattern)}
    for file in sorted(files):
        if file.is_file() and file.stat().st_size > MAX_BYTES and "index" not in file.name:
            raise DataError(
                f"{file} has {file.stat().st_size >> 20} MiB, and a tokenizer's or processor's "
                f"file may have {MAX_BYTES >> 20}; put the right one there"
            )


def _make_handler(folder: Path) -> Handler:
    """Load a tokenizer, and return what answers questions to it."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(
        folder, gguf_file=foreign_gguf(folder), trust_remote_code=False
    )

    def answer(message: Message) -> Message:
        name, *options = message.value
        if name == "encode":
            return Message(data=_encode(tokenizer, message.data, *options))
        if name == "decode":
            ids = array.array("q", message.data).tolist()
            text = tokenizer.decode(ids, skip_special_tokens=options[0])
            return Message(checked_text(text))
        if name == "render":
            turns, tools, answering = options
            text = tokenizer.apply_chat_template(
                turns, tools=tools, tokenize=False, add_generation_prompt=answering
            )
            return Message(checked_text(text))
        if name == "backend":
            backend = getattr(tokenizer, "backend_tokenizer", None)
            return Message(data=b"" if backend is None else backend.to_str().encode())
        # Some classes make one of no files at all, without a vocabulary: it fails when used.
        tokenizer.encode("a")
        _refuse_vocabulary(tokenizer)
        return Message({key: _plain(getattr(tokenizer, key, None)) for key in _ATTRIBUTES})

    return answer


def _refuse_vocabulary(tokenizer: Any) -> None:
    """Refuse more or longer entries than what reads them in full may meet."""
    vocabulary = tokenizer.get_vocab()
    longest = max(map(len, vocabulary), default=0)
    if len(vocabulary) > MAX_ENTRIES or longest > MAX_ENTRY_CHARS:
        raise ValueError(
            f"its vocabulary has {len(vocabulary)} entries of up to {longest} characters; legal: "
            f"{MAX_ENTRIES} of {MAX_ENTRY_CHARS}"
        )


def _encode(tokenizer: Any, data: bytes, special: bool, verbose: bool) -> bytes:
    text = data.decode("utf-8", "surrogatepass")
    ids = tokenizer.encode(text, add_special_tokens=special, verbose=verbose)
    if len(ids) > TOKENS_PER_CHAR * (len(text) + 1):
        raise ValueError(
            f"it makes {len(ids)} tokens of {len(text)} characters; legal: {TOKENS_PER_CHAR} of one"
        )
    return array.array("q", ids).tobytes()


def checked_text(text: Any) -> str:
    """Return what a tokenizer or a template made, where it is a text of a length that may be.

    Args:
        text: of any type.

    Raises:
        TypeError, ValueError: it is none, or has more than MAX_TEXT_CHARS characters.
    """
    if not isinstance(text, str):
        raise TypeError(f"it gave {type(text).__name__} instead of text")
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(f"it makes a text of {len(text)} characters; legal: {MAX_TEXT_CHARS}")
    return text


def _plain(value: Any) -> Any:
    """Return an attribute as JSON holds it: ids are numbers, templates texts."""
    if isinstance(value, str | dict | list | None):
        return value
    return int(value)
