"""Measure the live bytes of a device without one, beside what the plan says of its memory.

    python tools/bench/live_bytes.py [--case NAME ...] [--list] [--json]

Models of random weights are quantized on the toy device (launches.py), and every tensor there is
counted from when its memory is taken until it is given back (live.py). Widths are an eighth of
those of Llama-3.1-8B; tokens are chosen so that weights, or activations, make up most of the peak.
What an allocator rounds up, and what libraries take for themselves, is not seen.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import launches
import torch
from counting import Counter, Mode
from launches import CARD_BYTES, DENSE, ROOT, SCALE, VOCAB, scaled_limits
from live import LiveBytes, LiveRuntime, attention_in_one_kernel, register_kernels
from parts import watch

from autoround.model.skeleton import Skeleton, adopt_model
from autoround.pipeline import run
from autoround.planning.device_memory import ROUNDED_UP, device_peaks
from autoround.planning.estimate import make_estimate
from autoround.preparation import Request
from autoround.recipe.load import load_recipe
from autoround.types import Destination, RunResult

#: A mixture of 32 experts, an eighth of the widths of Qwen3-30B-A3B.
MIXTURE = {**launches.MIXTURE, "num_experts": 32, "num_experts_per_tok": 4}
#: Half the widths of the dense model, for cases of many tokens.
SIXTEENTH = {"hidden_size": 256, "intermediate_size": 896, "num_attention_heads": 16}


@dataclass(frozen=True)
class Case:
    """One run. settings: of the default recipe. blocks: of the model. card: bytes of the device."""

    samples: int
    seqlen: int
    batch: int
    settings: tuple[str, ...] = ()
    mixture: bool = False
    blocks: int = 2
    vocab: int = VOCAB
    widths: dict[str, int] = field(default_factory=dict)
    card: int = CARD_BYTES // SCALE


CASES = {
    "weights": Case(8, 16, 4),
    "activations": Case(32, 128, 32, widths=SIXTEENTH),
    "low memory": Case(8, 64, 4, ("tuning.low_memory=true",)),
    "mixture": Case(8, 64, 8, ("scheme.group_size=32",), mixture=True, blocks=1),
    "mixture, low memory": Case(
        *(8, 64, 8, ("scheme.group_size=32", "tuning.low_memory=true")), mixture=True, blocks=1
    ),
    "2 bits, GPTQ": Case(8, 32, 4, ("scheme.bits=2", "tuning.init_rounding=gptq")),
    "nearest, min-max": Case(
        8, 32, 4, ("tuning.init_rounding=nearest", "tuning.init_scale=minmax")
    ),
    "head": Case(4, 32, 4, ("lm_head.bits=4",), vocab=8192, blocks=1, widths=SIXTEENTH),
    "end to end": Case(8, 64, 4, ("end_to_end.steps=2", "end_to_end.batch_size=2")),
}


class LiveCounter(Counter):
    """Counts as ever, and hides what our kernels have no temporaries for."""

    def __init__(self, kind: str, live: LiveBytes) -> None:
        super().__init__(kind)
        self.live = live

    def _begin(self, modes: list[Mode]) -> None:
        super()._begin(modes)
        mode, silence = modes[-1], modes[-1].silence

        @contextmanager
        def hide() -> Iterator[None]:
            with silence(), self.live.one_kernel():
                yield

        mode.silence = hide  # type: ignore[method-assign]


@dataclass(frozen=True)
class Measured:
    """Bytes of a run. planned: of the plan. by_part: peaks. places: what was live at the peak."""

    peak: int
    planned: int
    by_part: dict[str, int]
    planned_by_phase: dict[str, int]
    places: dict[str, int]
    block_weights: int
    refusals: list[str]


def make_model(case: Case) -> Any:
    """Return a model of random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shared = {
        "vocab_size": case.vocab,
        "num_hidden_layers": case.blocks,
        "max_position_embeddings": max(64, case.seqlen),
        "tie_word_embeddings": False,
    }
    kind, widths = ("qwen3_moe", MIXTURE) if case.mixture else ("llama", DENSE)
    config = AutoConfig.for_model(kind, **{**shared, **widths, **case.widths})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def run_case(
    case: Case, folder: Path, *, live: LiveBytes
) -> tuple[RunResult, Skeleton, LiveRuntime]:
    """Quantize a model on the toy device while its bytes are counted."""
    recipe = load_recipe(
        "default",
        overrides=[
            "tuning.iters=2",
            f"tuning.batch_size={case.batch}",
            *("tuning.num_validations=1", f"tuning.validation_samples={case.batch}"),
            *(f"calibration.nsamples={case.samples}", f"calibration.seqlen={case.seqlen}"),
            *case.settings,
        ],
    )
    skeleton = adopt_model(make_model(case))
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(4, case.vocab, (case.samples, case.seqlen), generator=rng)
    counter = LiveCounter("toy", live)
    runtime = LiveRuntime(live, counter, torch.device("toy", 0), memory_bytes=case.card)
    request = Request(skeleton, recipe, runtime, "random", None, ids)
    toy_device: Any = importlib.import_module("tests.toy_device")
    toy_device.WATCHERS.append(live.watch)
    try:
        with scaled_limits(), counter.counting(), watch(live), attention_in_one_kernel(live):
            result = run(request, Destination(folder / "out"), sink=lambda event: None)
    finally:
        toy_device.WATCHERS.remove(live.watch)
    return result, skeleton, runtime


def measure(case: Case, *, listing: bool = False) -> Measured:
    """Run a case; returns its live bytes beside the plan's."""
    live = LiveBytes(listing=listing)
    with tempfile.TemporaryDirectory(prefix="live-bytes-") as folder:
        result, skeleton, runtime = run_case(case, Path(folder), live=live)
    estimate = make_estimate(result.plan, skeleton, runtime=runtime)
    peaks = device_peaks(result.plan, skeleton)
    streams = estimate.stream_bytes if estimate.streams_on_device else 0
    phases = {name: int(size / ROUNDED_UP) + streams for name, size in peaks.on(case.card).items()}
    weights = sum(a * b for a, b in (x.shape for x in result.plan.blocks[0].layers))
    return Measured(
        live.peak,
        max(phases.values()),
        dict(live.by_part),
        phases,
        live.at_peak,
        weights,
        sorted(set(runtime.refusals)),
    )


def show(name: str, measured: Measured) -> str:
    """Return a case's figures as lines for people."""
    weights = measured.block_weights
    lines = [
        f"{name}: {measured.peak / 1e6:.1f} MB live, planned {measured.planned / 1e6:.1f} MB "
        f"({measured.planned / measured.peak:.2f}); {measured.peak / weights:.1f} B a weight of a "
        f"block ({weights / 1e6:.2f} M)"
    ]
    lines += [
        f"  {part:20} {size / 1e6:9.1f} MB  {size / weights:6.1f} B"
        for part, size in sorted(measured.by_part.items(), key=lambda item: -item[1])
    ]
    lines += [
        f"  planned: {phase:45} {size / 1e6:9.1f} MB  {size / weights:6.1f} B"
        for phase, size in measured.planned_by_phase.items()
    ]
    total = sum(measured.places.values())
    for place, size in sorted(measured.places.items(), key=lambda item: -item[1])[:40]:
        if size > total / 200:
            lines.append(f"    {size / 1e6:9.2f} MB {size / weights:6.2f} B  {place}")
    return "\n".join([*lines, *(f"  not recorded: {reason}" for reason in measured.refusals)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print tables or lines of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--list", action="store_true", help="what is live at the peak, by place")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each case")
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    toy_device: Any = importlib.import_module("tests.toy_device")
    registered = toy_device.register(), register_kernels(toy_device)
    for name in options.case or CASES:
        measured = measure(CASES[name], listing=options.list)
        print(
            json.dumps({"case": name, **vars(measured)}) if options.json else show(name, measured)
        )
    del registered


if __name__ == "__main__":
    main()
