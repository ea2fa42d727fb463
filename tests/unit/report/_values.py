"""Plans and results to report on, written out by hand."""

from __future__ import annotations

import dataclasses

from autoround.planning.hyperparameters import fresh_samples, settle_layer
from autoround.recipe.load import load_recipe
from autoround.settings import EndToEndSettings, TuningSettings
from autoround.types import BlockPlan, BlockResult, Estimate, LayerPlan, OutputPlan, Plan, Scheme

SCHEME = Scheme(4, 128, True)


def layer(name: str, reason: str = "", scheme: Scheme | None = SCHEME) -> LayerPlan:
    rows = 8 if reason else 64
    return LayerPlan(name, (rows, 128), None if reason else scheme, reason)


BLOCKS = (
    BlockPlan(0, "h.0", (layer("h.0.q"), layer("h.0.gate", "a router"), layer("h.0.down"))),
    BlockPlan(1, "h.1", (layer("h.1.q"), layer("h.1.gate", "a router"), layer("h.1.odd", "odd"))),
)
ESTIMATE = Estimate(
    disk_bytes=25_000_000,
    source_bytes=100_000_000,
    memory_bytes=2_500_000_000,
    seconds_low=80.0,
    seconds_high=600.0,
    bits_per_weight=4.125,
)


def plan(*, values: dict[str, object] | None = None, notes: tuple[str, ...] = ()) -> Plan:
    recipe = load_recipe("default", values=values)
    end_to_end = recipe.end_to_end
    return Plan(
        model="my/model",
        architecture="ToyForCausalLM",
        blocks=BLOCKS,
        kept=(layer("lm_head", "outside the decoder blocks"),),
        recipe=recipe.to_dict(),
        outputs=(OutputPlan("auto_round", "auto_round:auto_gptq", "bfloat16"),),
        dtype="bfloat16",
        device="cpu",
        calibration="some text, 4 × 16 tokens",
        notes=notes,
        tuning=TuningSettings(
            init_scale=recipe.tuning.init_scale,
            default=dataclasses.replace(settle_layer(recipe), minmax_lr=0.005),
            iters=recipe.tuning.iters,
            num_validations=5,
            validation_samples=16,
            threads=2,
            end_to_end=EndToEndSettings(
                end_to_end.steps,
                end_to_end.batch_size,
                end_to_end.tune_codes,
                nsamples=fresh_samples(recipe),
            ),
        ),
    )


RESULT = BlockResult(
    index=0,
    name="h.0",
    loss_before=0.01234,
    loss_after=0.00456,
    seconds=30.0,
    steps=200,
    best_step=160,
    peak_bytes=1_500_000_000,
)


def result(index: int, **changes: float) -> BlockResult:
    return dataclasses.replace(RESULT, index=index, name=f"h.{index}", **changes)  # type: ignore[arg-type]
