"""The tokenizer of a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoround.errors import DataError
from autoround.model.files.locate import foreign_gguf


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a model folder.

    Raises:
        DataError: the folder has none that transformers can load.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, gguf_file=foreign_gguf(folder), trust_remote_code=False
        )
        # Some classes make one of no files at all, without a vocabulary: it fails when used.
        tokenizer.encode("a")
        return tokenizer
    except Exception as error:  # tokenizers of other people's files fail in many unrelated ways
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise DataError(
            f"{folder} has no tokenizer that can be loaded ({reason}); text needs one, token "
            "ids do not"
        ) from error
