"""Calibration samples of images and text, by the model's own processor.

A file of JSON lines, each with one image or several and a text:

    {"image": "cat.png", "text": "What is on the picture? A cat on a sofa."}
    {"images": ["a.png", "b.png"], "text": "..."}

Names of images are relative to the folder of the file, and stay inside it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from autoround.data.tokens import Tokens, build_tokens
from autoround.errors import DataError, one_line

if TYPE_CHECKING:
    from torch import Tensor

#: A file of pairs larger than this is not one.
MAX_FILE_BYTES = 1 << 30
#: What a processor returns that is not handed to the model: all tokens count, from the left.
LEFT_OUT = ("input_ids", "attention_mask")


class Pair(NamedTuple):
    """Images and the text that goes with them; where says which line it is."""

    images: tuple[Path, ...]
    text: str
    where: str


def read_pairs(file: Path) -> list[Pair]:
    """Read a file of JSON lines.

    Raises:
        DataError: it is missing or malformed, or names an image that is not there.
    """
    if not file.is_file():
        raise DataError(f"calibration.images: there is no file {file}")
    if file.stat().st_size > MAX_FILE_BYTES:
        raise DataError(f"{file} is larger than {MAX_FILE_BYTES >> 20} MiB: split it")
    pairs = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8: {error}") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            pairs.append(_pair(line, file, f"{file}:{number}"))
    if not pairs:
        raise DataError(f"{file} holds no samples")
    return pairs


def _pair(line: str, file: Path, where: str) -> Pair:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise DataError(f'{where}: expected an object such as {{"image": "a.png", "text": "..."}}')
    named = record.get("images", record.get("image"))
    names = [named] if isinstance(named, str) else named
    text = record.get("text")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise DataError(f"{where}: 'image' is a file name, or 'images' a list of them")
    if not isinstance(text, str) or not text:
        raise DataError(f"{where}: 'text' is a text that is not empty")
    return Pair(tuple(_inside(file.parent, name, where) for name in names), text, where)


def _inside(folder: Path, name: str, where: str) -> Path:
    if "\0" in name:
        raise DataError(f"{where}: {name!r} is no file name")
    path = folder / name
    try:
        path = path.resolve()
        path.is_file()
    except (OSError, ValueError) as error:  # too long, or half a character
        raise DataError(f"{where}: {name[:80]!r} is no file name: {one_line(error)}") from None
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"{where}: image {name!r} is outside {folder}; put it in there")
    if not path.is_file():
        raise DataError(f"{where}: there is no image {path}")
    return path


def tokens_from_images(
    file: Path, processor: Any, *, nsamples: int, seqlen: int, seed: int, more: int = 0
) -> Tokens:
    """Make calibration samples of a file of images and text.

    processor: the model's own, of transformers. As many samples as the file has are taken,
    and at most ``nsamples``; behind them ``more``, which the description leaves out.

    Returns Tokens padded to the longest sample, with what the model is given beside them.
    Raises: DataError when a sample cannot be read, or is longer than ``seqlen`` before its text.
    """
    pairs = read_pairs(file)
    random.Random(seed).shuffle(pairs)
    taken = pairs[: nsamples + more]
    prepared = [_prepared(pair, processor, seqlen) for pair in taken]
    width = max(len(ids) for ids, _ in prepared)
    ids = [ids for ids, _ in prepared]
    keys = {tuple(sorted(media)) for _, media in prepared}
    if len(keys) > 1:
        raise DataError(f"{file}: the processor gives some samples other inputs than the rest")
    tokenizer = getattr(processor, "tokenizer", processor)
    pad = tokenizer.pad_token_id
    built = build_tokens(
        ids,
        seqlen=width,
        pad_id=(tokenizer.eos_token_id or 0) if pad is None else pad,
        description=f"{file.name}, {min(len(taken), nsamples)} samples of images and text, up to "
        f"{width} tokens",
    )
    media = tuple(
        {key: _padded(tensor, len(own), width) for key, tensor in given.items()}
        for own, given in prepared
    )
    return Tokens(built.ids, built.lengths, built.description, media)


def _prepared(pair: Pair, processor: Any, seqlen: int) -> tuple[list[int], Mapping[str, Tensor]]:
    """Let the processor turn one sample into tokens and pixels."""
    images = [_opened(path, pair.where) for path in pair.images]
    try:
        given = processor(images=images, text=_prompt(pair, processor), return_tensors="pt")
    except Exception as error:  # processors fail in many unrelated ways
        reason = one_line(error, 300)
        raise DataError(f"{pair.where}: the model's processor cannot use this: {reason}") from error
    import torch

    ids = given["input_ids"][0].tolist()
    media = {k: v for k, v in given.items() if k not in LEFT_OUT and isinstance(v, torch.Tensor)}
    if len(ids) > seqlen:
        raise DataError(
            f"{pair.where}: image and text take {len(ids)} tokens, more than calibration.seqlen "
            f"({seqlen}): raise it, shorten the text, or use a smaller image"
        )
    return ids, media


def _opened(path: Path, where: str) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise DataError("calibration with images needs the package pillow") from None
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: {path} is no image that can be read: {error}") from error


def _prompt(pair: Pair, processor: Any) -> str:
    """Say where the images go: by the chat template, or by the processor's token for them."""
    token = getattr(processor, "image_token", None)
    if isinstance(token, str) and token in pair.text:
        return pair.text
    if getattr(processor, "chat_template", None):
        parts: list[Mapping[str, str]] = [{"type": "image"} for _ in pair.images]
        content: Sequence[Mapping[str, str]] = [*parts, {"type": "text", "text": pair.text}]
        turns = [{"role": "user", "content": content}]
        return str(processor.apply_chat_template(turns, tokenize=False))
    return (str(token) if isinstance(token, str) else "") * len(pair.images) + pair.text


def _padded(tensor: Tensor, length: int, width: int) -> Tensor:
    """Pad what goes token by token (kinds of tokens, masks) to the width of all samples."""
    import torch

    by_token = tensor.dim() >= 2 and tensor.shape[1] == length and not tensor.is_floating_point()
    if not by_token or length == width:
        return tensor
    shape = (tensor.shape[0], width - length, *tensor.shape[2:])
    return torch.cat([tensor, torch.zeros(shape, dtype=tensor.dtype)], dim=1)
