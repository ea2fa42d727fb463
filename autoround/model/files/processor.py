"""The processor of a model folder, images and text into inputs, run in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoround.confined import Confined, ConfinedError, Handler, LimitError, Message
from autoround.errors import DataError, one_line
from autoround.model.files.tokenizer import checked_text, refuse_large

if TYPE_CHECKING:
    from torch import Tensor

#: Bytes of the inputs that it makes of one sample at most.
MAX_INPUT_BYTES = 1 << 30


class ModelProcessor:
    """A processor of files that nobody has vouched for, by transformers' names.

    Args:
        folder: of the model.

    Raises:
        DataError: it has none that can be loaded, within the limits, and takes images.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        refuse_large(folder)
        try:
            self._process = Confined(lambda: _make_handler(folder))
            self._known: Mapping[str, Any] = self._process.ask(["attributes"]).value
        except (ConfinedError, LimitError) as error:
            raise DataError(
                f"{folder} has no processor that can be loaded: {one_line(error, 300)}"
            ) from error
        if not self._known["takes_images"]:
            raise DataError(
                f"{folder}: its processor takes no images; calibrate this model on text"
            )

    def __call__(self, *, images: Sequence[Any], text: str, return_tensors: str) -> Any:
        """Return the inputs of one sample.

        Args:
            images: of pillow, RGB.
            text: with a place for each image.
            return_tensors: "pt".

        Returns:
            Tensors by the name of the argument that takes them, first axis 1.

        Raises:
            ConfinedError, LimitError: the processor fails.
        """
        from safetensors.torch import load

        sizes = [image.size for image in images]
        pixels = b"".join(image.tobytes() for image in images)
        return load(self._process.ask(["prepare", sizes, text], pixels).data)

    def apply_chat_template(self, turns: Sequence[Mapping[str, Any]], *, tokenize: bool) -> str:
        """Return a conversation as one text.

        Args:
            turns: its messages.
            tokenize: False.

        Raises:
            ConfinedError, LimitError: the template fails.
        """
        if tokenize:
            raise ValueError("a chat template gives text here: tokenize has to be False")
        return str(self._process.ask(["render", list(turns)]).value)

    @property
    def image_token(self) -> Any:
        """The text that stands for an image, or None."""
        return self._known["image_token"]

    @property
    def chat_template(self) -> Any:
        """Whether there is a chat template."""
        return self._known["chat_template"]

    @property
    def pad_token_id(self) -> Any:
        """Id that fills padding, or None."""
        return self._known["pad_token_id"]

    @property
    def eos_token_id(self) -> Any:
        """Id that ends a text, or None."""
        return self._known["eos_token_id"]


def load_processor(folder: Path) -> ModelProcessor:
    """Load what turns images and text into a model's inputs.

    Args:
        folder: of the model.

    Raises:
        DataError: the folder has none, or it cannot be loaded.
    """
    return ModelProcessor(folder)


def _make_handler(folder: Path) -> Handler:
    from transformers import AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    tokenizer = getattr(processor, "tokenizer", processor)

    def answer(message: Message) -> Message:
        name, *options = message.value
        if name == "prepare":
            return Message(data=_prepare(processor, message.data, *options))
        if name == "render":
            text = processor.apply_chat_template(options[0], tokenize=False)
            return Message(checked_text(text))
        token = getattr(processor, "image_token", None)
        return Message(
            {
                "takes_images": hasattr(processor, "image_processor"),
                "image_token": token if isinstance(token, str) else None,
                "chat_template": bool(getattr(processor, "chat_template", None)),
                "pad_token_id": getattr(tokenizer, "pad_token_id", None),
                "eos_token_id": getattr(tokenizer, "eos_token_id", None),
            }
        )

    return answer


def _prepare(processor: Any, pixels: bytes, sizes: Sequence[tuple[int, int]], text: str) -> bytes:
    """Return the inputs of a sample as a safetensors file."""
    from PIL import Image
    from safetensors.torch import save

    images, start = [], 0
    for width, height in sizes:
        end = start + 3 * width * height
        images.append(Image.frombytes("RGB", (width, height), pixels[start:end]))
        start = end
    inputs = processor(images=images, text=text, return_tensors="pt")
    tensors: dict[str, Tensor] = {k: t for k, t in inputs.items() if hasattr(t, "untyped_storage")}
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > MAX_INPUT_BYTES:
        raise ValueError(
            f"it makes inputs of {size >> 20} MiB of a sample; legal: {MAX_INPUT_BYTES >> 20}"
        )
    # Copies: some are views of one tensor, or expanded.
    return save({name: tensor.clone().contiguous() for name, tensor in tensors.items()})
