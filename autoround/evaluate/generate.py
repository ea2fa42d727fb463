"""Text from a model: a quick check that a quantized one still writes sense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoround.confined import ConfinedError
from autoround.data.encode import check_ids
from autoround.device.kernels import AUTO
from autoround.errors import DataError, UsageError, one_line
from autoround.evaluate.models import load_runnable
from autoround.model.files.locate import locate_model
from autoround.model.files.tokenizer import ModelTokenizer, load_tokenizer
from autoround.model.positions import position_limit, vocabulary_size

if TYPE_CHECKING:
    from torch import Tensor


def generate(
    model: str | Path,
    prompt: str,
    *,
    max_new_tokens: int = 64,
    chat: bool | None = False,
    backend: str = AUTO,
    device: str = "auto",
    on_text: Callable[[str], None] | None = None,
) -> str:
    """Continue a prompt greedily and return the new text.

    Args:
        model: Folder or hub id of the model.
        prompt: The text to continue.
        max_new_tokens: Tokens to generate at most.
        chat: Whether to wrap the prompt as a user's turn by the tokenizer's chat template; None
            to do so if there is a template.
        backend: Name of the kernel for packed layers, or ``auto``.
        device: Name of a device, or ``auto``.
        on_text: Called with each piece of new text as it is generated.

    Returns:
        The new text, without the prompt.

    Raises:
        UsageError: The prompt is empty or too long for the model, or the tokenizer has no chat
            template and chat is true.
        DataError: The tokenizer or the chat template fails, or takes more than it may.
    """
    folder = locate_model(model)
    tokenizer = load_tokenizer(folder)
    if not prompt:
        raise UsageError("the prompt is empty; give some text to continue")
    if chat is None:
        chat = bool(tokenizer.chat_template)
    if chat:
        prompt = _apply_chat_template(prompt, tokenizer, folder)
    loaded = load_runnable(folder, device=device, backend=backend)
    streamer = None if on_text is None else _make_streamer(tokenizer, on_text)
    ids = _encode(prompt, tokenizer, loaded, special=not chat)
    return continue_ids(
        loaded, ids, tokenizer, max_new_tokens=max_new_tokens, streamer=streamer
    ).text


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a model wrote: its new tokens, and their text."""

    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two continuations part: at which token, from 0, and where that is in each text.

    original, quantized: characters of the token, from and up to; empty where the text has ended, or
    the token is not shown.
    """

    token: int
    original: tuple[int, int]
    quantized: tuple[int, int]


def first_difference(
    original: Continuation, quantized: Continuation, tokenizer: ModelTokenizer
) -> Difference | None:
    """Find the first token that two continuations do not share; None where they are the same.

    Args:
        original: By the unquantized model.
        quantized: By the quantized one, of the same prompt.
        tokenizer: Of both.
    """
    pairs = list(zip(original.ids, quantized.ids, strict=False))
    token = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    if token == len(original.ids) == len(quantized.ids):
        return None

    def end(written: Continuation, count: int) -> int:
        # A token may be a part of a character: text up to it ends in a sign that stands for none.
        before = tokenizer.decode(list(written.ids[:count]), skip_special_tokens=True)
        same = (a == b for a, b in zip(before, written.text, strict=False))
        return next((i for i, x in enumerate(same) if not x), min(len(before), len(written.text)))

    spans = [(end(x, token), end(x, token + 1)) for x in (original, quantized)]
    return Difference(token, *spans)


def continue_prompt(
    model: Any, prompt: str, tokenizer: ModelTokenizer, *, max_new_tokens: int
) -> Continuation:
    """Continue a prompt greedily.

    Args:
        model: A causal language model of transformers, in memory.
        prompt: The text to continue.
        tokenizer: Of the model.
        max_new_tokens: Tokens to generate at most.

    Raises:
        UsageError: The prompt is too long for the model.
        DataError: The tokenizer fails, or makes no tokens of the prompt.
    """
    ids = _encode(prompt, tokenizer, model, special=True)
    return continue_ids(model, ids, tokenizer, max_new_tokens=max_new_tokens)


def continue_ids(
    model: Any,
    ids: Tensor,
    tokenizer: ModelTokenizer,
    *,
    max_new_tokens: int,
    streamer: Any = None,
) -> Continuation:
    """Continue tokens greedily.

    Args:
        model: A causal language model of transformers, in memory.
        ids: Of the prompt, int64 [n].
        tokenizer: Of the model.
        max_new_tokens: Tokens to generate at most.
        streamer: Of transformers; is told of each token.

    Raises:
        UsageError: The prompt is too long for the model.
    """
    import torch

    placed = ids[None].to(model.device)
    limit, length = position_limit(model), len(ids) + max_new_tokens
    if limit is not None and length > limit:
        raise UsageError(
            f"prompt and new tokens are {length} together, and the model has positions for "
            f"{limit} only; shorten the prompt, or ask for fewer tokens"
        )
    with torch.no_grad():
        out = model.generate(
            input_ids=placed,
            attention_mask=torch.ones_like(placed),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            streamer=streamer,
        )
    new = tuple(int(token) for token in out[0, len(ids) :])
    return Continuation(new, tokenizer.decode(list(new), skip_special_tokens=True))


def _encode(prompt: str, tokenizer: ModelTokenizer, model: Any, *, special: bool) -> Tensor:
    """Return the ids of a prompt, int64 [n]; a chat template writes the special tokens itself."""
    import torch

    ids = tokenizer.encode(prompt, add_special_tokens=special)
    if not ids:
        raise DataError("the tokenizer makes no tokens of the prompt; give another one")
    check_ids(min(ids), max(ids), vocab_size=vocabulary_size(model), where="the prompt")
    return torch.tensor(ids, dtype=torch.int64)


def _make_streamer(tokenizer: Any, on_text: Callable[[str], None]) -> Any:
    """Return a streamer of transformers that passes on each piece of finished text."""
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            on_text(text)

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)


def _apply_chat_template(prompt: str, tokenizer: ModelTokenizer, folder: Path) -> str:
    """Wrap a prompt as a user's turn."""
    if not tokenizer.chat_template:
        raise UsageError(f"the tokenizer of {folder} has no chat template; leave out --chat")
    turn = [{"role": "user", "content": prompt}]
    try:
        return tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    except ConfinedError as error:
        raise DataError(
            f"{folder}: the chat template fails ({error.kind}: {one_line(error)}); use --no-chat"
        ) from error
