"""Steps of a block: one by one, recorded, and compiled, by a run over one small set of samples."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch
from device_clock import peaks, synchronize
from part_clock import PartClock
from parts import watch
from phase_cases import Block, Case

from autoround.device.protocol import Step
from autoround.events import Event, StepDone
from autoround.model.skeleton import adopt_model
from autoround.pipeline import quantize_pass
from autoround.preparation import Request, open_session, prepare
from autoround.recipe.load import load_recipe

STEPS = 24
#: Batches of samples that a run has: enough that two are never the same.
BATCHES = 2
VOCAB = 256


def step_cases(block: Block) -> Iterator[Case]:
    """Yield the ways to do a step."""
    for way in ("one by one", "recorded", "recorded, compiled", "low memory"):
        if way == "recorded, compiled" and block.runtime.compiles_from() == float("inf"):
            continue
        yield f"step, {way}", partial(_steps, block, way)


class _Times:
    """Notes when each step is done."""

    def __init__(self, device: torch.device) -> None:
        self._device, self.at = device, list[float]()

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepDone):
            synchronize(self._device)
            self.at.append(time.perf_counter())

    @property
    def step(self) -> float:
        """The median seconds of a step, once recording and compiling are done."""
        spans = [after - before for before, after in zip(self.at, self.at[1:], strict=False)]
        return median(spans[len(spans) // 3 :])


def _steps(block: Block, way: str) -> dict[str, Any]:
    shape, low = block.shape, way == "low memory"
    recipe = load_recipe(
        "default",
        overrides=[
            *(f"scheme.group_size={shape.group}", "tuning.init_scale=minmax"),
            *(f"tuning.iters={8 if low else STEPS}", f"tuning.batch_size={shape.batch}"),
            *("tuning.init_rounding=nearest", "tuning.num_validations=1"),
            f"tuning.validation_samples={shape.batch}",
            f"tuning.compile={'true' if 'compiled' in way else 'false'}",
            f"tuning.low_memory={'true' if low else 'false'}",
            f"tuning.compute_dtype={'bfloat16' if block.runtime.own_memory else 'float32'}",
            f"calibration.nsamples={BATCHES * shape.batch}",
            f"calibration.seqlen={shape.seqlen}",
        ],
    )
    size = (BATCHES * shape.batch, shape.seqlen)
    ids = torch.randint(4, VOCAB, size, generator=torch.Generator().manual_seed(0))
    times, clock = _Times(block.device), PartClock(block.device)
    with _as_asked(block, way):
        request = Request(adopt_model(_model(block)), recipe, block.runtime, "random", None, ids)
        session = open_session(prepare(request, sink=times), sink=times)
        with watch(clock):
            quantize_pass(session, lambda output: None)
    notes = [note.text for note in block.runtime.notes() if "graph" in note.text]
    return {
        "wall_s": times.step,
        "tokens": shape.tokens,
        "until_second_step": times.at[1] - times.at[0],
        "parts": clock.seconds_by_part(),
        "graph": notes[0] if notes else "",
        **peaks(block.device),
    }


def _model(block: Block) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = block.shape
    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        num_hidden_layers=1,
        vocab_size=VOCAB,
        max_position_embeddings=shape.seqlen,
    )
    with torch.device(block.device):  # a processor would draw for long
        model = LlamaForCausalLM(config).bfloat16().eval()
    return model.to("cpu")


@contextmanager
def _as_asked(block: Block, way: str) -> Iterator[None]:
    """Let the runtime record steps or not, while the context lasts."""
    kind: Any = type(block.runtime)
    before = vars(kind).get("capture")
    if way == "one by one":

        def capture(self: object, step: Step, examples: object) -> Step:
            return step

        kind.capture = capture
    try:
        yield
    finally:
        if way == "one by one":
            if before is None:
                del kind.capture
            else:
                kind.capture = before
