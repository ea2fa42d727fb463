"""The section of a recipe that says how the quality of the result is measured, and judged."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from autoround.recipe.gate import LEGAL, NONE, check_gate
from autoround.recipe.section import Section
from autoround.recipe.values import Legal, Text


class EvaluationOptions(Section):
    """How the quality of the result is measured, and what it is held to."""

    seqlen: Annotated[
        int,
        Field(ge=2, description="Tokens per window of the perplexity."),
        Legal("an integer of at least 2"),
    ] = 1024
    max_tokens: Annotated[
        int,
        Field(ge=2, description="Tokens of the evaluation text that are read at most."),
        Legal("an integer of at least 2"),
    ] = 16384
    text: Annotated[
        Text,
        Field(
            description="File of the evaluation text; none is the part of the embedded text that "
            "calibration never sees."
        ),
        Legal("none or the path of a .txt, .jsonl, .json or .parquet file"),
    ] = NONE
    gate: Annotated[
        Text,
        AfterValidator(check_gate),
        Field(
            description="Bounds that the written result is held to; a run that misses one ends "
            "with an exit code of its own."
        ),
        Legal(LEGAL),
    ] = NONE
