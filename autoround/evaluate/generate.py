"""Text from a model: the plainest check that it still answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoround.device.kernels import AUTO
from autoround.errors import UsageError
from autoround.evaluate.models import load_runnable
from autoround.model.locate import locate_model
from autoround.model.positions import position_limit
from autoround.model.tokenizer import load_tokenizer


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

    chat: wrap the prompt as a user's turn by the tokenizer's chat template; None where it
        has one. backend: the kernel of packed layers.
    on_text: is given the new text piece by piece, as it comes.

    Raises:
        UsageError: the prompt is empty or too long for the model, or chat is asked of a
            tokenizer without template.
    """
    import torch
    from transformers import TextStreamer

    folder = locate_model(model)
    tokenizer = load_tokenizer(folder)
    if not prompt:
        raise UsageError("the prompt is empty; give some text to continue")
    if chat is None:
        chat = bool(tokenizer.chat_template)
    if chat:
        prompt = _as_turn(prompt, tokenizer, folder)
    loaded = load_runnable(folder, device=device, backend=backend)
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=not chat).to(loaded.device)

    limit, length = position_limit(loaded), inputs["input_ids"].shape[1] + max_new_tokens
    if limit is not None and length > limit:
        raise UsageError(
            f"prompt and new tokens are {length} together, and the model has positions for "
            f"{limit} only; shorten the prompt, or ask for fewer tokens"
        )

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if on_text is not None:
                on_text(text)

    streamer = None
    if on_text is not None:
        streamer = Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with torch.no_grad():
        ids = loaded.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            streamer=streamer,
        )
    new = ids[0, inputs["input_ids"].shape[1] :]
    text: str = tokenizer.decode(new, skip_special_tokens=True)
    return text


def _as_turn(prompt: str, tokenizer: Any, folder: Path) -> str:
    """Wrap a prompt as a user's turn."""
    if not tokenizer.chat_template:
        raise UsageError(f"the tokenizer of {folder} has no chat template; leave out --chat")
    turn = [{"role": "user", "content": prompt}]
    text: str = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return text
