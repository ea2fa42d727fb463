"""Plan models too large to be here: memory and time by the shapes of published configs.

    python tools/bench/shapes.py [--model NAME ...] [--card GB] [--markdown]

Modules are made on meta, so nothing is downloaded and no weight exists. What is printed is what
``autoround plan`` says of such a model on a card of that size; nothing of it was run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from autoround.device.protocol import Memory, Speed
from autoround.device.runtime import TorchRuntime
from autoround.model.blocks import decoder_blocks, tied_names
from autoround.model.files.source import ModuleSource
from autoround.model.names import SavedNames
from autoround.model.skeleton import Skeleton
from autoround.planning.device_memory import ROUNDED_UP, device_peaks
from autoround.planning.estimate import make_estimate
from autoround.planning.plan import make_plan
from autoround.recipe.load import load_recipe

#: Measured on an H100 for a block's own products, in bfloat16: docs/benchmarks.md.
FLOPS = 7e14
GIGA = 10**9
_LLAMA = {"num_key_value_heads": 8, "tie_word_embeddings": False}
_MOE = {"tie_word_embeddings": False, "decoder_sparse_step": 1, "norm_topk_prob": True}


class Published(NamedTuple):
    """A config as published. kind: of transformers. sizes: its keys."""

    kind: str
    sizes: dict[str, Any]


MODELS = {
    "Llama-3.1-8B": Published(
        "llama",
        {
            **_LLAMA,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 128256,
        },
    ),
    "Llama-3.1-70B": Published(
        "llama",
        {
            **_LLAMA,
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "vocab_size": 128256,
        },
    ),
    "Qwen2.5-72B": Published(
        "qwen2",
        {
            **_LLAMA,
            "hidden_size": 8192,
            "intermediate_size": 29568,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "vocab_size": 152064,
        },
    ),
    "Qwen3-30B-A3B": Published(
        "qwen3_moe",
        {
            **_MOE,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "vocab_size": 151936,
        },
    ),
    "Qwen3-Next-80B-A3B": Published(
        "qwen3_next",
        {
            **_MOE,
            "hidden_size": 2048,
            "intermediate_size": 5120,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "num_hidden_layers": 48,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 32,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "num_experts": 512,
            "num_experts_per_tok": 10,
            "vocab_size": 151936,
        },
    ),
    "Qwen3-235B-A22B": Published(
        "qwen3_moe",
        {
            **_MOE,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "moe_intermediate_size": 1536,
            "num_hidden_layers": 94,
            "num_attention_heads": 64,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "vocab_size": 151936,
        },
    ),
}


class Card(TorchRuntime):
    """A card of a size, as far as a plan asks: nothing runs on it."""

    def __init__(self, total: int) -> None:
        super().__init__("card", torch.device("meta"))
        self.own_memory, self._total = True, total

    def speeds(self) -> tuple[Speed, ...]:
        """Say that 16 bit is fast."""
        return Speed(torch.bfloat16, FLOPS), Speed(torch.float32, FLOPS / 16)

    def memory(self) -> Memory:
        """Return that all of it is free."""
        return Memory(self._total, self._total)


class Row(NamedTuple):
    """Figures of one plan; bytes, and seconds from and to.

    alone: least that the device needs. phase: when. device: on the card, with activations and a
    recording where they fit. phases: peaks by phase, alone.
    """

    model: str
    low_memory: bool
    block_weights: int
    alone: int
    phase: str
    device: int
    host: int
    streams: int
    seconds: tuple[float, float]
    phases: dict[str, int]


def make_skeleton(published: Published) -> Skeleton:
    """Return a model of a config, on meta."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(published.kind, **published.sizes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    source, tied = ModuleSource(model), tied_names(model)
    keys = {name: name for name in source.headers() if name not in tied}
    return Skeleton(
        model=model,
        config=config,
        source=source,
        blocks=tuple(decoder_blocks(model)),
        keys=keys,
        unmapped=(),
        tied=tied,
        folder=None,
        names=SavedNames(model),
    )


def plan_model(
    name: str, skeleton: Skeleton, *, low_memory: bool, card: int, recipe: str = "default"
) -> Row:
    """Plan a model of the table; returns its figures."""
    runtime = Card(card)
    settings = load_recipe(recipe, overrides=[f"tuning.low_memory={str(low_memory).lower()}"])
    plan = make_plan(settings, skeleton, runtime=runtime, calibration="", model=name)
    estimate = make_estimate(plan, skeleton, runtime=runtime)
    alone = dict(device_peaks(plan, skeleton).alone)
    phase = max(alone, key=lambda each: alone[each])
    weights = max(sum(x.shape[0] * x.shape[1] for x in b.layers) for b in plan.blocks)
    return Row(
        name,
        low_memory,
        weights,
        alone[phase],
        phase,
        estimate.device_bytes,
        estimate.memory_bytes,
        estimate.stream_bytes,
        (estimate.seconds_low, estimate.seconds_high),
        alone,
    )


def show(row: Row, *, markdown: bool) -> str:
    """Return a plan's figures as a line."""
    low, high = (seconds / 60 for seconds in row.seconds)
    cells = [
        row.model,
        "low memory" if row.low_memory else "default",
        f"{row.block_weights / 1e6:,.0f} M",
        f"{row.alone / GIGA:.1f}",
        row.phase,
        f"{row.device / GIGA:.1f}",
        f"{row.host / GIGA:.1f}",
        f"{row.streams / GIGA:.1f}",
        f"{low:.0f} to {high:.0f}",
    ]
    return f"| {' | '.join(cells)} |" if markdown else "  ".join(cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Plan models, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--card", type=float, default=80, help="GB of the card")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--phases", action="store_true", help="peaks by phase, with nothing kept")
    options = parser.parse_args(arguments)
    for name in options.model or MODELS:
        skeleton = make_skeleton(MODELS[name])
        for low in (False, True):
            row = plan_model(name, skeleton, low_memory=low, card=int(options.card * GIGA))
            print(show(row, markdown=options.markdown), flush=True)
            for phase, size in row.phases.items() if options.phases else ():
                print(f"    {size / ROUNDED_UP / GIGA:8.2f} GB live while {phase}")


if __name__ == "__main__":
    main()
