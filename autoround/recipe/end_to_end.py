"""The section of a recipe for tuning the whole model after its blocks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from autoround.recipe.section import Section
from autoround.recipe.values import (
    BOOL,
    COUNT,
    RATE,
    Count,
    Legal,
    Rate,
    Text,
    as_tuple,
)


def _check_fresh(count: int) -> int:
    if count == 1:
        raise ValueError("some samples are trained on, and others validate")
    return count


class EndToEndOptions(Section):
    """How scales, and codes, are tuned end to end, after the blocks."""

    steps: Annotated[
        int,
        Field(ge=0, description="Steps over the whole model; 0 leaves this out."),
        Legal("an integer of at least 0"),
    ] = 0
    lr: Annotated[
        Rate,
        Field(description="Learning rate relative to each scale; auto is 0.064 / 8**(bits/2)."),
        RATE,
    ] = "auto"
    batch_size: Annotated[Count, Field(description="Samples of a step."), COUNT] = 8
    tune_codes: Annotated[
        bool,
        Field(description="Let codes move by a level where gradients agree on it for long."),
        BOOL,
    ] = False
    nsamples: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=0), AfterValidator(_check_fresh)],
        Field(
            description="Samples that only this stage reads, beside those of the calibration; 0 "
            "takes those, auto one for each that a step takes, up to 1024 of them, half a "
            "million tokens and what the text has."
        ),
        Legal("auto, 0 or an integer of at least 2"),
    ] = 0
    dataset: Annotated[
        Text | Annotated[tuple[Text, ...], Field(min_length=1)],
        BeforeValidator(as_tuple),
        Field(
            description="Source of these samples, or a list of sources; auto is that of the "
            "calibration, after its samples."
        ),
        Legal("auto, text or a list of texts, none of them empty", item="text that is not empty"),
    ] = "auto"
