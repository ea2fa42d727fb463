"""Predict the seconds of a block on a GPU, on paper: arithmetic over counted launches and shapes.

    python tools/bench/predict.py [--shape llama-3.1-8b] [--json]

Nothing is run. Launches and waits of a phase are those that ``tools/bench/launches.py`` counts
(they do not depend on widths); operations and bytes are those of the shapes; a card is what it was
measured to reach, or a share of its data sheet, as ``CARDS`` says. What comes of it is a prediction
to hold a measurement against, and no measurement. ``tools/bench/phases.py`` measures the phases.
"""

from __future__ import annotations

import argparse
import json
from typing import NamedTuple

from autoround.recipe.load import load_recipe

RECIPES = ("default", "light", "turbo", "flash")


class Card(NamedTuple):
    """What a card reaches: operations and bytes a second, and what a launch and a wait take."""

    short_flops: float
    float32_flops: float
    #: Of factorisations, whose steps wait for each other.
    factor_flops: float
    memory: float
    bus: float
    launch: float
    wait: float


#: An H100: products of a step reached 0.70e15 there, float32 48e12 (docs/backends.md); factors a
#: third of that, memory 0.72 of the data sheet's 3.35e12, and pinned copies half of PCIe 5's.
CARDS = {"h100": Card(0.70e15, 48e12, 16e12, 2.4e12, 25e9, 5e-6, 20e-6)}


class Shape(NamedTuple):
    """A block: its layers as (inputs, outputs, how many, share of the tokens), and its model.

    Layers with the same number in ``reads`` have one input, and so one Hessian and one factor; GPTQ
    initialises those that stand once, and not stacked experts.
    """

    layers: tuple[tuple[int, int, int, float], ...]
    reads: tuple[int, ...]
    hidden: int
    blocks: int
    attention: int


def _llama(hidden: int, kv: int, inner: int, blocks: int) -> Shape:
    layers = ((hidden, hidden, 1, 1.0), *[(hidden, kv, 1, 1.0)] * 2, (hidden, hidden, 1, 1.0))
    mlp = ((hidden, inner, 1, 1.0), (hidden, inner, 1, 1.0), (inner, hidden, 1, 1.0))
    return Shape((*layers, *mlp), (0, 0, 0, 1, 2, 2, 3), hidden, blocks, hidden)


SHAPES = {
    "llama-3.1-8b": _llama(4096, 1024, 14336, 32),
    "llama-3.1-70b": _llama(8192, 1024, 28672, 80),
    "qwen3-30b-a3b": Shape(
        (
            *((2048, 4096, 1, 1.0), (2048, 512, 1, 1.0), (2048, 512, 1, 1.0)),
            *((4096, 2048, 1, 1.0), (2048, 768, 128, 8 / 128), (2048, 768, 128, 8 / 128)),
            (768, 2048, 128, 8 / 128),
        ),
        (0, 0, 0, 1, 2, 2, 3),
        *(2048, 48, 4096),
    ),
}
#: Launches and waits of a block by phase: dense, and a mixture.
COUNTED = {
    "search": ((49, 0), (42, 0)),
    "hessian": ((412, 1), (328, 1)),
    "steps": ((538, 3), (565, 3)),
    "scores": ((421, 0), (421, 0)),
    "forward": ((238, 0), (238, 0)),
    "pack": ((233, 2), (216, 2)),
}
#: Operations on each weight that the search for a symmetric scale of 4 bits takes.
SEARCH_OPERATIONS = 1228
#: Bytes a weight: fake-quantize reads 6 and writes 4, its backward 14, the sign step 12.
STEP_BYTES = 36
#: Seconds of a column of GPTQ: a kernel that waits for the column before it.
COLUMN = 1.25e-6
#: Saved streams may cost this share of the time.
STREAM_SHARE = 1 / 20
#: The four bytes of float32 and two of bfloat16, codes and scales written and read again.
PACK_BYTES = 24


def predict(shape: Shape, card: Card, *, recipe: str) -> dict[str, float]:
    """Predict the seconds of a block in the middle of a run, by phase.

    Args:
        shape: of the block.
        card: what it reaches.
        recipe: its name.
    """
    settings = load_recipe(recipe)
    tuning, seqlen = settings.tuning, settings.calibration.seqlen
    weights = sum(inputs * outputs * count for inputs, outputs, count, _ in shape.layers)

    def forward(tokens: float) -> float:
        products = sum(2.0 * i * o * count * share for i, o, count, share in shape.layers)
        # Of what is masked a fused attention computes nothing.
        return tokens * (products + 2.0 * seqlen * shape.attention) / card.short_flops

    def host_seconds(phase: str) -> float:
        launches, waits = COUNTED[phase][shape.layers[-1][2] > 1]
        return launches * card.launch + waits * card.wait

    tokens = float(settings.calibration.nsamples * seqlen)
    iters, batch = tuning.iters, tuning.batch_size * seqlen
    validations = (tuning.num_validations + 1) if iters else 0
    inputs = {
        read: layer[0]
        for read, layer in zip(shape.reads, shape.layers, strict=True)
        if layer[2] == 1
    }
    seconds = {
        "forward of the original": forward(tokens) + host_seconds("forward"),
        "hessian": sum(n * n * tokens for n in inputs.values()) / card.short_flops
        + sum(2 / 3 * n**3 for n in inputs.values()) / card.factor_flops
        + host_seconds("hessian"),
        "search": weights * SEARCH_OPERATIONS / (card.float32_flops / 2) + host_seconds("search"),
        "gptq": _gptq_seconds(shape, card, inputs),
        "steps": iters * (3 * forward(batch) + STEP_BYTES * weights / card.memory)
        + (host_seconds("steps") if iters else 0.0),
        "scores": validations * 2 * forward(tuning.validation_samples * seqlen)
        + (host_seconds("scores") if iters else 0.0),
        "forward of the result": forward(tokens) + host_seconds("forward"),
        "pack": PACK_BYTES * weights / card.memory
        + weights * 0.53 / card.bus
        + host_seconds("pack"),
    }
    # Samples are copied to where the recording reads, and the next block's weights.
    seconds["steps"] += iters * 4.0 * batch * shape.hidden * 2 / card.memory
    seconds["streams"] = STREAM_SHARE * sum(seconds.values())
    return seconds


def _gptq_seconds(shape: Shape, card: Card, inputs: dict[int, int]) -> float:
    rows = dict.fromkeys(inputs, 0)
    for read, (_, outputs, count, _) in zip(shape.reads, shape.layers, strict=True):
        if count == 1:
            rows[read] += outputs
    products = sum(rows[read] * width * width for read, width in inputs.items())
    return products / card.float32_flops + sum(inputs.values()) * COLUMN


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--card", choices=CARDS, default="h100")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shape, card = SHAPES[options.shape], CARDS[options.card]
    rows = {name: predict(shape, card, recipe=name) for name in RECIPES}
    if options.json:
        print(json.dumps({"shape": options.shape, "card": options.card, "seconds": rows}))
        return
    print("| phase | " + " | ".join(RECIPES) + " |")
    print("|---" * (len(RECIPES) + 1) + "|")
    for phase in rows[RECIPES[0]]:
        print(f"| {phase} | " + " | ".join(f"{rows[name][phase]:.2f}" for name in RECIPES) + " |")
    totals = [sum(rows[name].values()) for name in RECIPES]
    print("| **a block** | " + " | ".join(f"**{total:.1f}**" for total in totals) + " |")
    minutes = [total * shape.blocks / 60 for total in totals]
    print(f"| {shape.blocks} blocks, minutes | " + " | ".join(f"{m:.1f}" for m in minutes) + " |")


if __name__ == "__main__":
    main()
