"""Frozen values that travel between the layers; no behaviour lives here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoround.settings import UNTUNED, TuningSettings

if TYPE_CHECKING:
    import torch

#: Bits per weight that an integer grid may have.
LEGAL_BITS = (2, 3, 4, 5, 6, 7, 8)
#: Group sizes that stand for "one group per output channel", and "one for the whole tensor".
PER_CHANNEL, PER_TENSOR = -1, 0
#: An expert that fewer calibration tokens came to is not tuned: it keeps its searched scales.
FEW_TOKENS = 64
#: Kind of a scheme whose groups have one float16 scale each.
PLAIN = "int"
#: Name of the unit of a run that holds the layers outside the blocks.
NON_BLOCK = "outside the blocks"


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one weight is held: bits, weights per scale, symmetric or not.

    kind: the block type of GGUF that says how scales are held; plain ones are float16.
    """

    bits: int
    group_size: int
    sym: bool
    kind: str = PLAIN

    def __str__(self) -> str:
        if self.kind != PLAIN:
            return self.kind.upper()
        group = {PER_CHANNEL: "channel", PER_TENSOR: "tensor"}.get(
            self.group_size, f"g{self.group_size}"
        )
        return f"W{self.bits} {group} {'sym' if self.sym else 'asym'}"


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """What happens to one weight matrix.

    ``name`` is the path of its module in the model; of stacked experts, that of the parameter.
    ``scheme`` is None for a layer kept in 16 bit, and ``reason`` then says why.
    ``shape`` is (out_features, in_features) whatever the storage order;
    ``transposed`` marks storage as [in, out] (the Conv1D of GPT-2).
    experts: how many matrices are stacked in it, 0 for a single one; out_features counts the
    rows of all. files: modules it is written as, ``{}`` for the expert; empty for its own name.
    interleaved: their rows take turns. block: path of the block it is in; empty outside of them.
    """

    name: str
    shape: tuple[int, int]
    scheme: Scheme | None
    reason: str = ""
    transposed: bool = False
    bias: bool = False
    experts: int = 0
    files: tuple[str, ...] = ()
    interleaved: bool = False
    block: str = ""

    @property
    def tensor(self) -> str:
        """The name of the weight itself: stacked experts are a parameter of their module."""
        return self.name if self.experts else f"{self.name}.weight"

    @property
    def path(self) -> str:
        """The path of the module inside its block."""
        return self.name[len(self.block) + 1 :] if self.block else self.name

    @property
    def param(self) -> str:
        """The name of the weight inside its block."""
        return self.tensor[len(self.block) + 1 :] if self.block else self.tensor

    @property
    def file(self) -> str:
        """The module that a layer by itself is written as."""
        return self.files[0] if self.files else self.name

    @property
    def parts(self) -> int:
        """The number of matrices that each expert is written as."""
        return max(1, len(self.files)) if self.experts else 1


@dataclass(frozen=True, slots=True)
class KeptTensor:
    """A weight of the blocks that is no layer's matrix: its own shape, and why it is kept."""

    name: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """One decoder block: its module path and its layers in module order."""

    index: int
    name: str
    layers: tuple[LayerPlan, ...]

    @property
    def quantized(self) -> tuple[LayerPlan, ...]:
        """The layers that get a scheme."""
        return tuple(layer for layer in self.layers if layer.scheme is not None)

    @property
    def quantized_tensors(self) -> frozenset[str]:
        """The weights that get a scheme, by the model's own names."""
        return frozenset(layer.tensor for layer in self.quantized)

    def by_param(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Name tensors of this block as they are called inside it."""
        return {name.removeprefix(self.name + "."): tensor for name, tensor in tensors.items()}


@dataclass(frozen=True, slots=True)
class Expected:
    """What a model expects of its checkpoint.

    shapes: (out, in) of every linear layer by name. tied: parameters that are another one
    too, which alone is stored. prefix: of its names, which checkpoints of the bare decoder lack.
    """

    shapes: dict[str, tuple[int, int]]
    tied: dict[str, str]
    prefix: str


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """One format to write: its packing, the dtype of kept tensors, and its folder.

    ``folder`` is relative to the output folder; empty when there is only one format. types: of a
    GGUF file, modules whose tensors have another type than its rules give them.
    """

    format: str
    packing: str
    dtype: str
    folder: str = ""
    types: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RulePlan:
    """What one rule of a recipe did in a plan.

    index: its place among the rules. text: the layers it is about. matched: how many those are.
    decided: how many of them no later rule decides about; weights: in these.
    schemes: how these are held, and how many are held so.
    """

    index: int
    text: str
    matched: int
    decided: int
    weights: int
    schemes: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class EngineFinding:
    """What one serving engine does with one format of a plan, or with some of its layers.

    engine: its name in the table of engines. version, looked_at: what was looked at, and the day.
    format: of the output. effect: takes, refuses, slow, reads otherwise or unknown. says: what
    happens. instead: what to choose, or the command that serves a format that is taken. evidence:
    run, loaded (and compared) or source (read). rule: of the table; empty for the format as such.
    on: the machines, empty for all. before: the version that ends it, where it is about earlier
    ones than that looked at. layers: how many matrices, 0 for all. example: one of them.
    """

    engine: str
    version: str
    looked_at: str
    format: str
    effect: str
    says: str
    instead: str
    evidence: str
    rule: str = ""
    on: str = ""
    before: str = ""
    layers: int = 0
    example: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe resolved against a model: everything that will be done, before it is.

    further: plans of other passes over the blocks, for formats whose grids differ.
    rules: what the recipe's rules for some of the layers did.
    tuning: the hyperparameters of this pass.
    kept_tensors: large weights of the blocks that are no matrices of layers.
    stored_in_float32: unquantized tensors that are written in float32 beside others in 16 bit.
    computed_in_float32: those among them that blocks are run with in float32.
    streams: of the hidden width that a token has between blocks; one but in a few models.
    why_not_by_block: why the model's blocks cannot be run one by one; empty where they can.
    runs_on_text: whether a small copy of the model's class was run on tokens alone.
    revision: the commit of a model from the hub; None for any other.
    serving: what serving engines do with the formats of all passes; advice, not part of the run.
    """

    model: str
    architecture: str
    blocks: tuple[BlockPlan, ...]
    kept: tuple[LayerPlan, ...]
    recipe: dict[str, Any]
    outputs: tuple[OutputPlan, ...]
    dtype: str
    device: str
    calibration: str
    tensors: int = 0
    notes: tuple[str, ...] = ()
    further: tuple[Plan, ...] = ()
    rules: tuple[RulePlan, ...] = ()
    tuning: TuningSettings = UNTUNED
    kept_tensors: tuple[KeptTensor, ...] = ()
    stored_in_float32: tuple[str, ...] = ()
    computed_in_float32: tuple[str, ...] = ()
    streams: int = 1
    why_not_by_block: str = ""
    runs_on_text: bool = False
    revision: str | None = None
    serving: tuple[EngineFinding, ...] = ()

    @property
    def compute_dtype(self) -> str:
        """The type that blocks run in."""
        return self.tuning.compute_dtype

    @property
    def compiled(self) -> bool:
        """Whether blocks are compiled for their tuning steps."""
        return self.tuning.compiled

    @property
    def float32(self) -> frozenset[str]:
        """The unquantized tensors that are written in float32, by the model's own names."""
        return frozenset(self.stored_in_float32)

    @property
    def unquantized(self) -> dict[str, str]:
        """The matrices that stay in 16 bit, and why."""
        return {x.name: x.reason for x in self.layers if x.scheme is None}

    @property
    def layers(self) -> tuple[LayerPlan, ...]:
        """All matrices: those of the blocks, then those that lie outside."""
        return (*(layer for block in self.blocks for layer in block.layers), *self.kept)

    @property
    def passes(self) -> tuple[Plan, ...]:
        """This plan and the further ones, each without those."""
        return (dataclasses.replace(self, further=()), *self.further)

    @property
    def all_outputs(self) -> tuple[OutputPlan, ...]:
        """The outputs of all passes."""
        return tuple(output for plan in self.passes for output in plan.outputs)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will cost: exact bytes on disk, peak memory and a range of seconds.

    memory_bytes: of the host. device_bytes: of a device of its own memory, device_phase: when;
    low_device_bytes: with low_memory. stream_bytes: of all chains of activations, counted in
    device_bytes where they are there, else in memory_bytes unless on the disk. journal: whether
    finished blocks may be kept; journal_bytes: on the disk meanwhile. codes_on_disk: tuning the
    whole model unpacks a block at a time; graphs_held: it runs each once a step. bits_per_weight:
    on the disk, of the first format's quantized layers; block_bits: of all. fetched_bytes: of the
    hub's cache at once; peak_bytes_on_disk: with journal and output, else 0. probed: timed parts.
    """

    disk_bytes: int
    source_bytes: int
    memory_bytes: int
    seconds_low: float
    seconds_high: float
    bits_per_weight: float
    device_bytes: int = 0
    stream_bytes: int = 0
    journal_bytes: int = 0
    streams_on_disk: bool = False
    streams_on_device: bool = False
    codes_on_disk: bool = False
    graphs_held: bool = False
    block_bits: float = 0.0
    fetched_bytes: int = 0
    peak_bytes_on_disk: int = 0
    journal: bool = True
    device_phase: str = ""
    low_device_bytes: int = 0
    probed: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """One quantized weight, carried as integers from the quantizer to the packers.

    codes: uint8 [out, in], values 0 … 2**bits - 1. scale: float16 [out, groups]; may be negative in
    the symmetric full-range grid. zero: uint8 [out, groups]; 2**(bits-1) everywhere when symmetric.
    One scale a tensor: [1, 1]. Dequantized weight: scale * (codes - zero), groups along ``in``.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    scheme: Scheme


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What tuning one block did, losses measured on the same fixed samples.

    kind: ``block``, or ``non_block`` for layers outside the blocks, last. expert_tokens: of every
    expert, by module. layer_errors: ||W - Wq|| / ||W||. peak_reserved_bytes: with what the device's
    allocator holds. micro_batch, streams_on_host: what fitted: 0 for all samples at a time.
    init_rounding: what the block chose, ``nearest`` or ``gptq``; empty where it had no choice.
    """

    index: int
    name: str
    loss_before: float
    loss_after: float
    seconds: float
    steps: int
    best_step: int
    peak_bytes: int
    expert_tokens: dict[str, tuple[int, ...]] = field(default_factory=dict)
    kind: str = "block"
    layer_errors: dict[str, float] = field(default_factory=dict)
    peak_reserved_bytes: int = 0
    micro_batch: int = 0
    streams_on_host: bool = False
    init_rounding: str = ""


@dataclass(frozen=True, slots=True)
class EvalResult:
    """Quality of a model on a text; KL in nats per token against the original."""

    perplexity: float
    tokens: int
    reference_perplexity: float | None = None
    kl: float | None = None
    top1_agreement: float | None = None


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a run writes, and by which means.

    folder: of the output. resume: go on where an interrupted run ended. restart: discard what it
    left. max_memory: bytes; what exceeds them goes to the disk. work_dir: for activations there, in
    place of the journal. stream_hub: fetch the files of a hub model one by one, and delete each
    when done with it. journal: keep what is finished; without, a stopped run begins anew.
    """

    folder: Path
    resume: bool = False
    restart: bool = False
    max_memory: int | None = None
    work_dir: Path | None = None
    stream_hub: bool = False
    journal: bool = True


@dataclass(frozen=True, slots=True)
class RunResult:
    """Outcome of one quantization run; peaks are of the device, as of a block's result."""

    output_dir: Path
    plan: Plan
    blocks: tuple[BlockResult, ...]
    seconds: float
    tuning_seconds: float
    peak_bytes: int
    disk_bytes: int
    bits_per_weight: float
    evaluation: EvalResult | None = None
    peak_reserved_bytes: int = 0
