"""Count what a block asks of an accelerator, without one: launches, waits, bytes.

    python tools/bench/launches.py [--json] [--mixture] [--steps 8]

A model of an eighth of the widths of Llama-3.1-8B (with --mixture those of Qwen3-30B-A3B, all 128
experts of it) is quantized by the default recipe on a device that is none: numbers lie in the
host's memory, and every operation is seen. Limits that cut work into chunks are those of an 80 GB
card, scaled as the weights are. Counted is a block in the middle of a run: what a run of three
blocks has more than one of two. Times say nothing here; bytes and counts do.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from counting import Counter, Counts, as_json
from parts import watch
from toy_runtime import ToyRuntime

from autoround.core import search
from autoround.model.skeleton import adopt_model
from autoround.pipeline import run
from autoround.planning.estimate import layer_bytes
from autoround.preparation import Request
from autoround.recipe.load import load_recipe
from autoround.types import Destination, RunResult

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

ROOT = Path(__file__).resolve().parents[2]
#: Widths are an eighth, so weights, and what limits are in, are a 64th.
SCALE = 64
#: Memory of the card that is scaled.
CARD_BYTES = 80 << 30
SAMPLES, SEQLEN, BATCH = 16, 32, 8
VOCAB = 256
#: An eighth of the widths of Llama-3.1-8B.
DENSE = {
    "hidden_size": 512,
    "intermediate_size": 1792,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
#: And of Qwen3-30B-A3B, with all of its experts.
MIXTURE = {
    "hidden_size": 256,
    "moe_intermediate_size": 96,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
}
#: Widths in place of those of the scaled models, for tests.
WIDTHS: dict[str, int] = {}
#: The phases that are shown first, and those that show what is left.
PHASES = ("search", "hessian", "steps", "pack", "check", "streams")


def make_model(blocks: int, *, mixture: bool) -> Any:
    """Return a model of random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shared = {"vocab_size": VOCAB, "num_hidden_layers": blocks, "max_position_embeddings": 64}
    kind, widths = ("qwen3_moe", MIXTURE) if mixture else ("llama", DENSE)
    config = AutoConfig.for_model(kind, **{**shared, **widths, **WIDTHS})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def count_run(
    blocks: int, folder: Path, *, mixture: bool, steps: int
) -> tuple[dict[str, Counts], RunResult, list[str]]:
    """Quantize a model with so many blocks; returns counts by phase, the result, and refusals."""
    recipe = load_recipe(
        "default",
        overrides=[
            f"scheme.group_size={32 if mixture else 128}",
            f"tuning.iters={steps}",
            f"tuning.batch_size={BATCH}",
            *("tuning.num_validations=2", f"tuning.validation_samples={SAMPLES}"),
            *(f"calibration.nsamples={SAMPLES}", f"calibration.seqlen={SEQLEN}"),
        ],
    )
    model = make_model(blocks, mixture=mixture)
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(4, VOCAB, (SAMPLES, SEQLEN), generator=rng)
    counter = Counter("toy")
    runtime = ToyRuntime(counter, torch.device("toy", 0), memory_bytes=CARD_BYTES // SCALE)
    request = Request(adopt_model(model), recipe, runtime, "random", None, ids)
    with scaled_limits(), counter.counting(), watch(counter):
        result = run(request, Destination(folder / f"{blocks}"), sink=lambda event: None)
    return counter.by_phase(), result, runtime.refusals


@contextmanager
def scaled_limits() -> Iterator[None]:
    """Make the limits that cut work into chunks those of the scaled model."""
    names = ("CHUNK_ELEMENTS", "DEVICE_CHUNK_ELEMENTS")
    limits = {name: getattr(search, name) for name in names}
    try:
        for name, limit in limits.items():
            setattr(search, name, limit // SCALE)
        yield
    finally:
        for name, limit in limits.items():
            setattr(search, name, limit)


def count_block(*, mixture: bool, steps: int, before: int = 1) -> dict[str, Any]:
    """Count a block in the middle of a run.

    Args:
        mixture: whether it has experts. steps: of tuning.
        before: blocks that come before it; 0 counts the first one of a run of two.

    Returns:
        Counts by phase, the bytes of the block's packed layers, and why steps were not recorded.
    """
    with tempfile.TemporaryDirectory(prefix="launches-") as folder:
        runs = [
            count_run(blocks, Path(folder), mixture=mixture, steps=steps)
            for blocks in (before + 1, before + 2)
        ]
    (fewer, _, _), (more, result, refusals) = runs
    for phase in {*fewer, *more}:
        more[phase].add(fewer[phase], -1)
    plan = result.plan
    packing = plan.outputs[0].packing
    packed = sum(layer_bytes(layer, packing) for layer in plan.blocks[before].quantized)
    return {
        "model": "qwen3-30b-a3b / 8" if mixture else "llama-3.1-8b / 8",
        "block_weights": sum(prod(layer.shape) for layer in plan.blocks[before].quantized),
        "tokens": SAMPLES * SEQLEN,
        "steps": steps,
        "packed_bytes": packed,
        "phases": as_json(more),
        "refusals": sorted(set(refusals)),
    }


def table(figures: dict[str, Any]) -> str:
    """Return counts as lines for people."""
    columns = ("launches", "in_graphs", "syncs", "to_host_bytes", "disk_bytes")
    lines = ["".join([f"{'':10}", *(f"{name:>15}" for name in columns)])]
    counts = figures["phases"]
    for phase in [*PHASES, *(name for name in counts if name not in PHASES)]:
        row = counts.get(phase, dict.fromkeys(columns, 0))
        lines.append("".join([f"{phase:10}", *(f"{row[name]:>15,}" for name in columns)]))
    lines.append(f"{figures['model']}: {figures['packed_bytes']:,} bytes of packed layers")
    return "\n".join([*lines, *(f"not recorded: {reason}" for reason in figures["refusals"])])


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Count, and print a table or one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--mixture", action="store_true", help="128 experts a block")
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    toy_device: Any = importlib.import_module("tests.toy_device")
    registered = toy_device.register()
    figures = count_block(mixture=options.mixture, steps=options.steps)
    del registered
    print(json.dumps(figures) if options.json else table(figures))
    return figures


if __name__ == "__main__":
    main()
