"""Compare tuning by the C kernels with tuning by plain torch, for machines without a compiler.

    python tools/bench/fallback.py [--steps 8] [--tokens 2048] [--turns 3]

A block in the shape of SmolLM2-135M with random weights is tuned by both, in turns, in the dtype
that this machine multiplies fastest in and in float32. Counted is the processor time of a step of
one thread, the least of all turns: it does not count what others do on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from autoround.core.ops import Ops, TorchOps
from autoround.device.registry import open_device
from autoround.events import Event, StepDone
from autoround.model.skeleton import adopt_model
from autoround.pipeline import quantize_pass
from autoround.preparation import Request, open_session, prepare
from autoround.recipe.load import load_recipe

SAMPLES, BATCH = 16, 8


@dataclass
class Clock:
    """Notes the processor time at each step."""

    at: list[float] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepDone):
            self.at.append(time.process_time())

    @property
    def least(self) -> float:
        """The seconds of the quickest step; the first one warms up."""
        return min(b - a for a, b in zip(self.at, self.at[1:], strict=False))


class Plain:
    """The runtime of the CPU with plain operations."""

    def __init__(self, runtime: Any, ops: Ops) -> None:
        self._runtime, self.ops = runtime, ops

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)


def step_seconds(model: Any, dtype: str, ops: Ops, *, steps: int, tokens: int) -> float:
    """Tune the block of a model and return the seconds of a step."""
    recipe = load_recipe(
        "default",
        overrides=[
            *("scheme.group_size=64", f"tuning.iters={steps}", "tuning.init_scale=minmax"),
            *(f"tuning.batch_size={BATCH}", f"tuning.compute_dtype={dtype}"),
            *("tuning.num_validations=1", f"tuning.validation_samples={BATCH}"),
            *(f"calibration.nsamples={SAMPLES}", f"calibration.seqlen={tokens // BATCH}"),
        ],
    )
    ids = torch.randint(4, 1000, (SAMPLES, tokens // BATCH), generator=torch.Generator())
    clock = Clock()
    runtime: Any = Plain(open_device("cpu"), ops)
    request = Request(adopt_model(model), recipe, runtime, "random", None, ids)
    session = open_session(prepare(request, sink=clock), sink=clock)
    quantize_pass(session, lambda output: None)
    return clock.least


def main() -> None:
    """Print one line of JSON for each dtype."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=1,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=1024,
    )
    model = LlamaForCausalLM(config).eval()
    runtime = open_device("cpu")
    compiled, plain = runtime.ops, TorchOps()
    if isinstance(compiled, type(plain)) and type(compiled) is TorchOps:
        raise SystemExit("there is no compiler here, so there is nothing to compare")
    fastest = str(runtime.speeds()[0].dtype).removeprefix("torch.")
    for dtype in dict.fromkeys((fastest, "float32")):
        found: dict[str, list[float]] = {"compiled": [], "plain": []}
        for _ in range(given.turns):
            for name, ops in (("compiled", compiled), ("plain", plain)):
                seconds = step_seconds(model, dtype, ops, steps=given.steps, tokens=given.tokens)
                found[name].append(seconds)
        least = {name: round(min(seconds), 4) for name, seconds in found.items()}
        speed = round(least["compiled"] / least["plain"], 3)
        about = {"dtype": dtype, "tokens": given.tokens, "threads": torch.get_num_threads()}
        print(json.dumps({**about, **least, "speed of plain": speed}))


if __name__ == "__main__":
    main()
