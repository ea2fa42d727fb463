"""The keys that say how weights are held: one scheme for all, the head's, and rules for some."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from autoround.recipe.ranges import ALL, LEGAL_BLOCKS, check_blocks
from autoround.recipe.section import Section
from autoround.recipe.values import BOOL, LAYER_WORDS, Layer, Legal, as_tuple
from autoround.types import LEGAL_BITS, PER_CHANNEL, Scheme

AUTO = "auto"
#: A rule about layers of any kind.
ANY = "any"
#: Kinds of layers that a rule may speak of; experts are feed-forward layers too.
Kind: TypeAlias = Literal["any", "attention", "mlp", "experts", "lm_head", "embeddings"]
#: Block types of GGUF, and float16.
GgufType: TypeAlias = Literal[
    "auto",
    "f16",
    "q4_0",
    "q4_1",
    "q5_0",
    "q5_1",
    "q8_0",
    "q2_k",
    "q3_k",
    "q4_k",
    "q5_k",
    "q6_k",
]
_BITS = f"an integer from {LEGAL_BITS[0]} to {LEGAL_BITS[-1]}"
_SIZES = "an integer of at least 1, -1 (one scale per channel) or 0 (one per tensor)"


def _check_bits(bits: int) -> int:
    if bits != 16 and bits not in LEGAL_BITS:
        raise ValueError(f"{bits} bits are not to be had")
    return bits


class SchemeOptions(Section):
    """How the weights are held."""

    bits: Annotated[
        int,
        Field(ge=LEGAL_BITS[0], le=LEGAL_BITS[-1], description="Bits per weight."),
        Legal(_BITS),
    ] = 4
    group_size: Annotated[
        int,
        Field(
            ge=PER_CHANNEL,
            description="Neighbouring weights of a row that share one scale.",
        ),
        Legal(_SIZES),
    ] = 128
    sym: Annotated[
        bool,
        Field(description="Symmetric grid (no zero points) rather than asymmetric."),
        BOOL,
    ] = True

    def as_scheme(self) -> Scheme:
        """Return the scheme as the value that the layers below the recipe share."""
        return Scheme(bits=self.bits, group_size=self.group_size, sym=self.sym)


class HeadOptions(Section):
    """How the output head is held."""

    bits: Annotated[
        Literal["auto"] | Annotated[int, AfterValidator(_check_bits)],
        Field(
            description="Bits per weight of the output head; 16 keeps it as it is, auto is those "
            "of the scheme."
        ),
        Legal(f"auto, 16, or {_BITS}"),
    ] = 16
    group_size: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=PER_CHANNEL)],
        Field(description="Weights of the head that share one scale; auto is that of the scheme."),
        Legal(f"auto, {_SIZES}"),
    ] = "auto"

    def as_scheme(self, scheme: SchemeOptions) -> Scheme | None:
        """Return the head's scheme, None where it is kept; symmetric as the others are."""
        bits = scheme.bits if self.bits == AUTO else self.bits
        if bits not in LEGAL_BITS:
            return None
        size = scheme.group_size if self.group_size == AUTO else self.group_size
        return Scheme(bits=int(bits), group_size=int(size), sym=scheme.sym)


class LayerRule(Section):
    """One rule: which layers it speaks of, and how these are held."""

    match: Annotated[
        Layer | tuple[Layer, ...],
        BeforeValidator(as_tuple),
        Field(description="Names of the layers; an empty list leaves names out of it."),
        Legal(f"{LAYER_WORDS}, or a list of these", item=LAYER_WORDS),
    ] = ()
    kind: Annotated[
        Kind,
        Field(description="What the layers do in their block, or which one outside they are."),
        Legal(", ".join(get_args(Kind)[:-1]) + f" or {get_args(Kind)[-1]}"),
    ] = "any"
    blocks: Annotated[
        int | str | tuple[int | str, ...],
        BeforeValidator(as_tuple),
        AfterValidator(check_blocks),
        Field(description="Which decoder blocks, counted from 0."),
        Legal(LEGAL_BLOCKS, item=LEGAL_BLOCKS.removesuffix(", or a list of these")),
    ] = "all"
    bits: Annotated[
        Literal["auto"] | Annotated[int, AfterValidator(_check_bits)],
        Field(
            description="Bits per weight; 16 keeps the layers as they are, auto is the scheme's."
        ),
        Legal(f"auto, 16, or {_BITS}"),
    ] = "auto"
    group_size: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=PER_CHANNEL)],
        Field(description="Weights that share one scale; auto is that of the scheme."),
        Legal(f"auto, {_SIZES}"),
    ] = "auto"
    sym: Annotated[
        Literal["auto"] | bool,
        Field(description="Symmetric grid or not; auto is that of the scheme."),
        Legal("auto, true or false"),
    ] = "auto"
    type: Annotated[
        GgufType,
        Field(description="Type of the tensors in GGUF files, which the other formats pass over."),
        Legal(", ".join(get_args(GgufType)[:-1]) + f" or {get_args(GgufType)[-1]}"),
    ] = "auto"
    _origin: str = PrivateAttr("")

    @model_validator(mode="after")
    def _whole(self) -> LayerRule:
        """Refuse a rule that names nothing, says nothing, or contradicts itself."""
        if self.patterns == () and self.kind == ANY and self.blocks in (ALL, ()):
            raise ValueError(
                "a rule says which layers it is about, by match, kind or blocks; for all of them "
                "there is scheme"
            )
        given = (self.bits, self.group_size, self.sym, self.type)
        if all(value == AUTO for value in given):
            raise ValueError("a rule sets at least one of bits, group_size, sym and type")
        if self.bits == 16 and (self.group_size != AUTO or self.sym != AUTO):
            raise ValueError("weights kept in 16 bits have neither group_size nor sym")
        if self.bits == 16 and self.type not in (AUTO, "f16"):
            raise ValueError(f"bits: 16 and type: {self.type} contradict each other")
        if self.kind in ("lm_head", "embeddings") and self.blocks != ALL:
            raise ValueError(f"kind: {self.kind} lies outside the blocks; leave blocks out")
        if self.kind == "embeddings" and given[:3] not in (("auto",) * 3, (16, "auto", "auto")):
            raise ValueError(
                "embeddings stay in 16 bits in all formats but GGUF, where type sets them"
            )
        return self

    @model_serializer(mode="wrap")
    def _short(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the keys that say nothing, so that a resolved recipe can be read."""
        found: dict[str, Any] = whole(self)
        fields = type(self).model_fields
        return {key: found[key] for key in found if getattr(self, key) != fields[key].default}

    def __eq__(self, other: object) -> bool:
        """Compare what rules say, wherever they stand."""
        return isinstance(other, LayerRule) and self.__dict__ == other.__dict__

    @property
    def patterns(self) -> tuple[str, ...]:
        """The names, globs and regexes that it is about."""
        return (self.match,) if isinstance(self.match, str) else self.match

    @property
    def forms(self) -> tuple[int | str, ...]:
        """The forms of ``blocks``."""
        return self.blocks if isinstance(self.blocks, tuple) else (self.blocks,)

    @property
    def origin(self) -> str:
        """Where the rule was written: a file and line, or the words of a command line."""
        return self._origin

    def place(self, origin: str) -> None:
        """Note where the rule was written, for messages."""
        self._origin = origin

    @property
    def plain(self) -> bool:
        """Whether it says anything to formats other than GGUF."""
        return any(value != AUTO for value in (self.bits, self.group_size, self.sym))

    @property
    def gguf_type(self) -> str:
        """The type it sets in GGUF files, empty for none."""
        if self.type != AUTO:
            return self.type
        return "f16" if self.bits == 16 else ""

    def as_scheme(self, scheme: SchemeOptions) -> Scheme | None:
        """Return the scheme of its layers, None where they are kept in 16 bits."""
        bits = scheme.bits if self.bits == AUTO else self.bits
        if bits not in LEGAL_BITS:
            return None
        size = scheme.group_size if self.group_size == AUTO else self.group_size
        sym = scheme.sym if self.sym == AUTO else bool(self.sym)
        return Scheme(bits=int(bits), group_size=int(size), sym=sym)

    def __str__(self) -> str:
        """Say which layers it is about."""
        parts = []
        if self.patterns:
            more = f" and {len(self.patterns) - 1} more" if len(self.patterns) > 1 else ""
            parts.append(f"{self.patterns[0]!r}{more}")
        if self.kind != ANY:
            parts.append(self.kind)
        if self.blocks != ALL:
            named = ", ".join(map(str, self.forms))
            parts.append(named if any(c.isalpha() for c in named) else f"blocks {named}")
        return ", ".join(parts)
