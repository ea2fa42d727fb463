"""The tokens a run calibrates on, from whatever the user gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from autoround.data.calibration import tokens_from_spec
from autoround.data.fresh import FreshSpec, draw_with_fresh, refuse_shared_text, split_rows
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
from autoround.planning.hyperparameters import fresh_samples, needs_data
from autoround.recipe.schema import Recipe


class Calibration(NamedTuple):
    """The tokens a run calibrates on, None where it reads no activations; and what they are.

    fresh: tokens of the same width that end-to-end tuning alone reads; None where it reads the
    others.
    """

    tokens: Tokens | None
    description: str
    fresh: Tokens | None = None

    @property
    def fresh_samples(self) -> int:
        """How many samples end-to-end tuning has to itself."""
        return 0 if self.fresh is None else len(self.fresh.ids)


#: Of a recipe that looks at weights alone.
NO_CALIBRATION = Calibration(None, "none (round to nearest needs no data)")


def load_calibration(
    recipe: Recipe, skeleton: Skeleton, *, tokenizer: Any, data: object | None
) -> Calibration:
    """Load the calibration tokens of a recipe, if it needs any, and its fresh ones.

    Args:
        recipe: says which text, how many samples and how long.
        skeleton: the model; its positions and vocabulary bound the tokens.
        tokenizer: of the model; token ids need none.
        data: tokens or texts given from Python, in place of the recipe's dataset; those behind
            the calibration's are the fresh ones.

    Raises:
        DataError: the data cannot be had, read, or do not suffice.
    """
    if not needs_data(recipe):
        return NO_CALIBRATION
    wanted, named = fresh_wanted(recipe), recipe.end_to_end.dataset != "auto"
    if named and recipe.end_to_end.steps and not recipe.end_to_end.nsamples:
        raise DataError(
            "end_to_end.dataset is read for end_to_end.nsamples alone, which is 0: set that too"
        )
    here = FreshSpec(0) if named else wanted
    note: str | None = None
    if data is not None:
        tokens, fresh = _from_data(recipe, skeleton, tokenizer, data, here)
    elif recipe.calibration.images != "none":
        tokens, fresh = _from_images(recipe, skeleton, here)
    else:
        tokens, fresh, note = _from_datasets(recipe, skeleton, tokenizer, here)
    if named and wanted.count:
        if data is None:
            refuse_shared_text(recipe.end_to_end.dataset, recipe.calibration.dataset)
        fresh = _from_own_dataset(recipe, skeleton, tokenizer, beside=tokens)
    _check_length(tokens, skeleton)
    description = tokens.description + (f" ({note})" if note else "")
    if fresh is not None:
        description += f"; end to end on {fresh.description}"
    return Calibration(tokens, description, fresh)


def fresh_wanted(recipe: Recipe) -> FreshSpec:
    """Return the fresh samples that a recipe asks for; none where no format can use them.

    Args:
        recipe: what the user asked for.
    """
    count = fresh_samples(recipe)
    if not count:
        return FreshSpec(0)
    check_formats(recipe)
    if all(find_format(name).gguf_types for name in recipe.output.formats):
        return FreshSpec(0)
    return FreshSpec(count, at_most=recipe.end_to_end.nsamples == "auto")


def _from_data(
    recipe: Recipe, skeleton: Skeleton, tokenizer: Any, data: object, fresh: FreshSpec
) -> tuple[Tokens, Tokens | None]:
    """Take the first samples of Python data to calibrate on, and those behind them as fresh."""
    options = recipe.calibration
    tokens = tokens_from_data(
        data,
        tokenizer,
        nsamples=options.nsamples,
        seqlen=options.seqlen,
        vocab_size=vocabulary_size(skeleton.model),
        more=fresh.count,
    )
    if not fresh.count:
        return tokens, None
    left = max(0, len(tokens.ids) - options.nsamples)
    fresh.check(left, f"{len(tokens.ids)} samples were given, and {options.nsamples} calibrate")
    return split_rows(tokens, options.nsamples)


def _from_datasets(
    recipe: Recipe, skeleton: Skeleton, tokenizer: Any, fresh: FreshSpec
) -> tuple[Tokens, Tokens | None, str | None]:
    """Draw from the recipe's datasets; the note says what took their place, if anything did."""
    options = recipe.calibration
    # A dataset that was asked for is never replaced by the embedded one.
    spec, note = resolve_dataset(options.dataset, explicit=options.dataset_named)
    if not fresh.count:
        tokens = tokens_from_spec(
            spec,
            tokenizer,
            nsamples=options.nsamples,
            seqlen=options.seqlen,
            seed=recipe.seed,
            vocab_size=vocabulary_size(skeleton.model),
        )
        return tokens, None, note
    tokens, more = draw_with_fresh(
        spec,
        tokenizer,
        nsamples=options.nsamples,
        fresh=fresh,
        seqlen=options.seqlen,
        seed=recipe.seed,
        vocab_size=vocabulary_size(skeleton.model),
    )
    return tokens, more, note


def _from_own_dataset(
    recipe: Recipe, skeleton: Skeleton, tokenizer: Any, *, beside: Tokens
) -> Tokens:
    """Draw the fresh samples from a dataset of their own."""
    if beside.media:
        raise DataError(
            "end_to_end.dataset names text, and calibration.images has images with every sample: "
            "leave it at auto, which goes on in that file"
        )
    width = beside.ids.shape[1]
    try:
        return tokens_from_spec(
            recipe.end_to_end.dataset,
            tokenizer,
            nsamples=fresh_wanted(recipe).count,
            seqlen=width,
            seed=recipe.seed,
            vocab_size=vocabulary_size(skeleton.model),
        )
    except DataError as error:
        raise DataError(f"end_to_end.dataset: {error}") from error


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


def _from_images(
    recipe: Recipe, skeleton: Skeleton, fresh: FreshSpec
) -> tuple[Tokens, Tokens | None]:
    """Let the model's processor make samples of images and text."""
    if skeleton.folder is None:
        raise DataError("calibration.images needs a model in a folder, with its processor")
    wish = recipe.calibration
    tokens = tokens_from_images(
        Path(wish.images),
        load_processor(skeleton.folder),
        nsamples=wish.nsamples,
        seqlen=wish.seqlen,
        seed=recipe.seed,
        more=fresh.count,
    )
    if not fresh.count:
        return tokens, None
    left = max(0, len(tokens.ids) - wish.nsamples)
    fresh.check(left, f"{wish.images} has {len(tokens.ids)}, and {wish.nsamples} calibrate")
    return split_rows(tokens, wish.nsamples)


def _check_length(tokens: Tokens, skeleton: Skeleton) -> None:
    limit, length = position_limit(skeleton.model), tokens.ids.shape[1]
    if limit is not None and length > limit:
        raise DataError(
            f"samples of {length} tokens, and the model has positions for {limit} only: use "
            f"--seqlen {limit} or less"
        )
