"""Every ``auto`` of a recipe, settled once before a run: hyperparameters, dtype, streams, data.

What comes out is a :class:`autoround.settings.TuningSettings`. It is part of the plan, printed by
``plan``, hashed into the fingerprint of a run; nothing that works on blocks reads a recipe.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from autoround.core.dtypes import DTYPES
from autoround.core.end_to_end import VALIDATION_SAMPLES, learning_rate_for
from autoround.device.protocol import Runtime, device_name
from autoround.errors import RecipeError
from autoround.recipe.schema import Recipe
from autoround.settings import (
    BY_BLOCK,
    FULL,
    GPTQ,
    NEAREST,
    QUANTIZED,
    EndToEndSettings,
    LayerTuning,
    MachineSettings,
    TuningSettings,
)
from autoround.types import BlockPlan

#: Bits up to which steps from the nearest level gain more than GPTQ initialisation gives them.
FEW_BITS = 2
#: Steps from which most blocks gain more from the nearest level, so that each chooses.
MANY_STEPS = 100
#: Steps times their first learning rate, in levels; the rate decays to 0. At few bits most
#: roundings are open, so that offsets travel further; from a GPTQ initialisation such rates lose
#: what it has found.
TRAVEL = 1.0
TRAVEL_FEW_BITS = 2.0
TRAVEL_FROM_GPTQ = 0.2
#: Tokens of a sample up to which plain products, compiled, are the fastest attention on a CPU:
#: torch's kernel has a slow backward there, which grows by the token, theirs by its square.
EAGER_ATTENTION_TOKENS = 128
#: Fresh samples that auto takes at most, and tokens in them: streams of activations grow by each.
MOST_FRESH, MOST_FRESH_TOKENS = 1024, 1 << 19


def settle(
    recipe: Recipe,
    runtime: Runtime,
    *,
    blocks: Sequence[BlockPlan],
    interrupted: MachineSettings | None = None,
    non_block_layers: Iterable[str] = (),
    head: str = "",
    tunes_scales: bool = True,
) -> TuningSettings:
    """Settle the hyperparameters of one pass over the blocks.

    Args:
        recipe: what the user asked for.
        runtime: the device.
        blocks: the blocks as planned, for the work that compiling is held against.
        interrupted: what an interrupted run had settled by its machine; the recipe's values win.
        non_block_layers: layers outside the blocks that this pass quantizes.
        head: path of the lm-head.
        tunes_scales: whether the outputs hold scales that end-to-end tuning can change; GGUF
            types encode theirs.

    Raises:
        RecipeError: the recipe wants compiled blocks, and the device cannot compile.
    """
    tuning, calibration = recipe.tuning, recipe.calibration
    non_block_layers = tuple(non_block_layers)
    reads_data, layers = needs_data(recipe), settle_layers(recipe, blocks)
    dtype = _compute_dtype(recipe, runtime, interrupted)
    compiled = compiles_blocks(recipe, runtime, blocks=blocks, compute_dtype=dtype)
    return TuningSettings(
        compute_dtype=dtype,
        compiled=compiled,
        attention=_attention(recipe, runtime, compiled=compiled),
        threads=settle_threads(recipe, runtime, interrupted),
        deterministic=tuning.deterministic,
        needs_data=reads_data,
        needs_input_statistics=needs_input_statistics(recipe, layers),
        init_scale=tuning.init_scale,
        default=settle_layer(recipe),
        layers=layers,
        nearest=settle_layer(recipe, stacked=True) if chooses_by_block(recipe) else None,
        iters=tuning.iters,
        tune_minmax=tuning.tune_minmax,
        batch_size=tuning.batch_size,
        grad_accum_steps=tuning.gradient_accumulate_steps,
        num_validations=tuning.num_validations,
        validation_samples=tuning.validation_samples,
        quantized_inputs=tuning.quantized_inputs,
        # With full-precision inputs every block starts from the one stream that is left.
        streams=(FULL, QUANTIZED) if tuning.quantized_inputs else (FULL,),
        low_memory=tuning.low_memory,
        forward_batch_size=1 if tuning.low_memory else tuning.batch_size,
        nsamples=calibration.nsamples,
        seqlen=calibration.seqlen,
        seed=recipe.seed,
        end_to_end=_end_to_end(recipe, blocks) if tunes_scales else EndToEndSettings(),
        non_block_layers=non_block_layers,
        tuned_head=head if reads_data and head in non_block_layers else "",
    )


def _compute_dtype(recipe: Recipe, runtime: Runtime, interrupted: MachineSettings | None) -> str:
    """Return the dtype to run blocks in: the recipe's, or the one that its device prefers."""
    if recipe.tuning.compute_dtype != "auto":
        return recipe.tuning.compute_dtype
    if interrupted is not None:
        return interrupted.compute_dtype
    return str(runtime.speeds()[0].dtype).removeprefix("torch.")


def _attention(recipe: Recipe, runtime: Runtime, *, compiled: bool) -> str:
    """Return what transformers calls the attention to compute with; empty for the model's own."""
    short = recipe.calibration.seqlen <= EAGER_ATTENTION_TOKENS
    return "eager" if compiled and short and not runtime.own_memory else ""


def settle_threads(
    recipe: Recipe, runtime: Runtime, interrupted: MachineSettings | None = None
) -> int:
    """Return how many threads host work gets: the recipe's, or as many as the device sets.

    Args:
        recipe: what the user asked for.
        runtime: the device.
        interrupted: what an interrupted run had settled, taken over by its continuation.
    """
    if recipe.tuning.threads != "auto":
        return recipe.tuning.threads
    if interrupted is not None:
        return interrupted.threads
    with runtime.computing():
        return torch.get_num_threads()


def settle_layer(recipe: Recipe, *, stacked: bool = False) -> LayerTuning:
    """Settle the rounding initialisation and learning rates of a layer.

    They go by the bits of the recipe's scheme, whatever the layer's are: beside 2-bit layers those
    of 4 bits, too, make up for large errors of their inputs, and gain from large rates.

    Args:
        recipe: what the user asked for.
        stacked: whether experts lie in one tensor: they have no Hessians, and are never
            initialised by GPTQ.
    """
    tuning = recipe.tuning
    gptq = not stacked and inits_by_gptq(recipe)
    lr = learning_rate(recipe, gptq=gptq)
    minmax_lr = lr if tuning.minmax_lr == "auto" or not tuning.iters else tuning.minmax_lr
    return LayerTuning(GPTQ if gptq else NEAREST, lr, minmax_lr if tuning.tune_minmax else 0.0)


def settle_layers(
    recipe: Recipe, blocks: Sequence[BlockPlan]
) -> tuple[tuple[str, LayerTuning], ...]:
    """Settle the layers of other settings than most have: experts, where most begin by GPTQ.

    Args:
        recipe: what the user asked for.
        blocks: as planned.

    Returns:
        Names and settings, in the order of the blocks.
    """
    default, stacked = settle_layer(recipe), settle_layer(recipe, stacked=True)
    if stacked == default:
        return ()
    layers = [layer for block in blocks for layer in block.quantized]
    return tuple((layer.name, stacked) for layer in layers if layer.experts)


def inits_by_gptq(recipe: Recipe) -> bool:
    """Tell whether rounding is initialised by GPTQ error compensation, in some blocks at least.

    Args:
        recipe: what the user asked for.
    """
    init_rounding = recipe.tuning.init_rounding
    if init_rounding == "auto":
        return recipe.tuning.iters > 0 and recipe.scheme.bits > FEW_BITS
    return init_rounding == GPTQ or chooses_by_block(recipe)


def chooses_by_block(recipe: Recipe) -> bool:
    """Tell whether each block chooses between GPTQ and the nearest level.

    Args:
        recipe: what the user asked for.
    """
    init_rounding, iters = recipe.tuning.init_rounding, recipe.tuning.iters
    if init_rounding == "auto":
        return iters >= MANY_STEPS and recipe.scheme.bits > FEW_BITS
    return init_rounding == BY_BLOCK and iters > 0


def learning_rate(recipe: Recipe, *, gptq: bool) -> float:
    """Return the first learning rate of rounding offsets, in levels; 0 without tuning.

    Args:
        recipe: what the user asked for.
        gptq: whether the layer's rounding is initialised by GPTQ.
    """
    tuning = recipe.tuning
    if tuning.iters == 0:
        return 0.0
    if tuning.lr != "auto":
        return tuning.lr
    if gptq:
        return TRAVEL_FROM_GPTQ / tuning.iters
    return (TRAVEL if recipe.scheme.bits > FEW_BITS else TRAVEL_FEW_BITS) / tuning.iters


def needs_input_statistics(recipe: Recipe, layers: Iterable[tuple[str, LayerTuning]] = ()) -> bool:
    """Tell whether scales or roundings are initialised by second moments of the inputs.

    Args:
        recipe: what the user asked for.
        layers: with settings of their own.
    """
    settings = (settle_layer(recipe), *(layer for _, layer in layers))
    return recipe.tuning.init_scale == "search" or any(x.init_rounding == GPTQ for x in settings)


def needs_data(recipe: Recipe) -> bool:
    """Tell whether a recipe reads activations: pure round-to-nearest does not."""
    tunes = recipe.tuning.iters > 0 or recipe.end_to_end.steps > 0
    return needs_input_statistics(recipe) or tunes or bool(recipe.allocate.budgets)


def fresh_samples(recipe: Recipe) -> int:
    """Return the samples that end-to-end tuning wants to itself: auto is those that steps take.

    Args:
        recipe: what the user asked for.
    """
    options = recipe.end_to_end
    if not options.steps:
        return 0
    if options.nsamples != "auto":
        return options.nsamples
    most = min(MOST_FRESH, max(1, MOST_FRESH_TOKENS // recipe.calibration.seqlen))
    return min(most, options.steps * options.batch_size) + VALIDATION_SAMPLES


def _end_to_end(recipe: Recipe, blocks: Sequence[BlockPlan]) -> EndToEndSettings:
    """Settle the learning rate of scales for each width of grid that the blocks have."""
    options = recipe.end_to_end
    if not options.steps:
        return EndToEndSettings()
    layers = [layer for block in blocks for layer in block.quantized]
    widths = sorted({layer.scheme.bits for layer in layers if layer.scheme is not None})
    lrs = tuple(
        (bits, learning_rate_for(bits) if options.lr == "auto" else options.lr) for bits in widths
    )
    return EndToEndSettings(
        options.steps, options.batch_size, options.tune_codes, lrs, fresh_samples(recipe)
    )


def compiles_blocks(
    recipe: Recipe, runtime: Runtime, *, blocks: Sequence[BlockPlan], compute_dtype: str
) -> bool:
    """Tell whether to compile blocks for their tuning steps.

    Nothing here is measured, so that a resumed run computes as it did before. In float32
    products take most of a step, and fusing the rest gains little; what experts do depends on
    their tokens, and would trigger recompilation on every batch.

    Raises:
        RecipeError: the recipe wants it, and the device cannot.
    """
    asked = recipe.tuning.compile
    # Rounding without data runs no block.
    if asked is False or not needs_data(recipe):
        return False
    if asked is True:
        if runtime.compiles_from() == float("inf"):
            raise RecipeError(
                f"tuning.compile: {device_name(runtime)} compiles nothing here (a CPU needs a C++ "
                "compiler on the path, other devices need Triton): leave it at auto"
            )
        return True
    layers = [layer for block in blocks for layer in block.layers]
    if DTYPES[compute_dtype] == torch.float32 or any(layer.experts for layer in layers):
        return False
    return _operations(recipe, blocks) >= runtime.compiles_from()


def _operations(recipe: Recipe, blocks: Sequence[BlockPlan]) -> float:
    """Count roughly the operations in compiled blocks: tuning steps and the quantized stream."""
    weights = sum(math.prod(layer.shape) for block in blocks for layer in block.layers)
    tuning, end_to_end = recipe.tuning, recipe.end_to_end
    samples = tuning.iters * tuning.batch_size * tuning.gradient_accumulate_steps
    visits = 4.0 * weights * samples + 8.0 * weights * end_to_end.steps * end_to_end.batch_size
    forward = recipe.calibration.nsamples * tuning.quantized_inputs + fresh_samples(recipe)
    visits += 2.0 * weights * forward
    return visits * recipe.calibration.seqlen
