"""The tokens a run calibrates on, from whatever the user gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoround.data.calibration import tokens_from_spec
from autoround.data.from_python import tokens_from_data
from autoround.data.images import tokens_from_images
from autoround.data.resolve import resolve_dataset
from autoround.data.tokens import Tokens
from autoround.errors import DataError
from autoround.model.positions import position_limit
from autoround.model.skeleton import Skeleton
from autoround.planning.hyperparameters import needs_data
from autoround.recipe.schema import CalibrationOptions, Recipe


def load_calibration(
    recipe: Recipe, skeleton: Skeleton, *, tokenizer: Any, data: object | None
) -> tuple[Tokens | None, str]:
    """Return the calibration tokens and what they are; None for a recipe without data.

    data: tokens or texts given from Python; they take the place of the recipe's dataset.

    Raises:
        DataError: the data cannot be had, read, or do not suffice.
    """
    if not needs_data(recipe):
        return None, "none (round to nearest needs no data)"
    wish = recipe.calibration
    vocabulary = vocabulary_size(skeleton)
    if data is not None:
        tokens = tokens_from_data(
            data,
            tokenizer,
            nsamples=wish.nsamples,
            seqlen=wish.seqlen,
            vocab_size=vocabulary,
        )
        _check_length(tokens, skeleton)
        return tokens, tokens.description
    if wish.images != "none":
        tokens = _from_images(recipe, skeleton)
        _check_length(tokens, skeleton)
        return tokens, tokens.description
    untouched = wish.dataset == CalibrationOptions().dataset
    spec, note = resolve_dataset(wish.dataset, explicit=not untouched)
    tokens = tokens_from_spec(
        spec,
        tokenizer,
        nsamples=wish.nsamples,
        seqlen=wish.seqlen,
        seed=recipe.seed,
        vocab_size=vocabulary,
    )
    _check_length(tokens, skeleton)
    return tokens, tokens.description + (f" ({note})" if note else "")


def _from_images(recipe: Recipe, skeleton: Skeleton) -> Tokens:
    """Let the model's processor make samples of images and text."""
    if skeleton.folder is None:
        raise DataError("calibration.images needs a model in a folder, with its processor")
    wish = recipe.calibration
    return tokens_from_images(
        Path(wish.images),
        load_processor(skeleton.folder),
        nsamples=wish.nsamples,
        seqlen=wish.seqlen,
        seed=recipe.seed,
    )


def load_processor(folder: Path) -> Any:
    """Load what turns images and text into a model's inputs.

    Raises:
        DataError: the folder has none, or it cannot be loaded.
    """
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a damaged folder fails in many unrelated ways
        reason = " ".join(str(error).split())[:300] or repr(error)
        raise DataError(f"{folder} has no processor that can be loaded: {reason}") from error
    if not hasattr(processor, "image_processor"):
        raise DataError(f"{folder}: its processor takes no images; calibrate this model on text")
    return processor


def _check_length(tokens: Tokens, skeleton: Skeleton) -> None:
    limit, length = position_limit(skeleton.model), tokens.ids.shape[1]
    if limit is not None and length > limit:
        raise DataError(
            f"samples of {length} tokens, and the model has positions for {limit} only: use "
            f"--seqlen {limit} or less"
        )


def vocabulary_size(skeleton: Skeleton) -> int | None:
    """Return how many tokens the model knows."""
    embeddings = skeleton.model.get_input_embeddings()  # type: ignore[operator]
    return int(embeddings.weight.shape[0]) if hasattr(embeddings, "weight") else None
