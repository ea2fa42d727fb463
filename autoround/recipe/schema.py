"""The keys of a recipe: their types, defaults and legal values, and nothing else.

Types are strict: text is never read as a number, nor a boolean as an integer.
Every key carries a description and the words for its legal values, which the
error messages and docs/recipes.md repeat.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, get_args

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr

from autoround.recipe.allocate import AllocateOptions
from autoround.recipe.document import resolve_plain
from autoround.recipe.end_to_end import EndToEndOptions
from autoround.recipe.evaluation import EvaluationOptions
from autoround.recipe.layers import HeadOptions, LayerRule, SchemeOptions
from autoround.recipe.section import Section
from autoround.recipe.values import (
    BOOL,
    COUNT,
    LAYER_WORDS,
    RATE,
    Count,
    Layer,
    Legal,
    Rate,
    Text,
    Unicode,
    as_tuple,
    check_size,
    parse_size,
)

DType: TypeAlias = Literal["auto", "float16", "bfloat16", "float32"]

#: Types that ``output.dtype`` may name; auto keeps each tensor as the model stores it.
LEGAL_DTYPES: tuple[DType, ...] = get_args(DType)
#: More threads than any machine has cores: a mistake, and memory for their stacks.
MAX_THREADS = 1024


def _check_formats(text: str) -> str:
    # Which formats there are is for planning to say: other packages bring their own.
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not name:
            raise ValueError("a name is empty")
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is named twice")
    return ",".join(names)


def _joined(value: object) -> object:
    """Let a list of formats be written as one, too."""
    texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return ",".join(value) if texts and isinstance(value, list) else value


class TuningOptions(Section):
    """How rounding and scales are tuned, block by block."""

    iters: Annotated[
        int,
        Field(ge=0, description="Tuning steps per block; 0 does not tune."),
        Legal("an integer of at least 0"),
    ] = 200
    lr: Annotated[
        Rate,
        Field(
            description="Learning rate of the rounding offsets, decaying to 0; auto is 1/iters, "
            "twice that at 2 bits, and a fifth of it where GPTQ initialises a layer."
        ),
        RATE,
    ] = "auto"
    minmax_lr: Annotated[
        Rate, Field(description="Learning rate of min_scale and max_scale; auto is lr."), RATE
    ] = "auto"
    batch_size: Annotated[Count, Field(description="Samples per forward pass."), COUNT] = 8
    gradient_accumulate_steps: Annotated[
        Count, Field(description="Forward passes whose gradients make one step."), COUNT
    ] = 1
    low_memory: Annotated[
        bool,
        Field(
            description="Take the least memory of the device: samples go through a block one at a "
            "time, and all that can wait waits in the host's memory. Slower; the same result but "
            "for the order of sums."
        ),
        BOOL,
    ] = False
    tune_minmax: Annotated[
        bool, Field(description="Tune min_scale and max_scale of each group as well."), BOOL
    ] = True
    init_scale: Annotated[
        Literal["minmax", "search"],
        Field(
            description="Initial scales: from the range of each group, or by a search for the "
            "least error weighted by importance (imatrix)."
        ),
        Legal("minmax or search"),
    ] = "search"
    init_rounding: Annotated[
        Literal["auto", "nearest", "gptq", "by_block"],
        Field(
            description="Initial rounding: to the nearest level, by GPTQ error compensation, or "
            "by_block: by GPTQ in blocks where its loss is far lower. auto is, above 2 bits, "
            "by_block with 100 steps or more, gptq with fewer; otherwise nearest. Stacked experts "
            "stay at the nearest level."
        ),
        Legal("auto, nearest, gptq or by_block"),
    ] = "auto"
    quantized_inputs: Annotated[
        bool,
        Field(description="Feed a block the outputs of the quantized blocks before it."),
        BOOL,
    ] = True
    num_validations: Annotated[
        Count,
        Field(
            description="Validations per block, of which the one with the least loss says which "
            "iterate is kept."
        ),
        COUNT,
    ] = 5
    validation_samples: Annotated[
        Count, Field(description="Samples of a validation, the same ones each time."), COUNT
    ] = 16
    compute_dtype: Annotated[
        DType,
        Field(
            description="Type blocks are run in; auto is bfloat16 where the device multiplies it "
            "faster, which a CPU's instructions say."
        ),
        Legal(" or ".join(LEGAL_DTYPES)),
    ] = "auto"
    threads: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_THREADS)],
        Field(
            description="Threads of the processor; auto is its physical cores, within a "
            "container's quota and what torch was given."
        ),
        Legal(f"auto or an integer from 1 to {MAX_THREADS}"),
    ] = "auto"
    deterministic: Annotated[
        bool,
        Field(
            description="Hold torch to its deterministic algorithms; an operation that has none "
            "ends the run. A CPU needs it for nothing."
        ),
        BOOL,
    ] = False
    compile: Annotated[
        Literal["auto"] | bool,
        Field(
            description="Compile blocks for their many steps (torch.compile); auto does where "
            "16-bit steps on a CPU are long enough to be worth it."
        ),
        Legal("auto, true or false"),
    ] = "auto"


class CalibrationOptions(Section):
    """Which text the model reads while it is quantized."""

    dataset: Annotated[
        Text | Annotated[tuple[Text, ...], Field(min_length=1)],
        BeforeValidator(as_tuple),
        Field(description="Source of the text, or a list of sources."),
        Legal("text or a list of texts, none of them empty", item="text that is not empty"),
    ] = "NeelNanda/pile-10k"
    images: Annotated[
        Text,
        Field(description="File of images and text to calibrate on in place of the dataset."),
        Legal("none or the path of a .jsonl file"),
    ] = "none"
    nsamples: Annotated[Count, Field(description="Samples read."), COUNT] = 128
    seqlen: Annotated[Count, Field(description="Tokens per sample."), COUNT] = 2048

    _dataset_named: bool = PrivateAttr(False)

    def __eq__(self, other: object) -> bool:
        """Compare what is read, whoever named it."""
        return isinstance(other, CalibrationOptions) and self.__dict__ == other.__dict__

    @property
    def dataset_named(self) -> bool:
        """Whether somebody chose the dataset: no built-in recipe, and not the default."""
        return self._dataset_named or self.dataset != type(self)().dataset

    def note_named_dataset(self) -> None:
        """Note that the dataset was asked for."""
        self._dataset_named = True


class OutputOptions(Section):
    """What is written."""

    format: Annotated[
        str,
        BeforeValidator(_joined),
        AfterValidator(_check_formats),
        Field(description="Layout on disk; several, separated by commas, go into sub-folders."),
        Legal("the name of a format, or several separated by commas"),
    ] = "auto_round"
    dtype: Annotated[
        DType,
        Field(description="Type of the tensors that are kept; auto leaves the model's own."),
        Legal(" or ".join(LEGAL_DTYPES)),
    ] = "auto"
    max_shard_size: Annotated[
        int | str,
        AfterValidator(check_size),
        Field(description="Size above which the weights are split into several files."),
        Legal("bytes as an integer of at least 1, or a size such as 500MB or 5GB"),
    ] = "5GB"

    _format_origin: str = PrivateAttr("")

    def __eq__(self, other: object) -> bool:
        """Compare what is written, wherever it was asked for."""
        return isinstance(other, OutputOptions) and self.__dict__ == other.__dict__

    @property
    def format_origin(self) -> str:
        """Where the format was written: a file and line, or the words of a command line."""
        return self._format_origin

    def place_format(self, origin: str) -> None:
        """Note where the format was written, for messages of whoever resolves it."""
        self._format_origin = origin

    @property
    def formats(self) -> tuple[str, ...]:
        """The names of the formats to write."""
        return tuple(self.format.split(","))

    @property
    def max_shard_bytes(self) -> int:
        """The size of a shard in bytes."""
        return parse_size(self.max_shard_size)


class Recipe(Section):
    """All that a user decides about a quantization, whatever the model and the device."""

    description: Annotated[
        Unicode,
        Field(description="What the recipe is for; not inherited through extends."),
        Legal("text"),
    ] = ""
    scheme: Annotated[SchemeOptions, Field(description="How the weights are held.")] = (
        SchemeOptions()
    )
    layers: Annotated[
        tuple[LayerRule, ...],
        BeforeValidator(as_tuple),
        Field(description="Rules for some of the layers; the last one that fits a layer decides."),
        Legal("a list of rules, each a mapping", entries=LayerRule),
    ] = ()
    ignore: Annotated[
        tuple[Layer, ...],
        BeforeValidator(as_tuple),
        Field(description="Layers kept in 16 bit."),
        Legal(
            f"a list, each entry {LAYER_WORDS}",
            item=LAYER_WORDS,
        ),
    ] = ()
    lm_head: Annotated[HeadOptions, Field(description="How the output head is held.")] = (
        HeadOptions()
    )
    quantize_vision: Annotated[
        bool,
        Field(description="Round the layers of vision and audio towers too, by searched scales."),
        BOOL,
    ] = False
    allow_partial: Annotated[
        bool,
        Field(
            description="Quantize a model although more than a third of the weights of its blocks "
            "stay in 16 bit."
        ),
        BOOL,
    ] = False
    tuning: Annotated[TuningOptions, Field(description="How rounding and scales are tuned.")] = (
        TuningOptions()
    )
    allocate: Annotated[
        AllocateOptions,
        Field(description="How bits are given to layers under a budget, by what each costs."),
    ] = AllocateOptions()
    end_to_end: Annotated[
        EndToEndOptions,
        Field(
            description="How the scales of the whole model are tuned end to end, after the blocks."
        ),
    ] = EndToEndOptions()
    calibration: Annotated[
        CalibrationOptions, Field(description="Which text the model reads while quantized.")
    ] = CalibrationOptions()
    evaluation: Annotated[
        EvaluationOptions, Field(description="How the quality of the result is measured.")
    ] = EvaluationOptions()
    output: Annotated[OutputOptions, Field(description="What is written.")] = OutputOptions()
    seed: Annotated[
        int,
        Field(ge=0, lt=2**32, description="Seed of every random choice of a run."),
        Legal("an integer from 0 to 4294967295"),
    ] = 42

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain dicts, lists and scalars, in the order of the schema."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Write the recipe as YAML that loads back to an equal recipe."""
        return yaml.dump(
            self.to_dict(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=96
        )


#: Line breaks of YAML 1.1 beside the usual ones.
_LINE_BREAKS = frozenset("\x85\u2028\u2029")


class _Dumper(yaml.SafeDumper):
    """Writes what this package reads: texts that look like our numbers are quoted."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = None if isinstance(resolve_plain(text), str) else "'"
        if _LINE_BREAKS.intersection(text):
            # The emitter writes these raw outside double quotes, and they read back as spaces.
            style = '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def keys_of(section: type[Section]) -> dict[str, type[Section] | Legal]:
    """Return the keys of a section, each with its section class or its legal values."""
    keys: dict[str, type[Section] | Legal] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys[name] = field.annotation
        else:
            keys[name] = next(item for item in field.metadata if isinstance(item, Legal))
    return keys


def field_paths(section: type[Section] = Recipe, prefix: str = "") -> dict[str, Legal]:
    """Return the dotted path of every key that holds a value, with its legal values.

    Keys of the entries of a list follow the list: ``layers[].bits``.
    """
    paths: dict[str, Legal] = {}
    for name, kind in keys_of(section).items():
        if not isinstance(kind, Legal):
            paths.update(field_paths(kind, f"{prefix}{name}."))
            continue
        paths[prefix + name] = kind
        if kind.entries is not None:
            assert issubclass(kind.entries, Section)
            paths.update(field_paths(kind.entries, f"{prefix}{name}[]."))
    return paths
