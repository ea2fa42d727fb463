"""The hyperparameters of a run, every ``auto`` settled."""

from __future__ import annotations

from dataclasses import dataclass

#: The streams of activations: of the original, of the model as far as it is quantized, and of the
#: original on samples that end-to-end tuning alone reads.
FULL, QUANTIZED, FRESH = "full", "quantized", "fresh"
#: How the rounding of a layer is initialised: V = 0, or GPTQ error compensation.
NEAREST, GPTQ = "nearest", "gptq"
#: The recipe's word for blocks that choose between the two.
BY_BLOCK = "by_block"


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """What ``auto`` came to on the machine of a run: results depend on both in their last bits.

    compute_dtype: type that blocks run in. threads: of the processor, for host work.
    """

    compute_dtype: str
    threads: int


@dataclass(frozen=True, slots=True)
class LayerTuning:
    """How the rounding of one layer is initialised and how fast it is tuned.

    init_rounding: ``nearest`` (round to nearest, V = 0) or ``gptq`` (GPTQ error compensation).
    lr: first learning rate of the rounding offsets V, in levels a step; it decays linearly to 0.
    minmax_lr: that of min_scale and max_scale; 0 where they are not tuned.
    """

    init_rounding: str = NEAREST
    lr: float = 0.0
    minmax_lr: float = 0.0


_NEAREST = LayerTuning()


@dataclass(frozen=True, slots=True)
class EndToEndSettings:
    """How the scales of the whole model are tuned together on the KL divergence of the logits.

    steps: 0 leaves this stage out. tune_codes: whether codes may move by a level, too.
    lrs: peak relative learning rate of the scales, by the bits of a layer. nsamples: fresh samples
    that steps and validation are taken on; 0 where they are those of the calibration.
    """

    steps: int = 0
    batch_size: int = 8
    tune_codes: bool = False
    lrs: tuple[tuple[int, float], ...] = ()
    nsamples: int = 0

    def lr(self, bits: int) -> float:
        """Return the peak learning rate of the scales of a grid."""
        return dict(self.lrs)[bits]


_LEFT_OUT = EndToEndSettings()


@dataclass(frozen=True, slots=True)
class TuningSettings:
    """The hyperparameters of a run with every ``auto`` settled; made by planning alone.

    compute_dtype: type that blocks run in. compiled: whether blocks are compiled for their tuning
    steps. attention: how transformers is to compute attention; empty for the model's own way.
    threads: of the processor, for host work. deterministic: whether torch is held to its
    deterministic algorithms.
    needs_data: whether calibration tokens are read at all. needs_input_statistics: whether second
    moments of the layers' inputs are collected. init_scale: ``search`` or ``minmax``.
    default, layers: of all layers, and of those that differ, by name. nearest: what ``default`` is
    in blocks that choose to be initialised at the nearest level; None where no block chooses.
    streams: activation streams that blocks hand on; with one, each block starts from the
    full-precision activations. forward_batch_size: samples at a time where no gradient is needed.
    non_block_layers: layers outside the blocks that are quantized by this run (GGUF files round
    their own). tuned_head: the one among them that is the lm-head and is tuned; empty for none.
    """

    compute_dtype: str = "float32"
    compiled: bool = False
    attention: str = ""
    threads: int = 0
    deterministic: bool = False
    needs_data: bool = False
    needs_input_statistics: bool = False
    init_scale: str = "minmax"
    default: LayerTuning = _NEAREST
    layers: tuple[tuple[str, LayerTuning], ...] = ()
    nearest: LayerTuning | None = None
    iters: int = 0
    tune_minmax: bool = True
    batch_size: int = 8
    grad_accum_steps: int = 1
    num_validations: int = 1
    validation_samples: int = 1
    quantized_inputs: bool = True
    streams: tuple[str, ...] = ()
    low_memory: bool = False
    forward_batch_size: int = 8
    nsamples: int = 0
    seqlen: int = 0
    seed: int = 0
    end_to_end: EndToEndSettings = _LEFT_OUT
    non_block_layers: tuple[str, ...] = ()
    tuned_head: str = ""

    @property
    def minmax_lr(self) -> float:
        """Learning rate of min_scale and max_scale that all layers have but those in ``layers``."""
        return self.default.minmax_lr

    def layer(self, name: str) -> LayerTuning:
        """Return the settings of one layer."""
        return dict(self.layers).get(name, self.default)

    @property
    def uses_gptq(self) -> bool:
        """Whether the rounding of some layer is initialised by GPTQ error compensation."""
        return any(x.init_rounding == GPTQ for x in (self.default, *dict(self.layers).values()))


#: Of a plan that is only described, such as that of a converted checkpoint: nothing is tuned.
UNTUNED = TuningSettings()
