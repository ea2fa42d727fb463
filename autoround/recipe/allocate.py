"""The section of a recipe that leaves the bits of each layer to a budget."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from autoround.recipe.layers import AUTO, GgufType
from autoround.recipe.section import Section
from autoround.recipe.values import (
    COUNT,
    Count,
    Legal,
    Text,
    as_tuple,
    check_size,
    parse_size,
)
from autoround.types import LEGAL_BITS, PER_CHANNEL, Scheme

#: Block types of GGUF that an option may name.
GGUF_KINDS = tuple(sorted(set(get_args(GgufType)) - {AUTO, "f16"}))
#: The option that keeps a layer.
KEPT = "16"
_OPTION = re.compile(r"[Ww]([2-8])(?:g([1-9][0-9]{0,5})|(channel))?(sym|asym)?")
_OPTION_WORDS = (
    "W and bits, with a group size and a symmetry if they are not those of the scheme, such as "
    f"W3, W3g64 or W2g32asym; {KEPT}; or a type of GGUF ({', '.join(GGUF_KINDS)})"
)

Size: TypeAlias = Annotated[int | str, AfterValidator(check_size)]


def parse_option(text: str, scheme: Scheme) -> Scheme | str | None:
    """Return what an option stands for: a scheme, the name of a type of GGUF, or None for 16 bit.

    scheme: gives what the option leaves open.

    Raises:
        ValueError: the text is no option.
    """
    if text == KEPT:
        return None
    if text in GGUF_KINDS:
        return text
    match = _OPTION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no option")
    size = int(match[2]) if match[2] else PER_CHANNEL if match[3] else scheme.group_size
    return Scheme(int(match[1]), size, match[4] == "sym" if match[4] else scheme.sym)


def _as_text(value: object) -> object:
    """Let the number 16 stand for its text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _check_option(text: str) -> str:
    parse_option(text, Scheme(4, 128, True))
    return text


Option: TypeAlias = Annotated[str, BeforeValidator(_as_text), AfterValidator(_check_option)]


class AllocateOptions(Section):
    """How bits are given to layers."""

    avg_bits: Annotated[
        Literal["none"] | Annotated[float, Field(gt=0, le=16)],
        Field(description="Budget: bits per weight on average, scales and zero points counted."),
        Legal("none or a number above 0, at most 16"),
    ] = "none"
    target_size: Annotated[
        Literal["none"] | Size,
        Field(description="Budget: size of the whole written model."),
        Legal("none, bytes as an integer of at least 1, or a size such as 500MB or 3.8GB"),
    ] = "none"
    max_kl: Annotated[
        Literal["none"] | Annotated[float, Field(gt=0, allow_inf_nan=False)],
        Field(description="Budget: predicted KL divergence from the original, in nats per token."),
        Legal("none or a number above 0"),
    ] = "none"
    options: Annotated[
        tuple[Option, ...],
        Field(min_length=2, description="What a layer may be held in."),
        BeforeValidator(as_tuple),
        Legal(f"a list of two or more, each {_OPTION_WORDS}", item=_OPTION_WORDS),
    ] = ("W2", "W3", "W4", "W8")
    method: Annotated[
        Literal["fisher", "measured"],
        Field(
            description="How a layer's loss is estimated: from its rounding with searched "
            "scales, or also from the part of that which a short tuning of its "
            "block does not remove."
        ),
        Legal("fisher or measured"),
    ] = "fisher"
    iters: Annotated[
        Count, Field(description="Steps of that short tuning, for method measured."), COUNT
    ] = 20
    nsamples: Annotated[
        Count, Field(description="Calibration samples that layers are scored on, at most."), COUNT
    ] = 32
    fused: Annotated[
        Literal["auto"] | bool,
        Field(
            description="Give layers that serving engines merge (q, k, v; gate, up) one scheme; "
            "auto: for all formats but GGUF and MLX."
        ),
        Legal("auto, true or false"),
    ] = "auto"
    lm_head: Annotated[
        Literal["none"] | Annotated[int, Field(ge=LEGAL_BITS[0], le=16)],
        Field(description="Fewest bits that the output head may get; none leaves it to lm_head."),
        Legal(f"none or an integer from {LEGAL_BITS[0]} to 16"),
    ] = "none"
    scores: Annotated[
        Text,
        Field(description="File that scores are kept in, and reused from for other budgets."),
        Legal("none or the path of a .json file"),
    ] = "none"

    @property
    def budgets(self) -> dict[str, float]:
        """The budgets that are given, by key: bits, bytes or nats."""
        found: dict[str, float] = {}
        if self.avg_bits != "none":
            found["avg_bits"] = self.avg_bits
        if self.target_size != "none":
            found["target_size"] = parse_size(self.target_size)
        if self.max_kl != "none":
            found["max_kl"] = self.max_kl
        return found
