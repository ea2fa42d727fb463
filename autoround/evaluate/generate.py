"""Text from a model: a quick check that a quantized one still writes sense."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoround.device.kernels import AUTO
from autoround.errors import UsageError
from autoround.evaluate.models import load_runnable
from autoround.model.files.locate import locate_model
from autoround.model.files.tokenizer import load_tokenizer
from autoround.model.positions import position_limit


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
    """
    import torch

    folder = locate_model(model)
    tokenizer = load_tokenizer(folder)
    if not prompt:
        raise UsageError("the prompt is empty; give some text to continue")
    if chat is None:
        chat = bool(tokenizer.chat_template)
    if chat:
        prompt = _apply_chat_template(prompt, tokenizer, folder)
    loaded = load_runnable(folder, device=device, backend=backend)
    # A chat template writes the special tokens itself.
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=not chat).to(loaded.device)

    limit, length = position_limit(loaded), inputs["input_ids"].shape[1] + max_new_tokens
    if limit is not None and length > limit:
        raise UsageError(
            f"prompt and new tokens are {length} together, and the model has positions for "
            f"{limit} only; shorten the prompt, or ask for fewer tokens"
        )
    with torch.no_grad():
        ids = loaded.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            streamer=None if on_text is None else _make_streamer(tokenizer, on_text),
        )
    new = ids[0, inputs["input_ids"].shape[1] :]
    text: str = tokenizer.decode(new, skip_special_tokens=True)
    return text


def _make_streamer(tokenizer: Any, on_text: Callable[[str], None]) -> Any:
    """Return a streamer of transformers that passes on each piece of finished text."""
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            on_text(text)

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)


def _apply_chat_template(prompt: str, tokenizer: Any, folder: Path) -> str:
    """Wrap a prompt as a user's turn."""
    if not tokenizer.chat_template:
        raise UsageError(f"the tokenizer of {folder} has no chat template; leave out --chat")
    turn = [{"role": "user", "content": prompt}]
    text: str = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return text
