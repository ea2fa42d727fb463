"""The tokens a run calibrates on, from whatever the user gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from autoround.data.calibration import tokens_from_spec
from autoround.data.from_python import tokens_from_data
from autoround.data.images import tokens_from_images
from autoround.data.resolve import resolve_dataset
from autoround.data.tokens import Tokens
from autoround.errors import DataError
from autoround.formats.registry import find_format
from autoround.model.files.processor import load_processor
from autoround.model.files.tokenizer import load_tokenizer
from autoround.model.positions import position_limit, vocabulary_size
from autoround.model.skeleton import Skeleton
from autoround.planning.format_names import check_formats
from autoround.planning.hyperparameters import needs_data
from autoround.recipe.schema import Recipe


class Calibration(NamedTuple):
    """The tokens a run calibrates on, None where it reads no activations; and what they are."""

    tokens: Tokens | None
    description: str


#: Of a recipe that looks at weights alone.
NO_CALIBRATION = Calibration(None, "none (round to nearest needs no data)")


def load_calibration(
    recipe: Recipe, skeleton: Skeleton, *, tokenizer: Any, data: object | None
) -> Calibration:
    """Load the calibration tokens of a recipe, if it needs any.

    Args:
        recipe: says which text, how many samples and how long.
        skeleton: the model; its positions and vocabulary bound the tokens.
        tokenizer: of the model; token ids need none.
        data: tokens or texts given from Python, in place of the recipe's dataset.

    Raises:
        DataError: the data cannot be had, read, or do not suffice.
    """
    if not needs_data(recipe):
        return NO_CALIBRATION
    options, vocabulary = recipe.calibration, vocabulary_size(skeleton.model)
    note: str | None = None
    if data is not None:
        tokens = tokens_from_data(
            data,
            tokenizer,
            nsamples=options.nsamples,
            seqlen=options.seqlen,
            vocab_size=vocabulary,
        )
    elif options.images != "none":
        tokens = _from_images(recipe, skeleton)
    else:
        # A dataset that was asked for is never replaced by the embedded one.
        spec, note = resolve_dataset(options.dataset, explicit=options.dataset_named)
        tokens = tokens_from_spec(
            spec,
            tokenizer,
            nsamples=options.nsamples,
            seqlen=options.seqlen,
            seed=recipe.seed,
            vocab_size=vocabulary,
        )
    _check_length(tokens, skeleton)
    return Calibration(tokens, tokens.description + (f" ({note})" if note else ""))


def needed_calibration(recipe: Recipe, loaded: Calibration) -> Calibration:
    """Return what a recipe reads of calibration data that were loaded for more than it needs."""
    return loaded if needs_data(recipe) else NO_CALIBRATION


def needed_tokenizer(recipe: Recipe, skeleton: Skeleton, *, data: object | None) -> Any:
    """Load the tokenizer of a model folder where a run has a use for it; else return None.

    Args:
        recipe: says whether text is read.
        skeleton: the model.
        data: calibration data given from Python.

    Raises:
        RecipeError: the recipe names a format that no package brings.
        DataError: text is to be read, and there is no tokenizer that can be loaded.
    """
    check_formats(recipe)
    written = any(find_format(name).holds_tokenizer for name in recipe.output.formats)
    if skeleton.folder is None or not (needs_data(recipe) or written):
        return None
    try:
        return load_tokenizer(skeleton.folder)
    except DataError:
        # Token ids need none; texts that do are refused when they are read.
        if data is None and needs_data(recipe):
            raise
        return None


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


def _check_length(tokens: Tokens, skeleton: Skeleton) -> None:
    limit, length = position_limit(skeleton.model), tokens.ids.shape[1]
    if limit is not None and length > limit:
        raise DataError(
            f"samples of {length} tokens, and the model has positions for {limit} only: use "
            f"--seqlen {limit} or less"
        )
